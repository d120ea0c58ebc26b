"""The exam's counting, and what its command line says."""

import json
import subprocess
import sys
from pathlib import Path

import checker_exam
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "checker_exam.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_table_and_files_of_three_cases(tmp_path: Path):
    kept, drawn = tmp_path / "exam.json", tmp_path / "exam.png"
    done = run(
        "--cases", "square*", "--family", "activation", "--json", str(kept), "--out", str(drawn)
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(kept.read_text())
    rows = {row["checker"]: row for row in answers["table"]}
    assert [(row["wrong"], row["right"]) for row in rows.values()] == [(2, 1)] * 4
    # square-factor is wrong at the first order, square-detached at the second only
    assert rows["check_vjp"]["caught"] == rows["check_vjp"]["blamed"] == 2
    assert rows["check_grads, order 1"]["caught"] == 1
    assert rows["check_grads, order 2"]["caught"] == 2
    assert rows["check_vjp"]["refused"] == 0
    assert "| check_vjp | 2 of 2 | 0 of 1 | 2 of 2 | 2 of 2 |" in done.stdout
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cases", "nothing"), "no case is called 'nothing'"),
        (("--family", "poetry"), "poetry"),
        (("--seeds", "0"), "expected a whole number of at least 1"),
        (
            ("--json", "/nowhere/at/all.json"),
            "cannot write to --json /nowhere/at/all.json (No such",
        ),
        (("--json", "/proc/nowhere.json"), "cannot write to --json /proc/nowhere.json"),
        (("--json", ""), "--json: expected a path, got ''"),
        (("--out", "."), "cannot write to --out . (Is a directory): choose another file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(refusal, options, said):
    assert said in refusal(checker_exam.main, *options)


def test_without_chex(monkeypatch, refusal):
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "chex", None)
    said = refusal(checker_exam.main, "--cases", "square-factor")
    assert "chex is not installed; install jaxbp[test]" in said


def test_list_names_every_case(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["checker_exam.py", "--list", "--family", "pooling"])
    assert checker_exam.main() == 0
    out = capsys.readouterr().out
    assert "wrong  pooling        max-pool-ties-doubled: every tied cell" in out
