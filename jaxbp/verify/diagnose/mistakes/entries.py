"""The mistakes that show in single entries: some are wrong, or each by a factor of its own.

Each function takes the evidence for one leaf and yields explanations.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose.diagnosis import EXACT, Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence
from jaxbp.verify.diagnose.places import border_of, box_of, is_block

FEW = 4
"""At most one entry in so many is wrong where only a few are."""
LOST = 3
"""At most one entry in so many is lost where a block is."""
MOST = 0.3
"""A region must leave at least so much of the leaf right."""


def few_entries(e: Evidence) -> Iterator[Diagnosis]:
    """Right but for the border, or for a few entries."""
    if not e.anywhere.any() or e.leaf.size < 2:
        return
    wrong = max(_wrong_at_each_point(e), key=lambda mask: int(mask.sum()))
    if not wrong.any():  # points that hold a NaN equal no point, not even themselves
        return
    count = int(wrong.sum())
    border = border_of(wrong)
    if border is not None:
        axes = ", ".join(map(str, border.axes))
        yield Diagnosis(
            "border",
            f"only entries within {border.width} of the border along axes {axes} are wrong "
            f"({count} of {e.leaf.size})",
            1.0,
        )
    elif count <= max(1, e.leaf.size // FEW) or is_block(wrong):
        yield Diagnosis(
            "local",
            f"only {count} of {e.leaf.size} entries are wrong, within [{box_of(wrong)}]",
            1.0,
        )


def _wrong_at_each_point(e: Evidence) -> Iterator[np.ndarray]:
    """Which entries are wrong; others may be at another point (those that win there, say)."""
    for x in {x.tobytes(): x for x in e.points}.values():
        yield np.asarray(e.wrong[np.all(e.points == x, axis=1)].any(axis=0))


def lost_entries(e: Evidence) -> Iterator[Diagnosis]:
    """A block of at most a third of the entries is zero, and all others are right."""
    wrong = e.anywhere
    if not wrong.any() or LOST * wrong.sum() > e.leaf.size or np.any(e.got[:, wrong] != 0):
        return
    if is_block(wrong) and border_of(wrong) is None:
        yield from few_entries(e)


def lost_examples(e: Evidence) -> Iterator[Diagnosis]:
    """Right for some examples, and zero for at least as many."""
    if not e.leaf.shape:
        return
    there = np.any(e.truth != 0, axis=0)
    given = np.any(e.got != 0, axis=0)
    if np.any(e.anywhere & given):
        return
    length = e.leaf.shape[0]
    rows = there.reshape(length, -1).any(axis=1)
    gone = e.anywhere.reshape(length, -1).any(axis=1)
    whole = not np.any((there & ~e.anywhere)[gone])
    used, kept = np.flatnonzero(rows), np.flatnonzero(rows & ~gone)
    at_one_end = kept.size > 0 and (
        np.array_equal(kept, used[: kept.size]) or np.array_equal(kept, used[-kept.size :])
    )
    if whole and at_one_end and rows.sum() > 1 and 2 * gone.sum() >= rows.sum():
        yield Diagnosis(
            "one-example",
            f"only entries {kept.tolist()} along axis 0 (of {length}) have "
            "a cotangent, the others zero",
            1.0,
        )


def one_region(e: Evidence) -> Iterator[Diagnosis]:
    """Right at many entries, and at the others wrong by a factor: a branch of the function."""
    found = _factor_of_each_entry(e)
    if found is None:
        return
    same = e.at_first_point
    off = e.wrong[same].any(axis=0).reshape(-1)
    there = np.abs(e.truth[same]).max(axis=0).reshape(-1) > 0
    right = there & ~off
    if not off.any() or right.sum() < 2 or right.sum() < MOST * e.leaf.size:
        return
    sentence = (
        f"right at {int(right.sum())} of {e.leaf.size} entries, wrong by a factor at "
        f"{int(off.sum())}{_where(e, right, off)}"
    )
    yield Diagnosis("local", sentence, found.share)


def _where(e: Evidence, right: np.ndarray, off: np.ndarray) -> str:
    """On which side of which value of the argument, or of its size, it is wrong."""
    x = e.points[0][e.leaf.part]
    for values, what in ((x, f"`{e.leaf.name}`"), (np.abs(x), f"|`{e.leaf.name}`|")):
        for side, low, high in (
            ("above", values[right].max(), values[off].min()),
            ("below", values[off].max(), values[right].min()),
        ):
            if low < high:
                return f": wrong where {what} is {side} about {0.5 * (low + high):.3g}"
    return ""


def divided_by_counts(e: Evidence) -> Iterator[Diagnosis]:
    """Each entry over the number of its contributions: an embedding's row used twice, say."""
    found = _factor_of_each_entry(e)
    if found is not None and _is_one_over_counts(e, found.ratio):
        most = round(float((1 / found.ratio[found.ratio != 0]).max()))
        yield Diagnosis(
            "averaged",
            "each entry is divided by the number of its contributions "
            f"(up to {most}): a mean where a sum belongs",
            found.share,
        )


def _is_one_over_counts(e: Evidence, ratio: np.ndarray) -> bool:
    """Whether each entry's factor is one over the number of outputs that it contributes to."""
    j = e.differing_jacobian
    if j is None:
        return False
    counts = j.there.sum(axis=0).reshape(ratio.shape)
    used = (counts > 0) & (ratio != 0)
    if not used.any() or counts[used].max() < 2:
        return False
    with np.errstate(divide="ignore"):
        inverse = 1.0 / ratio[used]
    # An embedding's row is used by several tokens, each of which contributes to one entry once.
    return bool(np.allclose(inverse, counts[used], 1e-6))


