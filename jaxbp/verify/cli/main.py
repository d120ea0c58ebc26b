"""The command `jaxbp verify`: prove or refute rules from a shell.

Exit status: 0 nothing wrong found, 1 refuted, 2 could not run, 130 interrupted.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, repeat
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from jaxbp.verify import check_vjp
from jaxbp.verify.case import Case
from jaxbp.verify.check import CHECKS
from jaxbp.verify.cli import spec
from jaxbp.verify.cli.discover import discover, reason
from jaxbp.verify.cli.files import refuse_unwritable, write_whole
from jaxbp.verify.report import Report, table
from jaxbp.verify.report.text import wants_color

EXAMPLES = """
examples:
  jaxbp verify                                   every rule of this library
  jaxbp verify --cases package.module            every case that a module lists as CASES
  jaxbp verify package.module:function --args 'f32[2,5,5,3]' 'f32[3,3,3,4]' --static stride=2
  jaxbp verify package.module:function --args 'f32[8,10]' 'i32[8]<10' --reference other:plain
  jaxbp verify --discover package                every custom_vjp there

specs:
  f32[2,5,5,3]  f64[]  bf16[8]  i32[8]<10  f32[4]>0  f32[4]>=-1<1  bool[3]  key  None  2.5
  (f32[3], f32[4])   {w: f32[3,4], b: f32[4]}    any of them nested

exit status:
  0 nothing wrong found, 1 refuted, 2 could not run, 130 interrupted
