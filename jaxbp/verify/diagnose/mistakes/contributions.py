"""The mistakes that show in the contributions: which output sends what to which entry.

Each function takes the evidence for one leaf and yields explanations: some contributions are
missing, go elsewhere, or are shared out in another way.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence
from jaxbp.verify.diagnose.jacobian import MOST_ROWS, SAME, Jacobian
from jaxbp.verify.diagnose.mistakes.entries import few_entries
from jaxbp.verify.diagnose.places import border_of, inside
from jaxbp.verify.diagnose.rearrangements import listed, rearrangements, subsets
from jaxbp.verify.subject import inputs

SAME_SUM = 1e-6
"""Relative: sums this close are one."""


def misplaced(e: Evidence) -> Iterator[Diagnosis]:
    """What an output sends back has the right size and goes to another entry."""
    j = e.differing_jacobian
    if j is None or e.leaf.size < 3 or not j.got.any():
        return
    error = np.where(j.wrong, j.got - j.truth, 0.0)
    looks = [(error, j.truth)]
    for axis, size in enumerate(e.leaf.shape):
        if 2 < size < e.leaf.size:
            looks.append((_fibres(e, error, axis), _fibres(e, j.truth, axis)))
    if any(_goes_elsewhere(rows, correct) for rows, correct in looks):
        yield Diagnosis(
            "shifted",
            "an amount of the right size is added to one entry and is missing at another: it "
            "goes to the wrong place",
            1.0,
        )


def _fibres(e: Evidence, v: np.ndarray, axis: int) -> np.ndarray:
    """Rows of a Jacobian cut into what lies along one axis of the leaf."""
    whole = v.reshape(len(v), *e.leaf.shape)
    return np.moveaxis(whole, axis + 1, -1).reshape(-1, e.leaf.shape[axis])


def _goes_elsewhere(error: np.ndarray, truth: np.ndarray) -> bool:
    """Whether in each row an amount is added at one entry and missing at another."""
    off = np.count_nonzero(error, axis=1)
    moved = (off == 2) & (np.abs(error.sum(axis=1)) <= SAME_SUM * np.abs(error).max(axis=1))
    gone = np.all((error == 0) | (error == -truth), axis=1) & (off == 1)
    if moved.any():  # it may also have gone over the edge, the same amount as elsewhere
        amounts = np.abs(error[moved]).max(axis=1)
        alone = np.abs(error).max(axis=1)
        same = np.abs(alone - amounts[0]) <= SAME_SUM * amounts[0]
        if np.ptp(amounts) <= SAME_SUM * amounts[0]:
            gone |= (off == 1) & same
    return bool(np.all((off == 0) | moved | gone) and 2 * moved.sum() > gone.sum())


def one_of_several(e: Evidence) -> Iterator[Diagnosis]:
    """Entries that several outputs contribute to hold one contribution alone."""
    size = e.cotangents.shape[1]
    if size > MOST_ROWS:
        return
    truths: dict[bytes, np.ndarray] = {}
    matched = 0
    for x, c, got, truth in zip(e.points, e.cotangents, e.got, e.truth, strict=True):
        if x.tobytes() not in truths:
            each = [e.reference(x, inputs.one_hot(size, row)) for row in range(size)]
            truths[x.tobytes()] = np.array([answer[e.leaf.part] for answer in each])
        room = SAME * float(np.abs(truth).max(initial=0.0))
        off = np.abs(got - truth).reshape(-1) > room
        if not off.any():
            continue
        shares = c[:, None] * truths[x.tobytes()][:, off]
        gap = np.abs(got.reshape(-1)[off] - np.where(shares == 0, np.inf, shares)).min(axis=0)
        if np.any(gap > room) or np.any(np.count_nonzero(shares, axis=0) < 2):
            return
        matched += int(off.sum())
    if matched:
        yield Diagnosis(
            "overwritten",
            "entries that several outputs contribute to hold only one contribution: the others "
            "are replaced where they should be added",
            1.0,
        )


def border_elements(e: Evidence) -> Iterator[Diagnosis]:
    """Right wherever neither the entry nor the output is at the border."""
    j = e.differing_jacobian
    if j is None or len(e.outputs) != 1 or len(e.outputs[0]) != len(e.leaf.shape):
        return
    axes = [a for a, n in enumerate(e.leaf.shape) if n > 3 and e.outputs[0][a] > 3]
    for chosen in subsets(axes):
        inner = [inside(shape, chosen).reshape(-1) for shape in (e.outputs[0], e.leaf.shape)]
        right = np.outer(*inner)
        coupled = np.abs(j.truth) * right
        if coupled.shape[0] == coupled.shape[1]:
            np.fill_diagonal(coupled, 0.0)  # entry by entry, the border would show in the entries
        if j.wrong[right].any() or np.count_nonzero(coupled) < 3:
            continue
        yield Diagnosis(
            "border",
            f"wrong only between entries and outputs of which one is at the border along axes "
            f"{listed(chosen)}",
            1.0,
        )
        return


def some_contributions(e: Evidence) -> Iterator[Diagnosis]:
    """Some outputs' contributions kept, others dropped."""
    j = e.differing_jacobian
    if j is None or len(j.got) < 2:
        return
    kept = j.there & j.right
    if not np.all(j.right | ~j.given) or not kept.any() or not np.any(j.there & j.wrong):
        return
    held, all_of_them = kept.sum(axis=0), j.there.sum(axis=0)
    if np.all((held == all_of_them) | (held == 0)):  # entry by entry: `lost_examples`
        return
    if _only_its_own(e, j):
        yield Diagnosis(
            "missing-term",
            "only what each output entry sends to the input entry at its own place is there; "
            "the terms that couple different entries are missing",
            1.0,
        )
        return
    shape = next((s for s in e.outputs if math.prod(s) == len(j.got)), None)
    axis_wise = None if shape is None else _by_output_axis(j.there, j.right, shape)
    hit = (held < all_of_them) & (held > 0)
    few_kept = bool(hit.any() and np.all(2 * held[hit] <= all_of_them[hit]))
    unlike = len(set(all_of_them[all_of_them > 0].tolist())) > 1
    one_each = axis_wise is not None and held[hit].max(initial=0) == 1
    if few_kept and (axis_wise is None or (one_each and (len(axis_wise.places) > 1 or unlike))):
        # Inner entries that keep several contributions are not written over.
        if np.any((held == all_of_them) & (held > 1)) and border_of(hit.reshape(e.leaf.shape)):
            yield from few_entries(e)
            return
        yield Diagnosis(
            "overwritten",
            f"entries that several outputs contribute to (up to {int(all_of_them.max())}) keep "
            "only some contributions: the others are replaced where they should be added",
            1.0,
        )
    elif axis_wise is not None:
        yield Diagnosis(
            "border" if axis_wise.all_but_an_end else "one-example",
            f"only the contributions of {axis_wise} are in the cotangent",
            1.0,
        )