def factor(e: Evidence) -> Iterator[Diagnosis]:
    """A factor for each entry, or for each output, that no cotangent changes."""
    per_entry = _factor_of_each_entry(e)
    if per_entry is None:
        yield from _factor_of_each_output(e)
    elif not e.entry_by_entry:
        ratio = per_entry.ratio
        yield Diagnosis(
            "missing-term",
            "each entry is the truth times a factor of its own "
            f"({np.nanmin(ratio):.4g} to {np.nanmax(ratio):.4g}) whatever the cotangent",
            per_entry.share,
        )
    elif _outputs_have_factors(e):
        yield Diagnosis(
            "missing-term",
            "what each output sends back is the truth times a factor of its own: a factor "
            "of the output, or of its example, is missing or wrong",
            per_entry.share,
        )
    else:  # then any wrong derivative is a factor: it must be a known one
        known = _recognised(e, per_entry.ratio)
        if known is not None:
            what = f"each entry lacks the factor {known}"
            yield Diagnosis("missing-term", what, per_entry.share)


def _factor_of_each_output(e: Evidence) -> Iterator[Diagnosis]:
    j = e.differing_jacobian
    if j is None:
        return
    if e.leaf.size == 1:  # then any wrong answer is a factor for each output
        with np.errstate(all="ignore"):
            known = _recognised(e, (j.got / j.truth).reshape(-1))
        if known is not None:
            what = f"each output's contribution lacks the factor {known}"
            yield Diagnosis("missing-term", what, 1.0)
        return
    share = 0.0 if j.entry_by_entry else _share_of_factors(j.got, j.truth)
    if share >= EXACT and len(j.got) > 1:
        yield Diagnosis(
            "missing-term",
            "each output's contribution is the truth times a factor of its own: a factor that "
            "belongs on the incoming cotangent (an activation's derivative, say) is not right",
            share,
        )


def _outputs_have_factors(e: Evidence) -> bool:
    """Whether the many entries that one output sends to are all wrong by one factor."""
    j = e.differing_jacobian
    if j is None or len(j.truth) < 2:
        return False
    several = np.count_nonzero(j.truth, axis=1) > 1
    return bool(several.sum() > 1 and _share_of_factors(j.got, j.truth) >= EXACT)


def _share_of_factors(got: np.ndarray, truth: np.ndarray) -> float:
    """The share of the error that is gone when every row may have a factor of its own."""
    if np.count_nonzero(truth, axis=1).max(initial=0) < 2:
        return 0.0  # a single number is a multiple of any other
    norm = np.sum(np.abs(truth) ** 2, axis=1)
    back = np.sum(np.abs(got) ** 2, axis=1)
    cross = np.sum(truth.conj() * got, axis=1)
    ratio = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    left = np.sum(np.abs(got - ratio[:, None] * truth) ** 2, axis=1)
    # A row that must be zero and is not (a relu's closed gate) has an infinite factor.
    left = np.where(norm == 0, 0.0, left)
    if np.any((norm == 0) & (back > 0)) and np.any((norm > 0) & (back == 0)):
        return 0.0  # not one factor too few: closed gates are open and open ones closed
    error = float(np.sum(np.abs(got - truth) ** 2))
    return 1.0 - float(np.sum(left)) / error if error > 0 else 0.0


class _Factors(NamedTuple):
    """A factor for each entry."""

    ratio: np.ndarray
    share: float
    """How much of the error they explain."""


def _factor_of_each_entry(e: Evidence) -> _Factors | None:
    """got / truth for each entry, where it is the same for every cotangent at one point."""
    got, truth = e.got[e.at_first_point], e.truth[e.at_first_point]
    if len(got) < 2 or e.leaf.size < 2:
        return None
    norm = np.sum(truth * truth, axis=0)
    top = np.sum(truth * got, axis=0)
    ratio = np.divide(top, norm, out=np.zeros_like(top), where=norm > 0)
    left = np.sum(np.abs(got - ratio * truth) ** 2)
    error = np.sum(np.abs(got - truth) ** 2)
    if not error > 0:
        return None
    # As many factors as entries: they must fit exactly to be more than a coincidence.
    share = 1.0 - float(left / error)
    return _Factors(ratio, share) if share >= EXACT else None


def _recognised(e: Evidence, ratio: np.ndarray) -> str | None:
    """What the truth over the answer is, among what the function computes on its way."""
    flat = ratio.reshape(-1)
    used = np.isfinite(flat) & (flat != 0)
    if used.sum() < 3:
        return None
    lacking = 1.0 / flat[used]
    for name, value in e.known(e.points[0]):
        if value.size not in (1, flat.size):
            continue
        v = np.broadcast_to(value.reshape(-1), flat.shape)[used]
        with np.errstate(all="ignore"):
            for spelled, candidate in (
                ("{}", v), ("1 / {}", 1 / v), ("{}²", v * v), ("1 / {}²", 1 / (v * v)),
                ("1 - {}", 1 - v), ("1 + {}", 1 + v), ("1 / (1 - {})", 1 / (1 - v)),
                ("1 / (1 + {})", 1 / (1 + v)), ("1 - {}²", 1 - v * v), ("1 + {}²", 1 + v * v),
                ("log {}", np.log(v)), ("exp {}", np.exp(v)), ("cos {}", np.cos(v)),
            ):  # fmt: skip
                for sign in (1.0, -1.0):
                    if np.allclose(sign * candidate, lacking, 1e-5, 0.0):
                        return ("-" if sign < 0 else "") + spelled.format(name)
    return None
