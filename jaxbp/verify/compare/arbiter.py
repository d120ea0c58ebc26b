"""Who is right at one entry, where rule and reference disagree: finite differences decide."""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np

from jaxbp.verify.compare.finite_differences import FiniteDifferences, Slope
from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.subject.vectors import Vector

KINK_ROOM = 1e-3
"""A slope may lie outside the one-sided ones by this share of what is between them …"""
ENDS_ROOM = 1e-6
"""… and this share of the larger one: differences at a kink are of first order only."""


class Right(enum.Enum):
    """Who agrees with finite differences."""

    RULE = enum.auto()
    REFERENCE = enum.auto()
    NEITHER = enum.auto()
    BOTH = enum.auto()
    """… or they cannot tell."""
    KINK = enum.auto()
    """There is a kink, and the rule lies between the one-sided slopes."""


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What finite differences say of one entry."""

    who: Right
    value: float
    error: float
    kink: bool = False

    @property
    def known(self) -> bool:
        """Whether they say anything."""
        return bool(np.isfinite(self.value) and np.isfinite(self.error))


class Arbiter:
    """Finite differences at the points where rule and reference disagree."""

    def __init__(self, differences: Callable[[Vector], FiniteDifferences]) -> None:
        self._differences = differences
        self._at: dict[bytes, FiniteDifferences] = {}

    def differences(self, x: Vector) -> FiniteDifferences:
        """Those at one point, made once."""
        key = x.tobytes()
        if key not in self._at:
            self._at[key] = self._differences(x)
        return self._at[key]

    def entry(self, sample: Sample, index: int) -> Ruling:
        """Who is right at one entry."""
        slope = self.differences(sample.x).entry(index)
        with np.errstate(invalid="ignore", over="ignore"):
            used = sample.c != 0
            weight = np.where(used, sample.c, 0.0)
            # Of a complex output the argument, being real, gets the real part.
            value = float(np.sum(np.where(used, weight * slope.value, 0.0)).real)
            error = 4 * float(np.sum(np.where(used, np.abs(weight) * slope.error, 0.0)))
            if (slope.kink & used).any():
                inside = _between(sample.got[index], slope, weight, used)
                return Ruling(Right.KINK if inside else Right.REFERENCE, value, error, True)
        if not np.isfinite(value) or not np.isfinite(error):
            return Ruling(Right.BOTH, value, error)
        mine, theirs = (
            abs(answer[index] - value) <= error + sample.tolerance[index]
            for answer in (sample.got, sample.expected)
        )
        who = {
            (True, True): Right.BOTH,
            (True, False): Right.RULE,
            (False, True): Right.REFERENCE,
            (False, False): Right.NEITHER,
        }[bool(mine), bool(theirs)]
        return Ruling(who, value, error)


def _between(got: float, slope: Slope, weight: Vector, used: np.ndarray) -> bool:
    """Whether an answer is one of those that the one-sided slopes allow."""
    kinked = slope.kink & used
    ends = np.array([weight * slope.left, weight * slope.right])
    ends = np.where(used, np.where(kinked, ends, weight * slope.value), 0.0).real
    low, high = ends.min(axis=0).sum(), ends.max(axis=0).sum()
    margin = KINK_ROOM * (high - low) + ENDS_ROOM * max(abs(low), abs(high))
    return bool(low - margin <= got <= high + margin)
