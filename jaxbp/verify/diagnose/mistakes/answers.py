"""The mistakes that show in the answers alone: the truth times a number, rearranged, of another.

Each function takes the evidence for one leaf and yields explanations: what the rule would answer
if it made one certain mistake.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Change, Evidence
from jaxbp.verify.diagnose.rearrangements import (
    index_maps,
    listed,
    long_axes,
    rearrangements,
    subsets,
)
from jaxbp.verify.subject.vectors import Vector

MULTIPLE = 0.995
"""One factor for all entries must explain this much."""
LARGEST_TURNED = 100_000
"""Arguments of more entries are not rearranged."""
SMALLEST_MEAN = 3
"""A factor of a half is more likely a derivative's than a mean of two."""
OVERLAP = 0.4
"""So much of the leaf must both have, if it is to be displaced."""
MASKED = 4
"""A mean may have counted this many times the contributions that a mask has left."""


def zero(e: Evidence) -> Iterator[Diagnosis]:
    """Nothing where there must be something."""
    if not e.got.any():
        yield Diagnosis("zero", "the cotangent is zero everywhere, and must not be", 1.0)


def stale(e: Evidence) -> Iterator[Diagnosis]:
    """The answer that was right for the first call."""
    given = e.given
    if given is None or all(np.array_equal(x, given) for x in e.points):
        return
    yield Diagnosis(
        "nondeterministic",
        "the cotangent is the one for the arguments of an earlier call: something is kept between "
        "calls",
        e.explained(e.asked(lambda _, c: (given, c))),
    )


def surrogate(e: Evidence) -> Iterator[Diagnosis]:
    """Something where the truth is nothing, though the function depends on the argument."""
    if e.truth.any():
        return
    yield Diagnosis(
        "surrogate",
        "the function's own derivative is zero (almost) everywhere, and the rule gives another "
        "one in its place: on purpose, it seems, as a straight-through estimator does",
        1.0,
    )


def multiple(e: Evidence) -> Iterator[Diagnosis]:
    """One factor times the truth."""
    factor, share = e.fitted(e.truth)
    if factor == 0:
        return
    if naming.close(factor, -1.0):
        yield Diagnosis("sign", "the cotangent is minus the truth", share)
        return
    if np.iscomplexobj(e.truth) and np.any(e.truth.imag):
        share_of_conjugate = e.explained(np.conj(e.truth))
        if share_of_conjugate >= MULTIPLE:
            what = "the imaginary part has its sign turned: it is conjugated, or must be"
            yield Diagnosis("sign", what, share_of_conjugate)
            return
    if share < MULTIPLE:
        yield from _multiple_of_the_data(e)
        return
    yield _times_a_number(e, factor, share)


def _times_a_number(e: Evidence, factor: float, share: float) -> Diagnosis:
    """A mean, or a factor that may look like the size of something."""
    inputs = [(leaf.name, leaf.shape) for leaf in e.leaves]
    sizes = list(naming.counts(inputs, e.outputs))
    sentence = f"the cotangent is {naming.spelled(factor)} times the truth"
    mean = naming.count_like(1.0 / factor, sizes)
    averaged_over = _averaged_over(e, factor, mean)
    if averaged_over is not None:
        why = f"{sentence}: a mean where a sum belongs, 1 over {averaged_over}"
        return Diagnosis("averaged", why, share)
    like = naming.count_like(abs(factor), sizes)
    if like is not None:
        sentence += f", which is {like.what}"
    elif mean is not None:
        sentence += f", which is 1 over {mean.what}"
    return Diagnosis("scale", sentence, share)


def _averaged_over(e: Evidence, factor: float, mean: naming.Count | None) -> str | None:
    """What a mean that gives this factor is taken over; None if it is not likely one."""
    several = _contributing(e)
    if several is None:
        return mean.what if mean is not None and mean.size >= SMALLEST_MEAN else None
    if not (factor > 0 and naming.close(1 / factor, round(1 / factor))):
        return None
    # A mean is one over a number of things that were there to be added.
    if 1 < round(1 / factor) <= several and (mean or round(1 / factor) == several):
        return mean.what if mean else "the number of outputs that each entry contributes to"
    # Entries that add nothing just here (a mask) were counted by the mean all the same.
    if mean is None or mean.size < SMALLEST_MEAN:
        return None
    return mean.what if several >= 2 and MASKED * several >= mean.size else None


