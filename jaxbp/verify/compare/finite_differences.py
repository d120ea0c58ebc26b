"""Slopes from function values alone, each with an estimate of its own error.

Central differences at steps from large (exact, where the function is linear in the argument) to
small, extrapolated by Neville's scheme; for every output the entry of the tableau with the least
estimated error is taken (Ridders). Rounding enters the estimate with the noise of the function,
measured by changing its input in the last bits.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector

RATIO = 8.0
"""Each step is so many times smaller than the one before: powers of two are exact."""
STEPS = tuple(0.5 * RATIO**-level for level in range(7))
"""Relative to the argument, from half of it to where float64's noise is all that is left."""


@dataclasses.dataclass(frozen=True)
class Slope:
    """dy/dt along one direction, for every output."""

    value: Vector
    error: Vector
    """The estimated error of `value`; inf where no step gave a finite difference."""
    left: Vector
    right: Vector
    kink: np.ndarray
    """Where the slopes from the two sides differ, however small the step."""


class FiniteDifferences:
    """Slopes of one function at one point."""

    def __init__(
        self,
        f: Callable[[Vector], Vector],
        x: Vector,
        leaves: list[Leaf],
        eps: float,
        rng: np.random.Generator,
    ) -> None:
        self.f, self.x, self.eps = f, x, eps
        self.y = f(x)
        self.scale = np.ones_like(x)
        for leaf in leaves:
            part = np.abs(x[leaf.part])
            if part.size:
                size = float(np.sqrt(np.mean(part**2))) or 1.0
                self.scale[leaf.part] = np.maximum(part, 0.1 * size)
        moved = [np.abs(f(inputs.last_bits(x, rng, 4 * eps)) - self.y) for _ in range(3)]
        spread = np.nan_to_num(np.max(moved, axis=0)) if moved else np.zeros_like(self.y)
        self.noise = 2.0 * np.maximum(eps * np.abs(self.y), spread)

    def entry(self, index: int) -> Slope:
        """∂y/∂x[index]."""
        direction = np.zeros_like(self.x)
        direction[index] = 1.0
        slope = self.along(direction, self.scale[index])
        own = abs(self.x[index])
        if own > 0 and not np.all(np.isfinite(slope.error)):
            # Some probe left the domain: the entry is small among its neighbours.
            slope = self.along(direction, own / 4.0)
        return slope

    def along(self, direction: Vector, scale: float) -> Slope:
        """The slope along a direction, with steps down from `scale`."""
        steps = [scale * step for step in STEPS]
        h = np.array(steps)[:, None]
        with np.errstate(all="ignore"):
            above = np.array([self.f(self.x + step * direction) for step in steps])
            below = np.array([self.f(self.x - step * direction) for step in steps])
            noise = self.noise + self.eps * (np.abs(above) + np.abs(below))
            value, error = _extrapolate((above - below) / (2 * h), noise / h, order=2)
            right, _ = _extrapolate((above - self.y) / h, 2 * noise / h, order=1)
            left, _ = _extrapolate((self.y - below) / h, 2 * noise / h, order=1)
            gap = np.abs(above - 2 * self.y + below) / h
            kink = _persists(gap, 4 * noise / h)
        return Slope(value, error, left, right, kink)


def _extrapolate(raw: np.ndarray, noise: np.ndarray, order: int) -> tuple[Vector, Vector]:
    """The best entry of the Neville tableau over the steps, and its estimated error.

    `raw[j]` is the difference quotient at step j, each step RATIO times smaller than the one
    before; its error goes with the step to the power `order`, 2 · `order`, …
    """
    raw = np.where(np.isfinite(raw), raw, np.nan)
    best = np.full(raw.shape[1:], np.nan)
    best_error = np.full(raw.shape[1:], np.inf)
    previous: list[np.ndarray] = []
    for j in range(len(raw)):
        row = [raw[j]]
        for k in range(1, min(j, 2) + 1):
            gain = RATIO ** (order * k)
            row.append(row[-1] + (row[-1] - previous[k - 1]) / (gain - 1.0))
            error = np.maximum(np.abs(row[k] - row[k - 1]), np.abs(row[k] - previous[k - 1]))
            if k == 1 and j + 1 < len(raw):
                error = np.maximum(error, np.abs(row[k] - raw[j + 1]))
            error = error + noise[j]
            better = error < best_error
            best = np.where(better, row[k], best)
            best_error = np.where(better, error, best_error)
        previous = row
    # A smaller step that disagrees beyond its noise has seen what the larger ones stepped over.
    for j in range(len(raw)):
        last = raw[-1 - j]
        if np.all(np.isnan(last)):
            continue
        gap = np.abs(best - last) - 4 * noise[-1 - j]
        best_error = np.where(gap > 0, np.maximum(best_error, gap), best_error)
        if j == 1:
            break
    return best, best_error


def _persists(gap: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether the difference of the one-sided slopes stays as the step shrinks.

    It falls RATIO-fold from step to step where the function is smooth.
    """
    found = np.zeros(gap.shape[1:], dtype=bool)
    for j in range(3, len(gap)):
        clear = (gap[j] > 10 * noise[j]) & (gap[j] > 0.5 * gap[j - 1])
        found |= clear & np.isfinite(gap[j])
    return found
