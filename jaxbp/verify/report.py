"""What a check found, as plain data: no JAX and no judgement in here."""

import dataclasses
import json
import math
from typing import Any, Literal

Side = Literal["rule", "forward", "reference", "undecided"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """What was compared: `gradient`, `value`, `vmap`, … the name of a `Check`."""
    argument: str | None
    """The argument and the path to its leaf, `params['conv'].w`; None blames the whole rule."""
    diagnosis: str
    """The kind of mistake, one word of the design's list."""
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


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    name: str
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


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of `check_vjp`."""

    function: str
    arguments: tuple[str, ...]
    """Every differentiable leaf, as in `Finding.argument`, with dtype and shape after a colon."""
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    powers: tuple[Power, ...] = ()
    precisions: tuple[Precision, ...] = ()
    warnings: tuple[str, ...] = ()
    """What throws doubt on the check itself: a JAX build that computes wrongly, no power, …"""
    notes: tuple[str, ...] = ()
    """What the reader should know: kinks met, a reference that does not compute in float64, …"""
    seed: int = 0
    seconds: float = 0.0
    reference: str = ""
    """What the rule was compared with: a name, or `the primal inside the rule`, …"""

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Give everything as dicts, lists, strings, numbers; what is not finite as a string."""
        plain = _plain(dataclasses.asdict(self))
        return {"ok": self.ok, **plain}

    def to_json(self, indent: int | None = 2) -> str:
        """Give `to_dict` as a JSON text.

        Example:
            >>> print(Report("f", (), (), ()).to_json(indent=None)[:28])
            {"ok": true, "function": "f"
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        from jaxbp.verify import render  # deferred: rendering reads this module's types

        return render.render(self, color=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
