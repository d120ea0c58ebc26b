"""The mistakes that show in the whole Jacobian: which output's contribution goes to which entry.

Each function takes the evidence for one leaf and yields explanations. They are asked last, when
nothing simpler explains the error, and each must fit entry by entry.
"""

from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.diagnose.mistakes.answers import (
    entry_by_entry,
    jacobian_point,
    jacobians,
    rearrangements,
)

LARGEST_SQUARE = 64
SPARE = 4
"""A fit with no more equations than that to spare says nothing."""
SAME = 1e-7
"""Relative to the largest: contributions this close are one."""


def contributions_moved(e: Evidence) -> Iterator[Diagnosis]:
    """The amounts are right, and go to other entries."""
    found = jacobians(e)
    if found is None or e.leaf.size < 3:
        return
    _, got, truth, tolerance = found
    got, truth = _cleaned(got, tolerance), _cleaned(truth, tolerance)
    if not got.any() or not truth.any():
        return
    for a, b, whose in ((got, truth, "output sends back"), (got.T, truth.T, "entry receives")):
        if len(b) > 1 and _same_amounts(a, b):
            yield Diagnosis(
                "shifted",
                f"the amounts that each {whose} are right, their places are wrong",
                1.0,
            )
            return
    known = [("another contribution of the truth", truth[truth != 0])]
    point = jacobian_point(e)
    known += [(f"an entry of `{leaf.name}`", point[leaf.part]) for leaf in e.leaves]
    for what, values in known:
        distinct = np.unique(np.round(values / (np.abs(values).max(initial=0.0) or 1.0), 9))
        if distinct.size < 4:
            continue  # ones and zeros are in every set
        if _all_among(got, values) and _all_among(truth, values):
            yield Diagnosis(
                "shifted",
                f"each contribution is {what}, but not the one that belongs there: it is read, or "
                "put, at the wrong place",
                1.0,
            )
            return


