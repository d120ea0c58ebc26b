"""The mistakes that show in the Jacobian as a whole: its transpose, or an error of low rank.

Each function takes the evidence for one leaf and yields explanations. They are asked last, when
nothing simpler explains the error.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence

LARGEST_SQUARE = 64
"""Factors are not fitted to larger Jacobians: it takes the cube of their size."""
SPARE = 4
"""A fit with no more equations than that to spare says nothing."""
NO_RANK = 1e-7
"""Relative to the largest: a singular value this small is none."""


def adjoint_forgotten(e: Evidence) -> Iterator[Diagnosis]:
    """The Jacobian applied where its transpose belongs."""
    j = e.differing_jacobian
    if j is None or j.truth.shape[0] != j.truth.shape[1]:
        return
    error = float(np.sum(np.abs(j.got - j.truth) ** 2))
    left = float(np.sum(np.abs(j.got - j.truth.T) ** 2))
    yield Diagnosis(
        "transposed",
        "the function's own Jacobian is applied to the cotangent, not its transpose: the "
        "backward runs the forward again, in the forward's order",
        max(0.0, 1.0 - left / error),
    )


def transposed_by_factors(e: Evidence) -> Iterator[Diagnosis]:
    """The Jacobian where its transpose belongs, up to a factor for each output and each entry."""
    j = e.differing_jacobian
    if j is None or j.truth.shape[0] != j.truth.shape[1] or len(j.truth) > LARGEST_SQUARE:
        return
    got, truth = j.cleaned(j.got), j.cleaned(j.truth)
    if _by_factors(got, truth.T) and not _by_factors(got, truth):
        yield Diagnosis(
            "transposed",
            "the Jacobian stands where its transpose belongs, up to a factor for each output and "
            "each entry: a solve, a product or a running sum goes the other way round",
            1.0,
        )


def _by_factors(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether log |a_ij / b_ij| = r_i + s_j wherever they are not zero, in the same places."""
    there = a != 0
    if not np.array_equal(there, b != 0) or not there.any():
        return False
    i, j = np.nonzero(there)
    design = np.zeros((len(i), sum(a.shape)))
    design[np.arange(len(i)), i] = design[np.arange(len(i)), len(a) + j] = 1.0
    ratio = np.log(np.abs(a[i, j] / b[i, j]))
    factors, _, rank, _ = np.linalg.lstsq(design, ratio, rcond=None)
    return bool(len(i) >= rank + SPARE and np.abs(design @ factors - ratio).max() <= 1e-6)


def through_a_sum(e: Evidence) -> Iterator[Diagnosis]:
    """The error goes through a few numbers: a term that contains a sum is wrong, the rest right."""
    j = e.differing_jacobian
    if j is None:
        return
    error = j.error
    blocks = []
    for rows, columns in _components(error != 0):
        part, whole = error[np.ix_(rows, columns)], j.truth[np.ix_(rows, columns)]
        if not part.any():
            continue
        if min(part.shape) < 3:  # which a few numbers make up anyhow
            return
        blocks.append(_Block(min(part.shape), _rank(part), _rank(whole)))
    if blocks and all(2 * b.rank <= min(b.size, b.rank_of_truth) for b in blocks):
        rank = max(b.rank for b in blocks)
        numbers = "one number" if rank == 1 else f"{rank} numbers"
        yield Diagnosis(
            "missing-term",
            f"the whole error goes through {numbers}: a term that contains a sum (over an axis, "
            "say) is missing or wrong, all others are right",
            1.0,
        )


class _Block(NamedTuple):
    """A block of the error that shares no row or column with another."""

    size: int
    rank: int
    rank_of_truth: int


def _rank(v: np.ndarray) -> int:
    values = np.linalg.svd(v, compute_uv=False)
    return int(np.sum(values > NO_RANK * values[0]))


def _components(linked: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The blocks, rows and columns each, that a matrix falls into when these are sorted."""
    left = linked.any(axis=1)
    blocks = []
    while left.any():
        rows = np.zeros(len(linked), dtype=bool)
        rows[np.argmax(left)] = True
        while True:
            columns = linked[rows].any(axis=0)
            more = linked[:, columns].any(axis=1)
            if np.array_equal(more, rows):
                break
            rows = np.asarray(more)
        left = left & ~rows
        blocks.append((np.flatnonzero(rows), np.flatnonzero(columns)))
    return blocks
