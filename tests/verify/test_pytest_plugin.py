"""The pytest plugin, in sessions of their own."""

import json
import subprocess
import sys
import zlib

import pytest

pytest_plugins = ["pytester"]

RULES = """
import jax
import jax.numpy as jnp
import numpy as np

def _rule(factor):
    @jax.custom_vjp
    def scaled(x):
        return 3.0 * x

    scaled.defvjp(lambda x: (3.0 * x, None), lambda _, dy: (factor * dy,))
    return scaled

right, wrong = _rule(3.0), _rule(6.0)
QUICK = ("structure", "gradient")
X = jnp.asarray(np.linspace(-1.0, 1.0, 5, dtype=np.float32))
"""
TESTS = """
from rules import QUICK, X, right, wrong

def test_right(check_vjp):
    assert check_vjp(right, X, checks=QUICK).ok

def test_wrong(check_vjp):
    value = 1
    check_vjp(wrong, X, checks=QUICK)

def test_without():
    pass
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Run pytest, in a process of its own, on two rules and three tests."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(rules=RULES, test_rules=TESTS)

    def run(*options):
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


def test_the_report_is_the_failure_message(session):
    result = session()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       check_vjp(wrong, X, checks=QUICK)",
            "E       AssertionError: refuted: scale (x) in *scaled",
            "E         --> *scaled, x[[]*",
            "test_rules.py:8: AssertionError",
            "FAILED test_rules.py::test_wrong - AssertionError: refuted: scale (x) *",
        ]
    )
    text = result.stdout.str()
    assert "pytest_jaxbp.py" not in text
    assert "__tracebackhide__" not in text


def _seeds(path):
    return {
        entry["test"]: entry["report"]["seed"] for entry in json.loads(path.read_text())["checks"]
    }


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_session_is_written_as_json(session, pytester, options):
    if options:
        pytest.importorskip("xdist", reason="xdist is not installed")
    path = pytester.path / "vjp.json"
    result = session("--vjp-report", path, *options)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([f"jaxbp: 2 checks written to {path}"])
    content = json.loads(path.read_text())
    assert content["ok"] is False
    outcomes = {entry["test"]: entry["report"]["ok"] for entry in content["checks"]}
    assert outcomes == {"test_rules.py::test_right": True, "test_rules.py::test_wrong": False}
    assert _seeds(path) == {name: zlib.crc32(name.encode()) & 0x7FFFFFFF for name in outcomes}
    assert sorted(file.name for file in pytester.path.glob("*vjp*")) == ["vjp.json"]


def test_the_seed_can_be_chosen_and_is_shown(session, pytester):
    path = pytester.path / "vjp.json"
    result = session("--vjp-report", path, "--vjp-seed=17")
    assert set(_seeds(path).values()) == {17}
    result.stdout.fnmatch_lines(["E         seed           17, *"])


def test_a_seed_in_the_call_wins(session, pytester):
    pytester.makepyfile(
        test_rules="from rules import QUICK, X, right\n"
        "def test_right(check_vjp):\n"
        "    assert check_vjp(right, X, seed=5, checks=QUICK).seed == 5\n"
    )
    session("--vjp-seed=17").assert_outcomes(passed=1)


def test_a_report_that_cannot_be_written_stops_before_the_tests(session, pytester):
    result = session("--vjp-report", pytester.path / "no" / "vjp.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --vjp-report: cannot write *: No such file or directory"])
    assert "passed" not in result.stdout.str()


def test_pytest_starts_without_jax(pytester):
    pytester.makepyfile(
        "import sys\n\ndef test_nothing():\n    assert not {'jax', 'jaxbp'} & set(sys.modules)\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_plugin_is_registered_by_installing_the_package():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True
    )
    assert "--vjp-report=FILE" in run.stdout