def _cleaned(v: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    return np.where(np.abs(v) <= tolerance, 0.0, v)


def _same_amounts(a: np.ndarray, b: np.ndarray) -> bool:
    size = float(np.abs(b).max())
    return bool(np.all(np.abs(np.sort(a, axis=1) - np.sort(b, axis=1)) <= SAME * size))


def _all_among(v: np.ndarray, values: np.ndarray) -> bool:
    """Whether each entry of `v` is zero or one of `values`."""
    used, ordered = v[v != 0], np.sort(values)
    at = np.clip(np.searchsorted(ordered, used), 1, len(ordered) - 1)
    gap = np.minimum(np.abs(ordered[at] - used), np.abs(ordered[at - 1] - used))
    return bool(used.size and np.all(gap <= SAME * np.abs(used)))


def mask_forgotten(e: Evidence) -> Iterator[Diagnosis]:
    """All that must be there is, and more; or the one where the other belongs."""
    found = jacobians(e)
    if found is None or e.leaf.size < 3:
        return
    _, got, truth, tolerance = found
    there, given = np.abs(truth) > tolerance, np.abs(got) > tolerance
    right = np.abs(got - truth) <= tolerance
    if there.sum() < 2:
        return
    if np.all(right[there]):
        yield Diagnosis(
            "missing-term",
            f"the {int(there.sum())} contributions that must be there are right, and "
            f"{int((given & ~there).sum())} are there that must be zero: a mask, or what keeps "
            "them apart, is left out",
            1.0,
        )
        return
    if not entry_by_entry(e):
        return
    reached = (there | given).any(axis=0)
    if given.any() and reached.all() and not np.any(there & given):
        yield Diagnosis(
            "missing-term",
            "the cotangent is zero where it must not be, and the other way round: the mask is "
            "inverted",
            1.0,
        )
        return
    yield from _another_mask(e, got, truth)


def _another_mask(e: Evidence, got: np.ndarray, truth: np.ndarray) -> Iterator[Diagnosis]:
    """The factors of the entries rearranged, or of the same few values at other entries."""
    mine, theirs = got.sum(axis=0), truth.sum(axis=0)
    size = float(np.abs(theirs).max())
    laid = theirs.reshape(1, *e.leaf.shape)
    for word, sentence, moved in rearrangements(laid, e.leaf.shape):
        if np.all(np.abs(moved.reshape(-1) - mine) <= SAME * size):
            yield Diagnosis(
                word, f"the factor of each entry is right {sentence}: a mask or weight, say", 1.0
            )
            return
    values = np.unique(np.round(theirs / size, 9))
    others = np.unique(np.round(mine / size, 9))
    few = len(values) <= 3 and 0 in values and 3 * len(values) <= e.leaf.size
    if few and set(others) <= set(values):
        yield Diagnosis(
            "missing-term",
            "each entry has a right factor, but of another entry: the mask is another one",
            1.0,
        )


def redistributed(e: Evidence) -> Iterator[Diagnosis]:
    """What each output sends back adds up to the right total, on more or on fewer entries."""
    found = jacobians(e)
    if found is None or e.leaf.size < 3:
        return
    _, got, truth, tolerance = found
    totals, right = got.sum(axis=1), truth.sum(axis=1)
    size = float(np.abs(truth).max(initial=0.0))
    wrong = (np.abs(got - truth) > tolerance).any(axis=1)
    if np.any(np.abs(totals - right) > 1e-6 * size) or np.any(np.abs(right[wrong]) < 1e-3 * size):
        return
    there, given = np.abs(truth) > tolerance, np.abs(got) > tolerance
    if np.all(there | ~given) and given.sum() < there.sum():
        yield Diagnosis(
            "missing-term",
            "what each output sends back adds up to the right total, but only "
            f"{int(given.sum())} of {int(there.sum())} entries get a share of it",
            1.0,
        )
    elif np.all(given | ~there) and there.sum() < given.sum() and _even(got, given):
        yield Diagnosis(
            "surrogate",
            "what each output sends back adds up to the right total, spread evenly over entries "
            "that must get nothing: the gradient of a mean in place of a choice",
            1.0,
        )


def _even(v: np.ndarray, used: np.ndarray) -> bool:
    top = np.where(used, v, -np.inf).max(axis=1)
    low = np.where(used, v, np.inf).min(axis=1)
    return bool(np.all((top - low <= SAME * np.abs(top)) | ~used.any(axis=1)))


def outputs_exchanged(e: Evidence) -> Iterator[Diagnosis]:
    """The cotangents of two outputs exchanged."""
    starts = np.cumsum([0, *(int(np.prod(shape, dtype=int)) for shape in e.outputs)])
    for i in range(len(e.outputs)):
        for k in range(i + 1, len(e.outputs)):
            if not starts[i + 1] - starts[i] == starts[k + 1] - starts[k] > 0:
                continue
            first, second = slice(starts[i], starts[i + 1]), slice(starts[k], starts[k + 1])

            def exchange(x, c, first=first, second=second):  # type: ignore[no-untyped-def]
                c = c.copy()
                c[first], c[second] = c[second].copy(), c[first].copy()
                return x, c

            yield Diagnosis(
                "swapped-arguments",
                f"the cotangent is right for the incoming cotangents {i} and {k} exchanged",
                e.explained(e.asked(exchange)),
            )


def centred(e: Evidence) -> Iterator[Diagnosis]:
    """The mean taken off, of what comes in or of what goes out."""
    if len(e.outputs) == 1 and e.outputs[0]:
        shape = e.outputs[0]
        for axes in _axes_of(shape):

            def centre(x, c, axes=axes):  # type: ignore[no-untyped-def]
                laid = c.reshape(shape)
                return x, (laid - laid.mean(axis=axes, keepdims=True)).reshape(-1)

            yield Diagnosis(
                "missing-term",
                f"the mean of the incoming cotangent over axes {_list(axes)} is taken off",
                e.explained(e.asked(centre)),
            )
    for axes in _axes_of(e.leaf.shape):
        over = tuple(a + 1 for a in axes)
        yield Diagnosis(
            "missing-term",
            f"the mean of the cotangent over axes {_list(axes)} is taken off",
            e.explained(e.truth - e.truth.mean(axis=over, keepdims=True)),
        )


def _axes_of(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    axes = [a for a, n in enumerate(shape) if n > 1]
    yield from ((a,) for a in axes)
    if len(axes) > 1:
        yield tuple(axes)


def _list(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))


def through_a_sum(e: Evidence) -> Iterator[Diagnosis]:
    """The error goes through a few numbers: a term that contains a sum is wrong, the rest right."""
    found = jacobians(e)
    if found is None:
        return
    _, got, truth, tolerance = found
    error = _cleaned(got - truth, tolerance)
    sizes = []
    for rows, columns in _components(error != 0):
        part = error[np.ix_(rows, columns)]
        if min(part.shape) < 3:
            if np.abs(part).max() > 0:
                sizes.append((min(part.shape), 1, 1))
            continue
        whole = truth[np.ix_(rows, columns)]
        sizes.append((min(part.shape), _rank(part), _rank(whole)))
    large = [s for s in sizes if s[0] >= 3]
    if not large or len(large) < len(sizes):
        return
    if all(2 * rank <= size and 2 * rank <= right for size, rank, right in large):
        rank = max(rank for _, rank, _ in large)
        numbers = "one number" if rank == 1 else f"{rank} numbers"
        yield Diagnosis(
            "missing-term",
            f"the whole error goes through {numbers}: a term that contains a sum (over an axis, "
            "say) is missing or wrong, all others are right",
            1.0,
        )


def transposed_by_factors(e: Evidence) -> Iterator[Diagnosis]:
    """The Jacobian where its transpose belongs, up to a factor for each output and each entry."""
    found = jacobians(e)
    if found is None or found[2].shape[0] != found[2].shape[1] or len(found[2]) > LARGEST_SQUARE:
        return
    _, got, truth, tolerance = found
    got, truth = _cleaned(got, tolerance), _cleaned(truth, tolerance)
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


def _rank(v: np.ndarray) -> int:
    values = np.linalg.svd(v, compute_uv=False)
    return int(np.sum(values > 1e-7 * values[0]))


def _components(linked: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The blocks that a matrix falls into when rows and columns are sorted."""
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
