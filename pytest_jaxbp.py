"""The pytest plugin: a fixture `check_vjp` with the test's seed, and JSON over a whole session.

It stands beside the package, not in it, because pytest imports every installed plugin before the
first conftest: importing the package would import JAX, and what a conftest sets for JAX (its
platform, its devices) would come too late. So nothing of the package is imported before it is used.

    def test_my_rule(check_vjp):
        check_vjp(my_rule, x, w, stride=2)      # fails with the report as its message
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_checks = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--vjp-seed` and `--vjp-report`."""
    group = parser.getgroup("jaxbp", "checks of custom_vjp rules")
    group.addoption(
        "--vjp-seed",
        type=int,
        metavar="N",
        help="seed of every check_vjp (default: one made from the test's name)",
    )
    group.addoption(
        "--vjp-report",
        type=Path,
        metavar="FILE",
        help="write what every check_vjp found, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep a session's checks, on the process that hears of all tests."""
    path = config.getoption("--vjp-report")
    if path is None or hasattr(config, "workerinput"):
        return
    from jaxbp.verify.cli.files import refuse_unwritable

    try:
        refuse_unwritable(path)
    except OSError as error:
        raise pytest.UsageError(f"--vjp-report: cannot write {path}: {error.strerror}") from None
    config.pluginmanager.register(_Session(path), "jaxbp-session")


@pytest.fixture
def check_vjp(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Check a rule as `jaxbp.check_vjp` does, with this test's seed; a wrong one fails the test."""
    from jaxbp.verify import check_vjp as check

    own = request.config.getoption("--vjp-seed")
    seed_of_test = zlib.crc32(request.node.nodeid.encode()) & 0x7FFFFFFF if own is None else own

    def check_with_seed(
        fn: Callable[..., Any], *args: Any, seed: int = seed_of_test, **options: Any
    ) -> Any:
        __tracebackhide__ = True
        report = check(fn, *args, seed=seed, **options)
        request.node.stash.setdefault(_checks, []).append(report.to_json(indent=None))
        if not report.ok:
            raise AssertionError(str(report))
        return report

    return check_with_seed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Put the checks on the test's report, which xdist brings from its workers."""
    report = yield
    if checks := item.stash.get(_checks, None):
        report.vjp_checks = checks
        del item.stash[_checks]
    return report


class _Session:
    """Every check of the session, in the order in which the tests ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tests: list[dict[str, Any]] = []
        self.outcome = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what a test, here or on a worker, has checked."""
        self.tests += [
            {"test": report.nodeid, "report": json.loads(check)}
            for check in getattr(report, "vjp_checks", [])
        ]

    def pytest_sessionfinish(self) -> None:
        """Write the file, whole or not at all."""
        from jaxbp.verify.cli.files import write_whole

        ok = all(entry["report"]["ok"] for entry in self.tests)
        try:
            write_whole(self.path, json.dumps({"ok": ok, "checks": self.tests}, indent=2) + "\n")
        except OSError as error:
            self.outcome = f"jaxbp: cannot write {self.path}: {error.strerror}"
        else:
            self.outcome = f"jaxbp: {len(self.tests)} checks written to {self.path}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the checks are."""
        terminalreporter.write_line(self.outcome)
