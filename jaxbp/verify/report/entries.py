"""The entries of a report, as plain data: no JAX and no judgement in here."""

import dataclasses
from typing import Literal

Side = Literal["rule", "forward", "reference", "undecided"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """What was compared: `gradient`, `value`, `vmap`, … the name of a row of `rows.py`."""
    argument: str | None
    """The argument and the path to its leaf, `params['conv'].w`; None blames the whole rule."""
    diagnosis: str
    """The kind of mistake, one word of `words.py`."""
    message: str
    """A sentence with the evidence, and what to look at."""
    side: Side
    """Which of the compared sides is wrong, as far as the oracles can tell."""
    index: tuple[int, ...] | None = None
    """Where in the leaf the two numbers stand (the worst place)."""
    got: float | None = None
    expected: float | None = None
    tolerance: float | None = None
    """How far `got` may be from `expected` by rounding and the oracles' own errors."""
    explained: float | None = None
    """The share of the error, 0 to 1, that the diagnosis explains."""
    unit: Literal["ulps"] | None = None
    """None: `got` and `expected` are two answers. `ulps`: they are the rule's and autodiff's errors
    in units in the last place, and so is `tolerance`."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    name: str
    """One of `rows.py`."""
    ok: bool | None
    """None: it was not run, or cannot be decided here; `detail` says why."""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Power:
    """The smallest error of one argument's cotangent that this very check would have caught."""

    argument: str
    smallest_error: float
    """One entry wrong by this much, relative to that leaf's largest entry, is found (inf: none)."""
    smallest_scale: float
    """All entries wrong by this factor minus one are found (inf: none)."""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Precision:
    """The rule's rounding error in one dtype, beside autodiff's own, against the float64 truth."""

    dtype: str
    argument: str
    error_ulps: float
    autodiff_ulps: float
    ratio: float
    """`error_ulps` over `autodiff_ulps`, which counts as no less than the floor of a few ulps."""
