"""`jaxbp verify` and `--cases MODULE`: a table of every case that a module lists."""

import argparse
import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from typing import NamedTuple

from jaxbp.verify.case import Case
from jaxbp.verify.cli import spec
from jaxbp.verify.cli.failure import CannotRunError, reason
from jaxbp.verify.cli.load import load_module
from jaxbp.verify.cli.run import check_case, draw, write_json
from jaxbp.verify.report import Report, table
from jaxbp.verify.report.text import wants_color


class Checked(NamedTuple):
    """A case that was checked, or the reason why it could not be."""

    name: str
    report: Report | None
    failure: str = ""


def verify_cases(options: argparse.Namespace) -> int:
    """Check them all and give the exit status."""
    module = "jaxbp.cases" if options.cases is None else options.cases
    cases = _cases(module)
    color = wants_color(sys.stdout)
    width = max(len(case.name) for case in cases)
    start = time.perf_counter()
    outcomes = []
    print(table.head(width, color))
    for outcome in _all_checked(module, cases, options):
        outcomes.append(outcome)
        print(table.row(outcome.name, width, outcome.report, outcome.failure, color))
        sys.stdout.flush()
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    print(table.foot(reports, len(outcomes), time.perf_counter() - start, color))
    ok = len(reports) == len(outcomes) and all(report.ok for report in reports)
    if options.json is not None:
        entries = [
            {"case": name, "failure": failure, "report": report and report.to_dict()}
            for name, report, failure in outcomes
        ]
        write_json(options.json, {"ok": ok, "cases": entries})
    if not all(report.ok for report in reports):
        return 1
    return 0 if ok else 2


def _cases(module: str) -> list[Case]:
    cases = getattr(load_module(module), "CASES", None)
    if not isinstance(cases, list | tuple) or not all(isinstance(case, Case) for case in cases):
        raise CannotRunError(f"{module}: expected a list CASES of jaxbp.verify.case.Case")
    if not cases:
        raise CannotRunError(f"{module}: CASES is empty")
    return list(cases)


def _all_checked(
    module: str, cases: Sequence[Case], options: argparse.Namespace
) -> Iterator[Checked]:
    """Check the cases on all cores and yield them in their order.

    A process a core, for checking is compiling, which JAX does on one core and under Python's lock.
    """
    jobs = min(options.jobs, len(cases))
    tasks = [repeat(module), range(len(cases)), repeat(options.seed), repeat(options.checks)]
    if jobs == 1:
        yield from map(_check_case, *tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork of JAX's threads can hang
    with ProcessPoolExecutor(jobs, context, _start_worker, (sys.path,)) as pool:
        try:
            with _interrupts_ignored():
                checked = pool.map(_check_case, *tasks)
            yield from checked
        except BrokenProcessPool:
            raise CannotRunError("a process that was checking a case died") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, as do the workers started meanwhile: importing, they would print traces."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(path: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    sys.path[:] = path


def _check_case(
    module: str, number: int, seed: int, checks: Collection[str] | None = None
) -> Checked:
    case = _cases(module)[number]
    try:
        parsed = tuple(spec.parse(arg) if isinstance(arg, str) else arg for arg in case.args)
        args = draw(parsed, seed)
    except Exception as error:  # a line of the table, for the other cases can be checked
        return Checked(case.name, None, f"cannot draw its arguments: {reason(error)}")
    try:
        report = check_case(case, args, seed, checks)
    except CannotRunError as error:
        return Checked(case.name, None, str(error))
    return Checked(case.name, report)