def _only_its_own(e: Evidence, j: Jacobian) -> bool:
    """Whether each entry keeps what the output at its own place sends, and nothing else."""
    if len(e.outputs) != 1 or e.outputs[0] != e.leaf.shape:
        return False
    own = np.eye(len(j.got), dtype=bool)
    return bool(np.all(j.right | ~own) and not np.any(j.right & j.there & ~own))


class _OutputsAlongAxis(NamedTuple):
    """The outputs of some index along one axis."""

    places: list[int]
    axis: int
    length: int

    @property
    def all_but_an_end(self) -> bool:
        """Whether it is all but one end of the axis or both, as at the border of an image."""
        last = self.length - 1
        ends = [i for i in range(self.length) if i not in self.places]
        return ends in ([0], [last], [0, last]) and self.length > 2 and self.axis > 0

    def __str__(self) -> str:
        return f"output index {self.places} along axis {self.axis} (of {self.length})"


def _by_output_axis(
    there: np.ndarray, kept: np.ndarray, shape: tuple[int, ...]
) -> _OutputsAlongAxis | None:
    """The outputs whose contributions are kept, if the index along one axis decides it."""
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        place = np.unravel_index(np.arange(math.prod(shape)), shape)[axis]
        whole = [bool(np.all(kept[place == i] | ~there[place == i])) for i in range(size)]
        none = [bool(not np.any(kept[place == i] & there[place == i])) for i in range(size)]
        if not all(a or b for a, b in zip(whole, none, strict=True)):
            continue
        places = [i for i in range(size) if whole[i] and not none[i]]
        if places and len(places) < size:
            return _OutputsAlongAxis(places, axis, size)
    return None


