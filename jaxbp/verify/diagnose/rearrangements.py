"""Every way to rearrange an array that keeps its shape: axes exchanged, mirrored, displaced."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

FARTHEST = 4
"""Entries: nobody is off by more."""
LONGEST_PAIRED = 12
"""Of axes up to this length any two entries may be exchanged."""


class Rearranged(NamedTuple):
    """An array rearranged in one way."""

    word: str
    """What to call the mistake."""
    sentence: str
    """Goes on from "the cotangent is the truth"."""
    value: np.ndarray


class IndexMap(NamedTuple):
    """One way to rearrange a flat array."""

    word: str
    sentence: str
    source: np.ndarray
    """Which entry stands where; -1: a zero that is let in."""

    def of(self, v: np.ndarray) -> np.ndarray:
        """A flat array rearranged so."""
        return np.where(self.source < 0, 0.0, v[np.maximum(self.source, 0)])


def rearrangements(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[Rearranged]:
    """`v` [S, *shape] rearranged in every way that keeps the shape."""
    axes = long_axes(shape)
    yield from _exchanged(v, shape)
    for chosen in subsets(axes):
        flipped = np.flip(v, tuple(a + 1 for a in chosen))
        yield Rearranged("flipped", f"mirrored along axes {listed(chosen)}", flipped)
    for axis in axes:
        for step in range(1, min((shape[axis] + 1) // 2, FARTHEST) + 1):
            for k in (step, -step):
                what = f"displaced by {k} along axis {axis}"
                yield Rearranged("shifted", what, _moved(v, k, axis + 1))
                yield Rearranged("shifted", what + ", around the edge", np.roll(v, k, axis + 1))
    for i, k in itertools.combinations(range(len(shape)), 2):
        if shape[i] == shape[k] > 1 and len(shape) > 2:
            swapped = np.swapaxes(v, i + 1, k + 1)
            for chosen in subsets([a for a in axes if a not in (i, k)]):
                what = f"with axes {i} and {k} exchanged and mirrored along {listed(chosen)}"
                yield Rearranged("flipped", what, np.flip(swapped, tuple(a + 1 for a in chosen)))
    yield from _factored(v, shape)


def index_maps(shape: tuple[int, ...]) -> Iterator[IndexMap]:
    """The same as maps of indices, for an array of this shape."""
    indices = np.arange(math.prod(shape)).reshape(1, *shape) + 1
    for word, sentence, moved in rearrangements(indices, shape):
        yield IndexMap(word, sentence, moved.reshape(-1) - 1)


def _exchanged(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[Rearranged]:
    rank = len(shape)
    if not 2 <= rank <= 5:
        return
    for order in itertools.permutations(range(rank)):
        if list(order) == sorted(order):
            continue
        turned = np.transpose(v, (0, *[a + 1 for a in order]))
        same = turned.shape == v.shape
        what = f"with its axes in the order {order}" + ("" if same else " and then reshaped")
        yield Rearranged("transposed", what, turned.reshape(v.shape))
        if not same:  # the other way round: laid out in another order, then read as this one
            other = v.reshape((len(v), *[shape[a] for a in order]))
            back = np.transpose(other, (0, *[int(a) + 1 for a in np.argsort(order)]))
            if back.shape == v.shape:
                what = f"reshaped, then with axes {order} exchanged"
                yield Rearranged("transposed", what, back)


def _factored(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[Rearranged]:
    """Two factors of one axis exchanged, or two of its entries."""
    for axis, size in enumerate(shape):
        for outer in range(2, size // 2 + 1):
            if size % outer:
                continue
            parts = (len(v), *shape[:axis], outer, size // outer, *shape[axis + 1 :])
            mixed = np.swapaxes(v.reshape(parts), axis + 1, axis + 2).reshape(v.shape)
            what = f"with the two factors {outer}×{size // outer} of axis {axis} exchanged"
            yield Rearranged("transposed", what, mixed)
        if 2 < size <= LONGEST_PAIRED:
            for i, j in itertools.combinations(range(size), 2):
                order = list(range(size))
                order[i], order[j] = j, i
                what = f"with entries {i} and {j} of axis {axis} exchanged"
                yield Rearranged("transposed", what, np.take(v, order, axis=axis + 1))


def _moved(v: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Displaced with zeros let in."""
    moved = np.roll(v, step, axis)
    gap = [slice(None)] * v.ndim
    gap[axis] = slice(0, step) if step > 0 else slice(step, None)
    moved[tuple(gap)] = 0.0
    return moved


def long_axes(shape: tuple[int, ...]) -> list[int]:
    """The axes along which there is something to rearrange."""
    return [a for a, size in enumerate(shape) if size > 1]


def subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every choice of axes but none, the smallest first."""
    for length in range(1, len(axes) + 1):
        yield from itertools.combinations(axes, length)


def listed(axes: Sequence[int]) -> str:
    """Axes as a sentence has them."""
    return ", ".join(map(str, axes))