def _multiple_of_the_data(e: Evidence) -> Iterator[Diagnosis]:
    """One factor at each point, whatever the cotangent: it comes from the arguments."""
    if e.leaf.size < 2 or len(e.got) < 3:
        return
    axes = tuple(range(1, e.got.ndim))
    norm = np.sum(e.truth * e.truth, axis=axes)
    ratio = np.divide(
        np.sum(e.got * e.truth, axis=axes), norm, out=np.zeros_like(norm), where=norm > 0
    )
    share = e.explained(ratio.reshape(-1, *[1] * len(axes)) * e.truth)
    if share < MULTIPLE or np.any(ratio == 0):
        return
    power = _power_of_an_argument(e, ratio)
    if power is not None:
        yield Diagnosis("scale", f"the cotangent is the truth times {power}", share)
        return
    what = f"{ratio.min():.4g} to {ratio.max():.4g}"
    if _right_at_first(e):
        yield Diagnosis(
            "nondeterministic",
            "right for the arguments of the first call, and for others wrong by a number "
            f"({what}): something computed then is kept between calls",
            share,
        )
        return
    sentence = f"the cotangent is the truth times a number that depends on the arguments ({what})"
    yield Diagnosis("scale", sentence, share)


def _power_of_an_argument(e: Evidence, ratio: np.ndarray) -> str | None:
    """The argument, a single number, of which the factors are a power."""
    for leaf in e.leaves:
        if leaf.size != 1:
            continue
        value = e.points[:, leaf.start]
        for power in (1, -1, 2, -2):
            with np.errstate(all="ignore"):
                if np.allclose(ratio, value**power, 1e-6):
                    return f"`{leaf.name}`" + ("" if power == 1 else f" to the power {power}")
    return None


def _right_at_first(e: Evidence) -> bool:
    """Whether the rule is right for the arguments of the first call."""
    if e.given is None or len(np.unique(e.given)) <= 2:
        return False
    c = e.cotangents[0]
    mine, truth = e.rule(e.given, c)[e.leaf.part], e.reference(e.given, c)[e.leaf.part]
    return np.allclose(mine, truth, 1e-5, 1e-7 * float(np.abs(truth).max()))


def _contributing(e: Evidence) -> int | None:
    """To how many outputs the entries of the leaf contribute, at most; None: it does not show."""
    if e.jacobian is None or len(e.jacobian.truth) < 2:
        return None
    return int(e.jacobian.there.sum(axis=0).max())


def rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth with its axes exchanged, mirrored or displaced."""
    for way in rearrangements(e.truth, e.leaf.shape):
        sentence = f"the cotangent is the truth {way.sentence}"
        yield Diagnosis(way.word, sentence, e.explained(way.value))


def another_leaf(e: Evidence) -> Iterator[Diagnosis]:
    """The truth of another argument."""
    for other in e.leaves:
        if other == e.leaf or other.size != e.leaf.size:
            continue
        theirs = e.truths[:, other.part].reshape(e.got.shape)
        yield Diagnosis(
            "swapped-arguments", f"the cotangent is the one of `{other.name}`", e.explained(theirs)
        )
        if other.shape == e.leaf.shape:
            exchanged = of_point(_exchange(e.leaf.part, other.part))
            yield Diagnosis(
                "swapped-arguments",
                f"the cotangent is right for `{e.leaf.name}` and `{other.name}` exchanged",
                e.explained(e.asked(exchanged)),
            )


def outputs_exchanged(e: Evidence) -> Iterator[Diagnosis]:
    """The cotangents of two outputs exchanged."""
    for (i, first), (k, second) in itertools.combinations(enumerate(_outputs(e)), 2):
        if first.stop - first.start == second.stop - second.start > 0:
            yield Diagnosis(
                "swapped-arguments",
                f"the cotangent is right for the incoming cotangents {i} and {k} exchanged",
                e.explained(e.asked(of_cotangent(_exchange(first, second)))),
            )


def ignored_output(e: Evidence) -> Iterator[Diagnosis]:
    """The cotangent of one of several outputs left out."""
    if len(e.outputs) < 2:
        return
    for number, part in enumerate(_outputs(e)):
        yield Diagnosis(
            "missing-term",
            f"what output {number} of {len(e.outputs)} sends back is missing",
            e.explained(e.asked(of_cotangent(_replace(part, np.zeros_like)))),
        )


def passed_on(e: Evidence) -> Iterator[Diagnosis]:
    """The incoming cotangent handed on as it came."""
    if len(e.outputs) == 1 and math.prod(e.outputs[0]) == e.leaf.size:
        yield Diagnosis(
            "missing-term",
            "the incoming cotangent is handed on unchanged: the function's derivative is left out",
            e.explained(e.cotangents.reshape(e.got.shape)),
        )


def displaced(e: Evidence) -> Iterator[Diagnosis]:
    """The truth displaced by one or two; what comes in over the edge may be anything."""
    axes = [a for a, size in enumerate(e.leaf.shape) if size > 2]
    for steps in itertools.product((-2, -1, 0, 1, 2), repeat=min(len(axes), 3)):
        if any(steps) and _agree_displaced(e, axes, steps):
            by = ", ".join(f"{k} along axis {a}" for a, k in zip(axes, steps, strict=False) if k)
            yield Diagnosis(
                "shifted",
                f"the cotangent is the truth displaced by {by}, wherever both have the entry",
                1.0,
            )
            return


def _agree_displaced(e: Evidence, axes: list[int], steps: tuple[int, ...]) -> bool:
    here = [slice(None)] * e.got.ndim
    there = [slice(None)] * e.got.ndim
    for axis, k in zip(axes, steps, strict=False):
        size = e.leaf.shape[axis]
        here[axis + 1] = slice(max(k, 0), size + min(k, 0))
        there[axis + 1] = slice(max(-k, 0), size + min(-k, 0))
    got, truth, before = e.got[tuple(here)], e.truth[tuple(there)], e.truth[tuple(here)]
    if got[0].size < OVERLAP * e.leaf.size or got[0].size < 3:
        return False
    error = float(np.sum(np.abs(got - before) ** 2))
    left = float(np.sum(np.abs(got - truth) ** 2))
    return bool(error > 0 and left <= 1e-9 * error and np.abs(truth).max() > 0)


def integers_displaced(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for indices, lengths or labels off by one."""
    for integers in e.integers:
        for by in (1, -1):
            vjp = integers.displaced(by)
            answers = [e.mine(vjp(x, c)) for x, c in zip(e.points, e.cotangents, strict=True)]
            yield Diagnosis(
                "shifted",
                f"the cotangent is right for `{integers.name}` {'+' if by > 0 else '-'} 1",
                e.explained(np.array(answers)),
            )


