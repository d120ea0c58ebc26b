"""Leaves laid one after the other in a flat float64 vector.

Everything else in the checker speaks of such vectors: `x` holds every differentiable leaf, `y`
every floating output.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

Vector = np.ndarray
Leaves = list[Any]
LeafFunction = Callable[[Leaves, Leaves], Leaves]
"""From the differentiable and the other array leaves to the floating output leaves."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of several in a vector: a differentiable argument, or an output."""

    name: str
    argument: int
    """Which top-level argument it belongs to, positional ones first; -1: to none."""
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    stop: int

    @property
    def part(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def size(self) -> int:
        return self.stop - self.start

    def index(self, place: int) -> tuple[int, ...]:
        """Where the entry at this place of the leaf's part stands in its array."""
        return tuple(int(i) for i in np.unravel_index(place, self.shape))


class Shaped(Protocol):
    """What has a shape and a dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


def laid_out(arrays: Iterable[Shaped]) -> list[Leaf]:
    """The parts that arrays without names have in a vector."""
    leaves, start = [], 0
    for array in arrays:
        stop = start + int(np.prod(array.shape, dtype=int))
        leaves.append(Leaf("", -1, tuple(array.shape), array.dtype, start, stop))
        start = stop
    return leaves


def pack(leaves: Sequence[Any]) -> Vector:
    """Lay leaves one after the other, in float64 (complex128 if any is complex)."""
    parts = [np.asarray(leaf) for leaf in leaves]
    wide = np.complex128 if any(p.dtype.kind == "c" for p in parts) else np.float64
    if not parts:
        return np.zeros(0)
    return np.concatenate([p.astype(wide).reshape(-1) for p in parts])


def unpack(part: Vector, leaf: Leaf) -> np.ndarray:
    """One leaf's part of a vector, in the leaf's shape."""
    return part.reshape(leaf.shape)


def eps_of(dtype: Any) -> float:
    """The rounding unit of a dtype."""
    return float(jnp.finfo(dtype).eps)