"""


class CannotRunError(Exception):
    """What keeps the check from running, in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        argv: the arguments after the program's name; None: those of this process.

    Returns:
        0, 1, 2 or 130, as the module's docstring says.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal has not got is written as stderr writes it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(argv)
        status = _run(options)
        sys.stdout.flush()  # what cannot be written is said here, not at Python's own end
        return status
    except CannotRunError as error:
        print(f"jaxbp verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxbp verify: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _mute()
        return 2
    except OSError as error:
        _mute()
        print(f"jaxbp verify: {reason(error)}", file=sys.stderr)
        return 2
    except Exception:  # a mistake of our own: Python's status would be 1, that of a refutation
        traceback.print_exc()
        return 2


def _mute() -> None:
    """Let Python's last flush go nowhere: it would complain of what has been said already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise CannotRunError(f"{message}; see `jaxbp verify --help`")


def _version() -> str:
    try:
        return version("jaxbp")
    except PackageNotFoundError:
        return "from a folder that is not installed"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxbp", description="Back-propagation written out by hand in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxbp {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    verify = commands.add_parser(
        "verify",
        help="prove or refute hand-written gradients",
        description="Prove or refute hand-written gradients (jax.custom_vjp).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("target", nargs="?", metavar="MODULE:FUNCTION", help="what to check")
    verify.add_argument(
        "--args",
        nargs="+",
        action="extend",
        metavar="SPEC",
        help="the arguments, by position or as name=SPEC",
    )
    verify.add_argument(
        "--reference", metavar="MODULE:FUNCTION", help="what to compare with (default: the primal)"
    )
    verify.add_argument(
        "--static",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="arguments that are no arrays: Python literals, or a bare word for a string",
    )
    verify.add_argument(
        "--seed", type=_natural, default=0, metavar="N", help="of every random choice"
    )
    verify.add_argument(
        "--checks",
        nargs="+",
        action="extend",
        choices=CHECKS,
        metavar="NAME",
        help=f"of {', '.join(CHECKS)}",
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the reports there too")
    verify.add_argument(
        "--cases", type=_module_name, metavar="MODULE", help="check the cases that a module lists"
    )
    verify.add_argument(
        "--jobs",
        type=_positive,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        metavar="N",
        help="how many cases to check at once (default: one a core)",
    )
    verify.add_argument(
        "--discover",
        type=_module_name,
        metavar="PACKAGE",
        help="list every custom_vjp of a package",
    )
    return parser


def _positive(text: str) -> int:
    return _whole(text, 1)


def _natural(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        if text.isdecimal() and int(text) >= least:
            return int(text)
    except ValueError:  # more digits than Python reads
        pass
    raise argparse.ArgumentTypeError(f"expected a number from {least}, got {text!r}")


def _module_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a module, got ''")
    return text


def _run(options: argparse.Namespace) -> int:
    modes = [options.target, options.cases, options.discover]
    if sum(mode is not None for mode in modes) > 1:
        raise CannotRunError("expected one of MODULE:FUNCTION, --cases and --discover, got several")
    if options.target is None:
        for name in ("args", "reference", "static"):
            if getattr(options, name) not in (None, []):
                raise CannotRunError(f"--{name} needs a MODULE:FUNCTION to belong to")
    if options.discover is not None and options.json is not None:
        raise CannotRunError("--json belongs to a check, not to --discover")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    if options.discover is not None:
        return _discover(options.discover)
    if options.json is not None:
        try:
            refuse_unwritable(options.json)
        except OSError as error:
            raise CannotRunError(f"--json: cannot write {options.json}: {error.strerror}") from None
    if options.target is not None:
        return _verify_one(options)
    return _verify_all(options)


# One function.


def _verify_one(options: argparse.Namespace) -> int:
    function = _load(options.target)
    reference = None if options.reference is None else _load(options.reference)
    if options.args is None:
        raise CannotRunError(f"{options.target} needs --args, such as --args 'f32[2,3]' 'f32[3]'")
    args, kwargs = _arrays(options.args, options.seed)
    kwargs |= _statics(options.static, kwargs)
    case = Case(options.target, function, args, kwargs, reference)
    report = _check(case, args, options.seed, options.checks)
    print(report.text(wants_color(sys.stdout)))
    if options.json is not None:
        _write(options.json, report.to_dict())
    return 0 if report.ok else 1


def _arrays(texts: Sequence[str], seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments, those by position and those by name."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for number, text in enumerate(texts, start=1):
        name, equals, rest = text.partition("=")
        by_name = bool(equals) and name.isidentifier()
        try:
            parsed = spec.parse(rest if by_name else text)
        except spec.SpecError as error:
            raise CannotRunError(f"--args, number {number}: {error}") from None
        if by_name and name in named:
            raise CannotRunError(f"--args, number {number}: {name} is given twice")
        if by_name:
            named[name] = parsed
        elif named:
            raise CannotRunError(f"--args, number {number}: {text!r} stands after a named one")
        else:
            positional.append(parsed)
    try:
        return _draw((tuple(positional), named), seed)
    except Exception as error:
        raise CannotRunError(f"--args: cannot draw {' '.join(texts)}: {reason(error)}") from None


def _draw(tree: Any, seed: int) -> Any:
    """Draw the arrays; NumPy or JAX raises where one is too large, of too many axes, too wide."""
    if spec.needs_x64(tree):
        jax.config.update("jax_enable_x64", True)
    return spec.draw(tree, np.random.default_rng(seed))


def _statics(texts: Iterable[str], taken: Mapping[str, Any]) -> dict[str, Any]:
    statics: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise CannotRunError(f"--static: expected NAME=VALUE, got {text!r}")
        if name in statics or name in taken:
            raise CannotRunError(f"--static: {name} is given twice")
        statics[name] = _literal(name, value)
    return statics


def _literal(name: str, text: str) -> Any:
    """Read a Python literal; a bare word such as SAME is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if text.isidentifier() and text.lower() not in ("true", "false", "none"):
            return text
        raise CannotRunError(
            f"--static {name}: expected a Python literal such as 2, (1, 2), True or SAME, "
            f"got {text!r}"
        ) from None


def _load(target: str) -> Callable[..., Any]:
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise CannotRunError(f"expected MODULE:FUNCTION, got {target!r}")
    value: Any = _import(module_name)
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise CannotRunError(f"{target}: no {path!r} in {module_name}") from None
        except Exception as error:  # a module may import what it names when it is asked for it
            raise CannotRunError(
                f"{target}: cannot take {path!r} from {module_name}: {reason(error)}"
            ) from None
    if not callable(value):
        raise CannotRunError(f"{target}: expected a function, got {type(value).__name__}")
    return value


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise CannotRunError(f"cannot import {name}: {_where(error)}{reason(error)}") from None


def _where(error: BaseException) -> str:
    """Name the line that raised, where it stands in a module that was being imported."""
    own = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [
        f for f in frames if "importlib" not in f.filename and not f.filename.startswith(own)
    ]
    return f"{foreign[-1].filename}:{foreign[-1].lineno}: " if foreign else ""


def _check(case: Case, args: tuple[Any, ...], seed: int, checks: Collection[str] | None) -> Report:
    function, kwargs = case.function, case.kwargs
    try:
        jax.eval_shape(lambda: function(*args, **kwargs))
    except Exception as error:
        raise CannotRunError(
            f"{case.name} refuses {_shapes(args, kwargs)}: {reason(error)}"
        ) from None
    try:
        report = check_vjp(
            function, *args, reference=case.reference, kwargs=kwargs, seed=seed, checks=checks
        )
    except Exception as error:
        raise CannotRunError(
            f"{case.name} cannot be checked on {_shapes(args, kwargs)}: {reason(error)}"
        ) from None
    return dataclasses.replace(report, function=case.name)


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    def short(leaf: Any) -> str:
        return leaf.aval.str_short(short_dtypes=True) if isinstance(leaf, jax.Array) else repr(leaf)

    def tree(value: Any) -> str:
        return str(jax.tree.map(lambda leaf: _Bare(short(leaf)), value))

    named = [f"{name}={tree(value)}" for name, value in kwargs.items()]
    return ", ".join([*map(tree, args), *named])


class _Bare(str):
    """A text that prints without quotation marks inside a tuple or a dict."""

    __repr__ = str.__str__


# A table of cases.


class Outcome(NamedTuple):
    """A case that was checked, or the reason why it could not be."""

    name: str
    report: Report | None
    failure: str = ""


def _verify_all(options: argparse.Namespace) -> int:
    module = "jaxbp.rules.cases" if options.cases is None else options.cases
    cases = _cases(module)
    color = wants_color(sys.stdout)
    width = max(len(case.name) for case in cases)
    start = time.perf_counter()
    outcomes = []
    print(table.head(width, color))
    for outcome in _checked(module, cases, options):
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
        _write(options.json, {"ok": ok, "cases": entries})
    if not all(report.ok for report in reports):
        return 1
    return 0 if ok else 2


def _cases(module: str) -> list[Case]:
    cases = getattr(_import(module), "CASES", None)
    if not isinstance(cases, list | tuple) or not all(isinstance(case, Case) for case in cases):
        raise CannotRunError(f"{module}: expected a list CASES of jaxbp.verify.case.Case")
    if not cases:
        raise CannotRunError(f"{module}: CASES is empty")
    return list(cases)


def _checked(module: str, cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Outcome]:
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
) -> Outcome:
    case = _cases(module)[number]
    try:
        parsed = tuple(spec.parse(arg) if isinstance(arg, str) else arg for arg in case.args)
        args = _draw(parsed, seed)
    except Exception as error:  # a line of the table, for the other cases can be checked
        return Outcome(case.name, None, f"cannot draw its arguments: {reason(error)}")
    try:
        report = _check(case, args, seed, checks)
    except CannotRunError as error:
        return Outcome(case.name, None, str(error))
    return Outcome(case.name, report)


def _write(path: Path, content: Any) -> None:
    try:
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise CannotRunError(f"--json: cannot write {path}: {error.strerror}") from None


# A list of rules.


def _discover(package: str) -> int:
    try:
        rules, failures = discover(package)
    except (Exception, SystemExit) as error:
        raise CannotRunError(f"cannot import {package}: {_where(error)}{reason(error)}") from None
    for file, group in groupby(rules, lambda rule: rule.file):
        print(file or "(no source)")
        for rule in group:
            remark = f"  ({rule.remark})" if rule.remark else ""
            print(f"{rule.line:6}  {rule.target}{remark}")
    for failure in failures:
        print(f"not imported: {failure.module}: {failure.reason}")
    plural = "" if len(rules) == 1 else "s"
    print(f"{len(rules)} rule{plural} in {package}")
    return 0
