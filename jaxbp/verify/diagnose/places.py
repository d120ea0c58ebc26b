"""Where in an array wrong entries lie: at its border, in a block."""

from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose.rearrangements import subsets

WIDEST = 3
"""Entries: a border is no wider."""
MOSTLY = 0.5
"""More than this share of each end must be wrong for it to be the border that is."""


class Border(NamedTuple):
    """The ends of some axes."""

    axes: tuple[int, ...]
    width: int


def border_of(wrong: np.ndarray) -> Border | None:
    """The ends that hold all that is wrong, and how deep; None if it is not the ends."""
    axes = [a for a, size in enumerate(wrong.shape) if size > 2]
    for chosen in subsets(axes):
        for width in range(1, WIDEST + 1):
            # What is left within must be a third of the axis, or all is border.
            if any(3 * (wrong.shape[a] - 2 * width) < wrong.shape[a] for a in chosen):
                break
            cut = [slice(None)] * wrong.ndim
            for axis in chosen:
                cut[axis] = slice(width, wrong.shape[axis] - width)
            if wrong[tuple(cut)].any():
                continue
            ends = []
            for axis in chosen:
                along = np.moveaxis(wrong, axis, 0)
                ends += [along[:width].mean(), along[-width:].mean()]
            if min(ends) > MOSTLY:
                return Border(chosen, width)
            break
    return None


def is_block(wrong: np.ndarray) -> bool:
    """Whether what is wrong is a block of at most half of all."""
    places = np.argwhere(wrong)
    box = np.prod(places.max(axis=0) - places.min(axis=0) + 1)
    return bool(box == len(places) and len(places) <= wrong.size // 2)


def box_of(wrong: np.ndarray) -> str:
    """The smallest box that holds all that is wrong, as indices."""
    places = np.argwhere(wrong)
    ends = zip(places.min(axis=0), places.max(axis=0), strict=True)
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in ends)


def inside(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Which entries are not at the ends of these axes."""
    within = np.zeros(shape, dtype=bool)
    within[tuple(slice(1, -1) if a in axes else slice(None) for a in range(len(shape)))] = True
    return within
