"""Does the backward pass run, and give one cotangent of the right shape for each argument?"""

import re
from typing import NamedTuple

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall
from jaxbp.verify.report import Finding
from jaxbp.verify.subject.raised import first_line, named
from jaxbp.verify.trial import Trial

NAME = "structure"

_TYPES = re.compile(
    r"produced an output of type (\w+)\[([\d,]*)\].*input of type (\w+)\[([\d,]*)\]"
)
_PATH = re.compile(r"at output\[(\d+)\](\S*)")
_ABOUT_THE_RULE = ("bwd rule", "fwd rule", "pytree")
"""Words of JAX where it complains of what a rule returns, and not of what it computes."""


def check(trial: Trial, call: PlainCall | Exception) -> Outcome:
    """What the plain call gives, or what stops it."""
    outcome = Outcome()
    if isinstance(call, Exception):
        outcome.found(_refused(trial, call))
    else:
        count = len(call.cotangents)
        outcome.row(NAME, True, f"{count} cotangents, as many as arguments")
    return outcome


class _Types(NamedTuple):
    """What a rule gave, and what it should have given."""

    dtype: str
    shape: tuple[int, ...]
    right_dtype: str
    right_shape: tuple[int, ...]


def _refused(trial: Trial, error: Exception) -> Finding:
    """What JAX had to say about the rule's cotangents, in the words of a finding."""
    text = str(error)
    types, path = _types(text), _PATH.search(text)
    argument = _argument(trial, path) if path else None
    if types is not None:
        return _another_type(types, argument)
    about_the_rule = any(words in text for words in _ABOUT_THE_RULE)
    message = first_line(error) if about_the_rule else f"the backward pass raises {named(error)}"
    return finding(NAME, "structure", message)


def _another_type(types: _Types, argument: str | None) -> Finding:
    got, expected = types.shape, types.right_shape
    if got == expected:
        message = f"cotangent {types.dtype}, primal {types.right_dtype}"
        return finding(NAME, "dtype", message, argument=argument)
    if _broadcasts(expected, got) and np.prod(got) > np.prod(expected):
        message = (
            f"the cotangent has the shape {list(got)} of a broadcast; the argument's is "
            f"{list(expected)}: sum it over the axes that were broadcast"
        )
        return finding(NAME, "not-reduced", message, argument=argument)
    message = f"the cotangent has shape {list(got)}, its primal {list(expected)}"
    return finding(NAME, "shape", message, argument=argument)


def _types(text: str) -> _Types | None:
    found = _TYPES.search(text.replace("\n", " "))
    return None if found is None else _Types(found[1], _shape(found[2]), found[3], _shape(found[4]))


def _argument(trial: Trial, path: re.Match[str]) -> str | None:
    held = getattr(trial.subject.fn, "nondiff_argnums", None)
    if held is None:
        return None  # the rule sits inside: its arguments are not the function's
    names = [n for i, n in enumerate(trial.subject.argument_names) if i not in held]
    position = int(path[1])
    return names[position] + path[2].rstrip(",.") if position < len(names) else None


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False
