"""The exam's counting, and what its command line says."""

import json
import subprocess
import sys
from pathlib import Path

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
        (("--json", "/nowhere/at/all.json"), "must be a file in a folder that exists"),
        (("--out", "."), "must be a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line_and_status_2(options: tuple[str, ...], said: str):
    done = run(*options)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_list_names_every_case():
    done = run("--list", "--family", "pooling")
    assert done.returncode == 0
    assert "wrong  pooling        max-pool-ties-doubled: every tied cell" in done.stdout
