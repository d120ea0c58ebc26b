"""`jaxbp verify MODULE:FUNCTION`: one function, and its report."""

import argparse
import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxbp.verify.case import Case
from jaxbp.verify.cli import spec
from jaxbp.verify.cli.failure import CannotRunError, reason
from jaxbp.verify.cli.load import load_function
from jaxbp.verify.cli.run import check_case, draw, write_json
from jaxbp.verify.report.text import wants_color


def verify_function(options: argparse.Namespace) -> int:
    """Check it and give the exit status."""
    function = load_function(options.target)
    reference = None if options.reference is None else load_function(options.reference)
    if options.args is None:
        raise CannotRunError(f"{options.target} needs --args, such as --args 'f32[2,3]' 'f32[3]'")
    args, kwargs = _arrays(options.args, options.seed)
    kwargs |= _statics(options.static, kwargs)
    case = Case(options.target, function, args, kwargs, reference)
    report = check_case(case, args, options.seed, options.checks)
    print(report.text(wants_color(sys.stdout)))
    if options.json is not None:
        write_json(options.json, report.to_dict())
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
        return draw((tuple(positional), named), seed)
    except Exception as error:
        raise CannotRunError(f"--args: cannot draw {' '.join(texts)}: {reason(error)}") from None


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