def lost_outputs(e: Evidence) -> Iterator[Diagnosis]:
    """What the outputs of some index along an axis send back is missing, all else right."""
    j = e.differing_jacobian
    if j is None or len(e.outputs) != 1 or not j.entry_by_entry:
        return
    if not np.all(j.right | ~j.given) or not np.any(j.there & j.wrong):
        return
    lost = _by_output_axis(j.there, j.wrong, e.outputs[0])
    if lost is not None and len(e.outputs[0]) > 1 and lost.axis > 0:
        what = f"the contributions of {lost} are missing from the cotangent"
        yield Diagnosis("missing-term", what, 1.0)


def dropped_contributions(e: Evidence) -> Iterator[Diagnosis]:
    """Of every entry's contributions some are right and the others not there."""
    j = e.differing_jacobian
    if j is None or len(j.got) < 2:
        return
    if np.all(j.right | ~j.given) and np.any(j.there & j.right):
        dropped, all_of_them = int((j.there & j.wrong).sum()), int(j.there.sum())
        yield Diagnosis(
            "missing-term",
            f"{dropped} of the {all_of_them} contributions of outputs to entries "
            "are missing, the others right",
            1.0,
        )


def contributions_moved(e: Evidence) -> Iterator[Diagnosis]:
    """The amounts are right, and go to other entries."""
    j = e.differing_jacobian
    if j is None or e.leaf.size < 3:
        return
    got, truth = j.cleaned(j.got), j.cleaned(j.truth)
    if not got.any() or not truth.any():
        return
    for a, b, whose in ((got, truth, "output sends back"), (got.T, truth.T, "entry receives")):
        if len(b) > 1 and _same_amounts(a, b):
            what = f"the amounts that each {whose} are right, their places are wrong"
            yield Diagnosis("shifted", what, 1.0)
            return
    known = [("another contribution of the truth", truth[truth != 0])]
    known += [(f"an entry of `{leaf.name}`", j.point[leaf.part]) for leaf in e.leaves]
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
    j = e.differing_jacobian
    if j is None or e.leaf.size < 3 or j.there.sum() < 2:
        return
    if np.all(j.right[j.there]):
        yield Diagnosis(
            "missing-term",
            f"the {int(j.there.sum())} contributions that must be there are right, and "
            f"{int((j.given & ~j.there).sum())} are there that must be zero: a mask, or what keeps "
            "them apart, is left out",
            1.0,
        )
        return
    if not j.entry_by_entry:
        return
    reached = (j.there | j.given).any(axis=0)
    if j.given.any() and reached.all() and not np.any(j.there & j.given):
        yield Diagnosis(
            "missing-term",
            "the cotangent is zero where it must not be, and the other way round: the mask is "
            "inverted",
            1.0,
        )
        return
    yield from _another_mask(e, j)


def _another_mask(e: Evidence, j: Jacobian) -> Iterator[Diagnosis]:
    """The factors of the entries rearranged, or of the same few values at other entries."""
    mine, theirs = j.got.sum(axis=0), j.truth.sum(axis=0)
    size = float(np.abs(theirs).max())
    for word, sentence, moved in rearrangements(theirs.reshape(1, *e.leaf.shape), e.leaf.shape):
        if np.all(np.abs(moved.reshape(-1) - mine) <= SAME * size):
            what = f"the factor of each entry is right {sentence}: a mask or weight, say"
            yield Diagnosis(word, what, 1.0)
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
    j = e.differing_jacobian
    if j is None or e.leaf.size < 3:
        return
    totals, right = j.got.sum(axis=1), j.truth.sum(axis=1)
    size = float(np.abs(j.truth).max(initial=0.0))
    off = j.wrong.any(axis=1)
    # Totals of nothing, as of a softmax, are right whatever they are shared out to.
    if np.any(np.abs(totals - right) > SAME_SUM * size) or np.any(np.abs(right[off]) < 1e-3 * size):
        return
    if np.all(j.there | ~j.given) and j.given.sum() < j.there.sum():
        yield Diagnosis(
            "missing-term",
            "what each output sends back adds up to the right total, but only "
            f"{int(j.given.sum())} of {int(j.there.sum())} entries get a share of it",
            1.0,
        )
    elif np.all(j.given | ~j.there) and j.there.sum() < j.given.sum() and _even(j.got, j.given):
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
