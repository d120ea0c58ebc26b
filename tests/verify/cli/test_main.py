"""The command `jaxbp verify`, mostly as a shell runs it."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxbp.verify.cli import main as command
from jaxbp.verify.cli import options

RULES = """
import jax
import jax.numpy as jnp
from jaxbp.verify.case import Case

def _rule(factor):
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    def backward(residuals, dy):
        x, w = residuals
        return dy @ w.T, factor * (x.T @ dy)

    product.defvjp(lambda x, w: (x @ w, (x, w)), backward)
    return product

right, wrong = _rule(1.0), _rule(2.0)

def plain(x, w):
    return x @ w

def power(x, n=2, mode="relu"):
    return jnp.where(x > 0, x, 0.0) ** n if mode == "relu" else x**n

class Namespace:
    rule = right

number = 3
CASES = [
    Case("right", right, ("f32[2,3]", "f32[3,4]")),
    Case("cubed", power, ("f32[4]",), {"n": 3, "mode": "plain"}),
]
WRONG = Case("twice", wrong, ("f32[2,3]", "f32[3,4]"))
REFUSED = Case("refused", right, ("f32[2,3]", "f32[5,4]"))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("command")
    (path / "rules.py").write_text(RULES)
    (path / "bad_cases.py").write_text(
        "from rules import CASES, REFUSED, WRONG\nCASES = [*CASES, REFUSED, WRONG]\n"
    )
    (path / "refused_cases.py").write_text(
        "from rules import CASES, REFUSED\nCASES = [CASES[0], REFUSED]\n"
    )
    (path / "raises.py").write_text("x = 1\nraise OSError('no disk,\\n  no bread')\n")
    (path / "exits.py").write_text("import sys\nsys.exit('bye')\n")
    (path / "no_cases.py").write_text("CASES = [1]\n")
    (path / "lazy.py").write_text("def __getattr__(name):\n    raise ImportError(f'no {name}')\n")
    (path / "undrawn_cases.py").write_text(
        "from jaxbp.verify.case import Case\n"
        "CASES = [Case('large', abs, ('f32[9999999999,9999999999]',)), Case('none', abs, None)]\n"
    )
    (path / "quick_cases.py").write_text(
        "from jaxbp.verify.case import Case\ndef quick(x):\n    return x\n"
        "CASES = [Case('one', quick, ('f32[2]',)), Case('two', quick, ('f32[3]',))]\n"
    )
    (path / "letters.py").write_text("def größe(x):\n    return x\n", encoding="utf-8")
    (path / "slow_cases.py").write_text(
        "import time\nfrom jaxbp.verify.case import Case\n"
        "def slow(x):\n    print('started', flush=True)\n    time.sleep(60)\n    return x\n"
        "def quick(x):\n    return x\n"
        "CASES = [Case('quick', quick, ('f32[2]',)), Case('slow', slow, ('f32[3]',))]\n"
    )
    return path


@pytest.fixture
def shell(directory):
    """Run `python -m jaxbp ...` in the directory of the rules."""

    def run(*words, **environment):
        return subprocess.run(
            [sys.executable, "-m", "jaxbp", *map(str, words)],
            cwd=directory,
            env=_environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def _environment(**more):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **more}


ARRAYS = ("f32[2,3]", "f32[3,4]")
ARGS = ("--args", *ARRAYS)
QUICK = ("--checks", "structure", "gradient")


def test_a_right_rule(shell):
    run = shell("verify", "rules:right", *ARGS, "--seed", 5, *QUICK)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("ok: nothing wrong found in rules:right\n")
    assert re.search(r"seed +5,", run.stdout)
    assert "\x1b" not in run.stdout


def test_a_wrong_rule_and_its_json(shell, directory, tmp_path):
    path = tmp_path / "report.json"
    run = shell("verify", "rules:wrong", *ARGS, "--json", path, *QUICK)
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.startswith("refuted: scale (w) in rules:wrong\n")
    report = json.loads(path.read_text())
    assert report["ok"] is False
    assert report["function"] == "rules:wrong"
    assert {finding["argument"] for finding in report["findings"]} == {"w"}
    assert os.listdir(tmp_path) == ["report.json"]


