"""How far two right answers may be apart, and whether two answers are further apart than that.

The tolerance of every single entry comes from the two functions themselves: each is evaluated again
at inputs changed in their last bits, and how much it answers differently is what rounding can do
(stochastic arithmetic). The size of the arrays is not in it.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector

ROUNDINGS = 1024.0
"""An entry may be wrong by so many rounding units of its own size."""
SPREADS = 64.0
"""… and by so many times what last-bit changes of the input did to it."""
TRIALS = 3
"""So often are the last bits changed: in most entries one of three does nearly the worst."""

Vjp = Callable[[Vector, Vector], Vector]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Two answers to one question: the rule's and the truth's VJP at `x` for the cotangent `c`."""

    x: Vector
    c: Vector
    got: Vector
    expected: Vector
    tolerance: Vector
    label: str
    """What kind of point and cotangent it is, in words."""
    away: bool = False
    """Whether the point is another than the given one: away from ties and symmetries."""

    def excess(self) -> Vector:
        """By how many tolerances each entry is wrong; what is not a number in both is right."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.abs(self.got - self.expected)
            excess = np.where(error == 0, 0.0, error / self.tolerance)
        same = (self.got == self.expected) | (np.isnan(self.got) & np.isnan(self.expected))
        return np.where(same, 0.0, np.where(np.isnan(excess), np.inf, excess))

    def wrong(self, leaf: Leaf) -> np.ndarray:
        """Which entries of one leaf are further apart than rounding explains."""
        return self.excess()[leaf.part] > 1.0

    def worst(self, leaf: Leaf) -> "Place":
        """Where the leaf is most wrong; where the reference is a number, if it is wrong there."""
        excess = self.excess()[leaf.part]
        known = np.where(np.isfinite(self.expected[leaf.part]), excess, 0.0)
        if (known > 1.0).any():
            excess = known
        return self.at(leaf, int(np.argmax(excess)))

    def at(self, leaf: Leaf, place: int) -> "Place":
        """Both numbers at one place of the leaf's part."""
        return Place.of(leaf, place, self.got, self.expected, self.tolerance)


@dataclasses.dataclass(frozen=True)
class Place:
    """One entry of a leaf, and both numbers there."""

    index: tuple[int, ...] | None
    """None: it stands for many."""
    got: float
    expected: float
    tolerance: float | None

    @classmethod
    def of(
        cls,
        leaf: Leaf,
        place: int,
        got: Vector,
        expected: Vector,
        tolerance: Vector | float | None = None,
    ) -> "Place":
        """The entry at one place of the leaf's part, of vectors that hold all leaves."""
        at = leaf.start + place
        room = tolerance[at] if isinstance(tolerance, np.ndarray) else tolerance
        return cls(
            leaf.index(place),
            float(np.real(got[at])),
            float(np.real(expected[at])),
            None if room is None else float(room),
        )


def spread(
    vjp: Vjp, x: Vector, c: Vector, eps: float, rng: np.random.Generator, move_x: bool = True
) -> Vector:
    """How much the answer moves when the inputs change in their last bits."""
    here = vjp(x, c)
    moved = np.zeros_like(here, dtype=float)
    for _ in range(TRIALS):
        near = inputs.last_bits(x, rng, 4 * eps) if move_x else x
        there = vjp(near, inputs.last_bits(c, rng, 4 * eps))
        with np.errstate(invalid="ignore"):
            moved = np.fmax(moved, np.abs(there - here))
    return np.nan_to_num(moved, nan=0.0, posinf=0.0)


def compare(
    got: Vjp,
    expected: Vjp,
    x: Vector,
    c: Vector,
    leaves: Iterable[Leaf],
    eps: float,
    rng: np.random.Generator,
    label: str,
    away: bool = False,
) -> Sample:
    """Evaluate both at one point, with the tolerance of every entry."""
    mine, theirs = got(x, c), expected(x, c)
    moved = spread(got, x, c, eps, rng) + spread(expected, x, c, eps, rng)
    return Sample(x, c, mine, theirs, tolerance_of(moved, theirs, leaves, eps), label, away)


def tolerance_of(moved: Vector, expected: Vector, leaves: Iterable[Leaf], eps: float) -> Vector:
    """How far an answer may be from the expected one that last bits of the input moved so far."""
    moved = moved.copy()
    for leaf in leaves:  # three trials may miss an entry's spread: no entry has less than most
        part = moved[leaf.part]
        if part.size:
            np.maximum(part, np.median(part), out=part)
    return SPREADS * moved + rounding_of(expected, leaves, eps)


def rounding_of(expected: Vector, leaves: Iterable[Leaf], eps: float) -> Vector:
    """What rounding the last operation can do to each entry; a little even to exact zeros."""
    size = np.nan_to_num(np.abs(expected), nan=0.0, posinf=0.0)
    # What is smaller than the least number that a dtype holds in all its digits may be lost.
    least = np.finfo(np.float64 if eps <= np.finfo(np.float64).eps else np.float32).tiny
    tolerance = ROUNDINGS * eps * size + least
    for leaf in leaves:
        part = size[leaf.part]
        if part.size:
            tolerance[leaf.part] += 16 * eps * part.max()
    return tolerance
