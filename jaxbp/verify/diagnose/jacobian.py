"""Both Jacobians of one leaf at one point, and which of their entries are wrong."""

import dataclasses
from functools import cached_property

import numpy as np

from jaxbp.verify.compare.sample import Vjp
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector

MOST_ROWS = 512
"""Jacobians of more rows are not looked at …"""
MOST_ENTRIES = 4_000_000
"""… nor larger ones."""
MOST_POINTS = 3
"""Points at which it is asked whether they differ."""
SAME = 1e-7
"""Relative: contributions this close are one."""
NOTHING = 1e-9
"""Relative to the largest: a contribution this small is none."""


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """One row for each output, one column for each entry of the leaf: each pair a contribution."""

    point: Vector
    got: np.ndarray
    """[m, leaf.size]"""
    truth: np.ndarray
    """[m, leaf.size]"""

    @cached_property
    def size(self) -> float:
        """The largest contribution."""
        return max(float(np.abs(v).max(initial=0.0)) for v in (self.got, self.truth))

    @cached_property
    def tolerance(self) -> np.ndarray:
        """What may count as equal."""
        return np.full(self.truth.shape, NOTHING * self.size) + SAME * np.abs(self.truth)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Which contributions are not the truth's."""
        return np.abs(self.got - self.truth) > self.tolerance

    @property
    def right(self) -> np.ndarray:
        """Which are."""
        return ~self.wrong

    @cached_property
    def there(self) -> np.ndarray:
        """Which contributions the truth has."""
        return np.abs(self.truth) > self.tolerance

    @cached_property
    def given(self) -> np.ndarray:
        """Which contributions the rule gives."""
        return np.abs(self.got) > self.tolerance

    @property
    def differs(self) -> bool:
        """Whether any contribution is wrong.

        Where none is, the Jacobians have nothing to say of an error that small, and every
        hypothesis about them would hold.
        """
        return bool(self.wrong.any())

    @property
    def entry_by_entry(self) -> bool:
        """Whether each entry of the leaf moves one output only: then any error is a factor."""
        return bool((self.there | self.given).sum(axis=0).max() <= 1)

    @property
    def error(self) -> np.ndarray:
        """Rule less truth, zero where that is nothing."""
        return self.cleaned(self.got - self.truth)

    def cleaned(self, v: np.ndarray) -> np.ndarray:
        """Contributions, zero where they are nothing."""
        return np.where(np.abs(v) <= self.tolerance, 0.0, v)


def jacobian_of(
    rule: Vjp, reference: Vjp, leaf: Leaf, points: np.ndarray, rows: int
) -> Jacobian | None:
    """That at the first point at which the two differ, else at the last one.

    None where it is too large to take, or not finite.
    """
    if rows > MOST_ROWS or rows * leaf.size > MOST_ENTRIES:
        return None
    found = None
    for point in list({x.tobytes(): x for x in points}.values())[:MOST_POINTS]:
        cotangents = [inputs.one_hot(rows, row) for row in range(rows)]
        got, truth = (
            np.array([vjp(point, c)[leaf.part] for c in cotangents]) for vjp in (rule, reference)
        )
        if not (np.all(np.isfinite(got)) and np.all(np.isfinite(truth))):
            return None
        found = Jacobian(point, got, truth)
        if found.differs:
            return found
    return found