def test_the_installed_command_finds_the_current_directory(directory):
    script = Path(sys.executable).with_name("jaxbp")
    run = subprocess.run(
        [script, "verify", "rules:Namespace.rule", *ARGS, *QUICK],
        cwd=directory,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_reference_static_values_names_and_float64(shell):
    run = shell(
        "verify", "rules:right", "--args", "f64[2,3]", "w=f64[3,4]", "--reference=rules:plain"
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "w: float64[3, 4]" in run.stdout
    run = shell(
        "verify", "rules:power", "--args", "f32[4]", "--static", "n=3", "mode=plain", *QUICK
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_no_colour_in_a_pipe_and_colour_on_a_terminal(directory):
    def on_a_terminal(**environment):
        reader, writer = os.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "jaxbp", "verify", "rules:right", *ARGS, *QUICK],
            cwd=directory,
            env=_environment(TERM="xterm", **environment),
            stdout=writer,
        ) as process:
            os.close(writer)
            chunks = []
            while True:
                try:
                    chunks.append(os.read(reader, 4096))
                except OSError:  # how Linux says that the other end is closed
                    break
            os.close(reader)
        assert process.returncode == 0
        return b"".join(chunks).decode()

    assert "\x1b[1;32mok" in on_a_terminal(NO_COLOR="")
    assert "\x1b" not in on_a_terminal(NO_COLOR="1")


def test_a_table_of_cases(shell, tmp_path):
    path = tmp_path / "table.json"
    run = shell("verify", "--cases", "rules", "--json", path, *QUICK)
    assert (run.returncode, run.stderr) == (0, "")
    head, right, cubed, *_ = run.stdout.splitlines()
    assert head.split()[:5] == ["rule", "value", "gradient", "second", "order"]
    assert right.split()[0:3] == ["right", "ok", "ok"]
    assert cubed.split()[0] == "cubed"
    assert re.search(r"\n2 ok of 2 in \d+ s\n$", run.stdout)
    content = json.loads(path.read_text())
    assert content["ok"] is True
    assert [case["case"] for case in content["cases"]] == ["right", "cubed"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_table_with_refuted_and_refused_cases(shell, jobs):
    run = shell("verify", "--cases", "bad_cases", "--jobs", jobs, *QUICK)
    assert (run.returncode, run.stderr) == (1, "")
    assert re.search(r"^refused +could not run: refused refuses .*f32\[5,4\]", run.stdout, re.M)
    assert re.search(r"^twice +ok +WRONG", run.stdout, re.M)
    assert "refuted: scale (w) in twice" in run.stdout
    assert re.search(r"\n2 ok, 1 refuted, 1 could not run of 4 in \d+ s\n$", run.stdout)


def test_a_table_that_could_not_run_whole_is_not_fine(shell):
    assert shell("verify", "--cases", "refused_cases", "--jobs", 1, *QUICK).returncode == 2


def test_cases_that_cannot_be_drawn_could_not_run(shell):
    run = shell("verify", "--cases", "undrawn_cases", "--jobs", 1)
    assert (run.returncode, run.stderr) == (2, "")
    rows = re.findall(r"^(\w+) +could not run: cannot draw its arguments: (\w+)", run.stdout, re.M)
    assert rows == [("large", "ValueError"), ("none", "TypeError")]


def test_what_comes_in_several_options_is_all_taken(shell):
    words = ("--args", ARRAYS[0], "--args", ARRAYS[1], "--checks", "structure", "--checks", "nan")
    run = shell("verify", "rules:right", *words)
    assert (run.returncode, run.stderr) == (0, "")
    assert "structure" in run.stdout
    assert "nan" in run.stdout


def test_a_failure_of_the_command_itself_is_no_refutation(monkeypatch, capsys):
    def fails(options):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(command, "_run", fails)
    assert command.main(["verify"]) == 2
    assert "Traceback" in capsys.readouterr().err  # of use to whoever mends it


def test_letters_that_the_terminal_has_not_got_end_nothing(shell):
    run = shell(
        "verify", "letters:größe", "--args", "f32[2]", "--checks", "gradient",
        LC_ALL="C.ISO-8859-1", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(r"ok: nothing wrong found in letters:gr\xf6\xdfe")


def test_a_full_disk_is_one_line(directory):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "jaxbp", "verify", "--discover", "rules"],
            cwd=directory,
            env=_environment(PYTHONUNBUFFERED=""),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 2
    assert run.stderr == "jaxbp verify: OSError: [Errno 28] No space left on device\n"


def test_discover(shell):
    run = shell("verify", "--discover", "rules")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "rules.py",
        "     7  rules:right",
        "     7  rules:wrong",
        "     7  rules:_rule.<locals>.product  (made inside a function)",
        "3 rules in rules",
    ]


def _refusals():
    on = ("verify", "rules:right", "--args")
    return [
        ((), "the following arguments are required: COMMAND"),
        (("verify", "rules:right"), "rules:right needs --args"),
        (("verify", "rules"), "expected MODULE:FUNCTION, got 'rules'"),
        (("verify", "rules:nothing", *ARGS), "rules:nothing: no 'nothing' in rules"),
        (("verify", "rules:number", *ARGS), "rules:number: expected a function, got int"),
        (("verify", "no_such:f", *ARGS), "cannot import no_such: ModuleNotFoundError"),
        (("verify", "raises:f", *ARGS), r"cannot import raises: .*raises.py:2: OSError: no disk"),
        (("verify", "exits:f", *ARGS), r"cannot import exits: .*exits.py:2: SystemExit: bye"),
        ((*on, "f32[2,,3]"), r"--args, number 1: 'f32\[2,,3\]', position 7"),
        ((*on, "x=f32[2]", "f32[2]"), "--args, number 2: .* after a named"),
        ((*on, "f32[2,3]", "f32[5,4]"), r"rules:right refuses f32\[2,3\], f32\[5,4\]: TypeE"),
        ((*on, "f32[2,3]"), r"rules:right refuses f32\[2,3\]: TypeError: .*w"),
        ((*on, *ARRAYS, "--static", "stride"), "--static: expected NAME=VALUE, got 'stride'"),
        ((*on, *ARRAYS, "--static", "a=1", "a=2"), "--static: a is given twice"),
        ((*on, *ARRAYS, "--static", "a=(1"), r"--static a: expected a Python literal .*got '\(1'"),
        ((*on, *ARRAYS, "--static", "a=true"), "--static a: expected a Python literal"),
        ((*on, *ARRAYS, "--reference", "no_such:f"), "cannot import no_such"),
        ((*on, *ARRAYS, "--json", "no/x.json"), "--json: cannot write no/x.json: No such file"),
        ((*on, *ARRAYS, "--json", "."), "--json: cannot write .: Is a directory"),
        ((*on, "w=f32[2]", "w=f32[3]"), "--args, number 2: w is given twice"),
        ((*on, "f32[99999999999999999999]"), r"--args, number 1: .* expected a size"),
        ((*on, "f32[9999999999,9999999999]"), "--args: cannot draw .*: ValueError: .*too big"),
        ((*on, f"f32[{','.join('1' * 70)}]"), r"--args: cannot draw .*: ValueError: .*dimension"),
        ((*on, "f32[999999999999]"), r"--args: cannot draw .*: \w*MemoryError: .*TiB"),
        ((*on, "i32[3]<1e999"), r"--args, number 1: .* expected a finite number, got '1e999'"),
        ((*on, "(" * 3000), r"--args, number 1: .* expected at most 100 brackets"),
        ((*on, *ARRAYS, "--static", "k=" + "-" * 9000 + "1"), "--static k: expected a Python"),
        ((*on, *ARRAYS, "--static", "k={[]}"), r"--static k: expected a Python .*got '{\[\]}'"),
        ((*on, *ARRAYS, "--seed", "x"), "argument --seed: expected a number from 0, got 'x'"),
        ((*on, *ARRAYS, "--seed", "-1"), "argument --seed: expected a number from 0, got '-1'"),
        ((*on, *ARRAYS, "--seed", "9" * 5000), "argument --seed: expected a number from 0"),
        ((*on, *ARRAYS, "--cases", "rules"), "expected one of MODULE:FUNCTION, --cases"),
        ((*on, *ARRAYS, "--jobs", "0"), "argument --jobs: expected a number from 1, got '0'"),
        ((*on, *ARRAYS, "--checks", "magic"), "argument --checks: invalid choice: 'magic'"),
        (("verify", "--args", "f32[2]"), "--args needs a MODULE:FUNCTION"),
        (("verify", "--reference", ""), "--reference needs a MODULE:FUNCTION"),
        (("verify", ""), "expected MODULE:FUNCTION, got ''"),
        (("verify", "lazy:f", *ARGS), "lazy:f: cannot take 'f' from lazy: ImportError: no f"),
        (("verify", "--cases", ""), "argument --cases: expected the name of a module, got ''"),
        (("verify", "--discover", ""), "argument --discover: expected the name of a module"),
        (("verify", "--cases", "no_cases"), "no_cases: expected a list CASES"),
        (("verify", "--cases", "no_such"), "cannot import no_such"),
        (("verify", "--discover", "no_such"), "cannot import no_such: ModuleNotFoundError"),
        (("verify", "--discover", "rules", "--json", "x.json"), "--json belongs to a check"),
    ]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), _refusals(), ids=lambda value: str(value)[-40:])