def operand_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for an argument with axes exchanged, mirrored or displaced."""
    for leaf in e.leaves:
        if leaf.size > LARGEST_TURNED:
            continue
        for way in index_maps(leaf.shape):
            yield Diagnosis(
                way.word,
                f"the cotangent is right for `{leaf.name}` {way.sentence}",
                e.explained_by(of_point(_replace(leaf.part, way.of))),
            )


def cotangent_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for an incoming cotangent with axes exchanged, mirrored or displaced."""
    for number, (shape, part) in enumerate(zip(e.outputs, _outputs(e), strict=True)):
        which = "" if len(e.outputs) == 1 else f" {number}"
        for way in index_maps(shape):
            yield Diagnosis(
                way.word,
                f"the cotangent is right for the incoming cotangent{which} {way.sentence}",
                e.explained_by(of_cotangent(_replace(part, way.of))),
            )


def mean_over_axes(e: Evidence) -> Iterator[Diagnosis]:
    """The truth averaged over some axes and spread out again."""
    for chosen in subsets(long_axes(e.leaf.shape)):
        mean = e.truth.mean(axis=tuple(a + 1 for a in chosen), keepdims=True)
        yield Diagnosis(
            "averaged",
            f"the cotangent is the truth averaged over axes {listed(chosen)}",
            e.explained(np.broadcast_to(mean, e.truth.shape)),
        )


def centred(e: Evidence) -> Iterator[Diagnosis]:
    """The mean taken off, of what comes in or of what goes out."""
    if len(e.outputs) == 1 and e.outputs[0]:
        for axes in _each_and_all(e.outputs[0]):
            yield Diagnosis(
                "missing-term",
                f"the mean of the incoming cotangent over axes {listed(axes)} is taken off",
                e.explained(e.asked(of_cotangent(_centre(e.outputs[0], axes)))),
            )
    for axes in _each_and_all(e.leaf.shape):
        over = tuple(a + 1 for a in axes)
        yield Diagnosis(
            "missing-term",
            f"the mean of the cotangent over axes {listed(axes)} is taken off",
            e.explained(e.truth - e.truth.mean(axis=over, keepdims=True)),
        )


def _each_and_all(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    axes = long_axes(shape)
    yield from ((a,) for a in axes)
    if len(axes) > 1:
        yield tuple(axes)


def _outputs(e: Evidence) -> list[slice]:
    """Where each output stands in a vector of them."""
    starts = np.cumsum([0, *(math.prod(shape) for shape in e.outputs)])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]


def of_point(change: Callable[[Vector], Vector]) -> Change:
    """The change of a question that changes its point alone."""
    return lambda x, c: (change(x), c)


def of_cotangent(change: Callable[[Vector], Vector]) -> Change:
    """The change of a question that changes its cotangent alone."""
    return lambda x, c: (x, change(c))


def _replace(part: slice, change: Callable[[Vector], Vector]) -> Callable[[Vector], Vector]:
    def replaced(v: Vector) -> Vector:
        v = v.copy()
        v[part] = change(v[part])
        return v

    return replaced


def _exchange(first: slice, second: slice) -> Callable[[Vector], Vector]:
    def exchanged(v: Vector) -> Vector:
        v = v.copy()
        v[first], v[second] = v[second].copy(), v[first].copy()
        return v

    return exchanged


def _centre(shape: tuple[int, ...], axes: tuple[int, ...]) -> Callable[[Vector], Vector]:
    def centred_over(c: Vector) -> Vector:
        laid = c.reshape(shape)
        return (laid - laid.mean(axis=axes, keepdims=True)).reshape(-1)

    return centred_over
