"""The benchmark's own arithmetic, and what it says where something is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.experiments.conftest import users_environment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(*arguments, timeout=60):
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=users_environment(),
    )


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import benchmark

    return benchmark


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "alexnet"], "invalid choice: 'alexnet'"),
        (["--rounds", "1"], "--rounds: expected a whole number of at least 2, got '1'"),
        (["--torch-python", "/no/such/python"], "--torch-python /no/such/python does not run"),
        (["--compiler-option", "fast"], "--compiler-option must be NAME=VALUE, got 'fast'"),
        (["--compiler-option", "fast=yes"], "--compiler-option: INVALID_ARGUMENT: No such compile"),
        (["--torch-python", "/bin/echo"], "--torch-python must be a Python, but what it runs says"),
        (["--json", "/no/such/folder/out.json"], "cannot write to --json /no/such/folder/out.json"),
        (["--json", "."], "cannot write to --json . (Is a directory): choose another file"),
        (["--json", ""], "--json: expected a path, got ''"),
        (["--out", "/proc/nowhere"], "cannot write to --out /proc/nowhere"),
        (["--out", ""], "--out: expected a path, got ''"),
    ],
)
def test_bad_input_is_one_line_and_status_2(benchmark, refusal, arguments, said):
    assert said in refusal(benchmark.main, *arguments)


def test_ratios_are_of_medians_against_the_faster_layout():
    import timing

    rounds = {
        "jaxbp": [2.0, 1.0, 2.0],
        "torch default": [8.0, 8.0, 8.0],
        "torch channels-last": [6.0, 6.0, 4.0],
    }
    against = timing.Timing(rounds).against("torch")
    assert against["peer"] == "torch channels-last"
    assert against["ratio"] == 3.0
    assert against["low"] <= 3.0 <= against["high"]
    assert timing.Timing(rounds).against("flax") is None


def test_the_rooflines_flops_are_counted(benchmark):
    """cnn: 2·N·S²·K·C·O of each convolution, 2·N·I·O of each product; thrice, less one dx."""
    first = 2 * 128 * 28 * 28 * 9 * 1 * 32
    rest = 2 * 128 * (14 * 14 * 9 * 32 * 64 + 3136 * 256 + 256 * 10)
    bound = benchmark.roofline("cnn", gemm=1e9, copy=1e30)
    assert bound["gflop"] == pytest.approx((2 * first + 3 * rest) / 1e9, rel=1e-12)
    assert bound["ms"] == pytest.approx(bound["gflop"] * 1e3)


def test_a_run_without_peers_says_so_and_writes_json(tmp_path):
    target = tmp_path / "out.json"
    drawn = tmp_path / "drawn"
    done = run(
        "--only", "lenet", "--rounds", "2", "--json", str(target), "--out", str(drawn), timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "left out: PyTorch" in done.stdout
    results = json.loads(target.read_text())
    assert json.loads((drawn / "benchmark.json").read_text()) == results
    assert (drawn / "benchmark.png").read_bytes()[-8:-4] == b"IEND"
    (_, step) = results["steps"]
    assert step["model"] == "lenet"
    assert step["ms"] > 0
    assert step["against_torch"] is None
    assert step["temporary_bytes"]["jaxbp"] > 0


@pytest.mark.parametrize("there", [("flax",), ("torch",), ("flax", "torch")])
def test_bars_stand_about_their_tick(benchmark, there):
    ratio = {"ratio": 2.0, "low": 1.5, "high": 2.5}
    step = {f"against_{peer}": ratio if peer in there else None for peer in ("flax", "torch")}
    axes = Figure().subplots()
    benchmark.draw_ratios(axes, [step | {"model": "lenet"}, step | {"model": "cnn"}], "rb")
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert len(centres) == 2 * len(there)
    assert sum(centres[::2]) == pytest.approx(0)
    assert sum(centres[1::2]) == pytest.approx(len(there))
    assert len(set(centres)) == len(centres)
