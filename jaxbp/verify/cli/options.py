"""What the command line may say."""

import argparse
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from jaxbp.verify.check import CHECKS
from jaxbp.verify.cli.failure import CannotRunError

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


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise CannotRunError(f"{message}; see `jaxbp verify --help`")


def _version() -> str:
    try:
        return version("jaxbp")
    except PackageNotFoundError:
        return "from a folder that is not installed"


def parser() -> argparse.ArgumentParser:
    """The parser of `jaxbp` and its one command."""
    program = _Parser(prog="jaxbp", description="Back-propagation written out by hand in JAX.")
    program.add_argument("--version", action="version", version=f"jaxbp {_version()}")
    commands = program.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    verify = commands.add_parser(
        "verify",
        help="prove or refute hand-written gradients",
        description="Prove or refute hand-written gradients (jax.custom_vjp).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_function(verify)
    _add_check(verify)
    _add_many(verify)
    return program


def _add_function(verify: argparse.ArgumentParser) -> None:
    """The options of one function."""
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


def _add_check(verify: argparse.ArgumentParser) -> None:
    """The options of every check."""
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


def _add_many(verify: argparse.ArgumentParser) -> None:
    """The options of a table, and of a list."""
    verify.add_argument(
        "--cases", type=_module_name, metavar="MODULE", help="check the cases that a module lists"
    )
    verify.add_argument(
        "--jobs",
        type=_positive,
        default=_cores(),
        metavar="N",
        help="how many cases to check at once (default: one a core)",
    )
    verify.add_argument(
        "--discover",
        type=_module_name,
        metavar="PACKAGE",
        help="list every custom_vjp of a package",
    )


def _cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