def test_what_cannot_run_is_one_clear_line(words, message, directory, monkeypatch, capsys):
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    for name in ("rules", "no_cases"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = sorted(directory.rglob("*.json*"))
    assert command.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line, end = captured.err.split("\n")
    assert end == ""
    assert re.match(f"jaxbp verify: {message}", line)
    assert sorted(directory.rglob("*.json*")) == before


def test_the_exit_status_reaches_the_shell(shell):
    run = shell("verify", "raises:f", *ARGS)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("words", "awaited"),
    [
        # One worker is at work and one is idle: neither may say a word.
        (("--cases", "slow_cases", "--jobs", "2", *QUICK), {"started", "quick"}),
        (("slow_cases:slow", "--args", "f32[2]"), {"started"}),
    ],
    ids=["table", "one"],
)
def test_ctrl_c_ends_cleanly(words, awaited, directory, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "jaxbp", "verify", *words, "--json", tmp_path / "x.json"],
        cwd=directory,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        seen = ""
        for line in process.stdout:
            seen += line  # in which two processes write, one perhaps in the other's line
            if all(word in seen for word in awaited):
                break
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "jaxbp verify: interrupted\n"
    assert os.listdir(tmp_path) == []


def test_workers_ignore_ctrl_c_from_their_first_moment(directory, tmp_path):
    # Python runs `sitecustomize` before anything else, so before a worker's own first task too.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "said = f'{signal.getsignal(signal.SIGINT) == signal.SIG_IGN}\\n'\n"
        "with open(os.environ['SAID'], 'a') as file:\n    file.write(said)\n"
    )
    said = tmp_path / "said.txt"
    more = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "SAID": said}
    run = subprocess.run(
        [sys.executable, "-m", "jaxbp", "verify", "--cases", "quick_cases", "--jobs", "2", *QUICK],
        cwd=directory,
        env=_environment(**{name: str(value) for name, value in more.items()}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert said.read_text().split().count("True") == 2


def test_a_reader_that_leaves_is_no_crash(directory):
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "jaxbp", "verify", "--discover", "rules"],
        cwd=directory,
        env=_environment(PYTHONUNBUFFERED=""),  # as users have it: written at the end, at once
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert run.stderr == ""


def test_a_folder_that_is_not_installed_has_no_version(capsys, monkeypatch):
    def nowhere(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(options, "version", nowhere)
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    assert "not installed" in capsys.readouterr().out


def test_help_and_version(capsys):
    for words in (["--version"], ["--help"], ["verify", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            command.main(words)
    assert "exit status" in capsys.readouterr().out
