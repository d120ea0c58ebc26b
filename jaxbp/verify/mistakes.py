"""The mistakes that a diagnosis knows, those that show in the answers alone.

Each function takes the evidence for one leaf and yields explanations. None of them looks at what
the function computes; `terms` does.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from jaxbp.verify import naming
from jaxbp.verify.evidence import Diagnosis, Evidence
from jaxbp.verify.subject import unpack


def zero(e: Evidence) -> Iterator[Diagnosis]:
    """Nothing where there must be something."""
    if not e.got.any():
        yield Diagnosis("zero", "the cotangent is zero everywhere, and must not be", 1.0)


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
    inputs = [(leaf.name, leaf.shape) for leaf in e.leaves]
    sizes = list(naming.counts(inputs, e.outputs))
    sentence = f"the cotangent is {naming.spelled(factor)} times the truth"
    mean = naming.count_like(1.0 / factor, sizes)
    if mean is not None and _looks_averaged(e, mean[0]):
        yield Diagnosis(
            "averaged", f"{sentence}: a mean where a sum belongs, 1 over {mean[1]}", share
        )
        return
    like = naming.count_like(abs(factor), sizes)
    if like is not None:
        sentence += f", which is {like[1]}"
    elif mean is not None:
        sentence += f", which is 1 over {mean[1]}"
    yield Diagnosis("scale", sentence, share)


def _looks_averaged(e: Evidence, count: int) -> bool:
    """A half or a quarter is as likely a plain factor; only a batch of that size tells."""
    if count not in (2, 4):
        return True
    leading = {shape[0] for shape in e.outputs if shape}
    total = {math.prod(shape) for shape in e.outputs}
    return count in leading | total


def rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth with its axes exchanged, mirrored or displaced."""
    for word, sentence, answer in _rearrangements(e.truth, e.leaf.shape):
        yield Diagnosis(word, f"the cotangent is the truth {sentence}", e.explained(answer))


def _rearrangements(
    v: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """`v` [S, *shape] rearranged in every way that keeps the shape."""
    axes = [a for a, size in enumerate(shape) if size > 1]
    yield from _exchanged(v, shape)
    for chosen in _subsets(axes):
        where = ", ".join(map(str, chosen))
        yield "flipped", f"mirrored along axes {where}", np.flip(v, [a + 1 for a in chosen])
    for axis in axes:
        for step in range(1, min(shape[axis], 5)):
            for k in (step, -step):
                what = f"displaced by {k} along axis {axis}"
                yield "shifted", what, _moved(v, k, axis + 1)
                yield "shifted", what + ", around the edge", np.roll(v, k, axis + 1)
    spatial = [a for a in axes if 2 <= shape[a]]
    for pair in itertools.combinations(spatial, 2):
        for i, k in itertools.product((-1, 1), (-1, 1)):
            moved = _moved(_moved(v, i, pair[0] + 1), k, pair[1] + 1)
            yield "shifted", f"displaced by {i}, {k} along axes {pair[0]}, {pair[1]}", moved


def _exchanged(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    rank = len(shape)
    if 2 <= rank <= 5:
        for order in itertools.permutations(range(rank)):
            if list(order) == sorted(order):
                continue
            turned = np.transpose(v, (0, *[a + 1 for a in order]))
            same = turned.shape == v.shape
            what = f"with its axes in the order {order}" + ("" if same else " and then reshaped")
            yield "transposed", what, turned.reshape(v.shape)
            if not same:  # the other way round: laid out in another order, then read as this one
                other = v.reshape((len(v), *[shape[a] for a in order]))
                back = np.transpose(other, (0, *[int(np.argsort(order)[a]) + 1 for a in range(rank)]))
                if back.shape == v.shape:
                    yield "transposed", f"reshaped, then with axes {order} exchanged", back
    for axis, size in enumerate(shape):
        for outer in range(2, size // 2 + 1):
            if size % outer:
                continue
            parts = (len(v), *shape[:axis], outer, size // outer, *shape[axis + 1 :])
            mixed = np.swapaxes(v.reshape(parts), axis + 1, axis + 2).reshape(v.shape)
            what = f"with the two factors {outer}×{size // outer} of axis {axis} exchanged"
            yield "transposed", what, mixed
        if 2 < size <= 12:
            for i, j in itertools.combinations(range(size), 2):
                order = list(range(size))
                order[i], order[j] = j, i
                what = f"with entries {i} and {j} of axis {axis} exchanged"
                yield "transposed", what, np.take(v, order, axis=axis + 1)


def _subsets(axes: list[int]) -> Iterator[tuple[int, ...]]:
    for length in range(1, len(axes) + 1):
        yield from itertools.combinations(axes, length)


def _moved(v: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Displaced with zeros let in."""
    moved = np.roll(v, step, axis)
    gap = [slice(None)] * v.ndim
    gap[axis] = slice(0, step) if step > 0 else slice(step, None)
    moved[tuple(gap)] = 0.0
    return moved


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

            def exchange(x, c, other=other):  # type: ignore[no-untyped-def]
                x = x.copy()
                x[e.leaf.part], x[other.part] = x[other.part].copy(), x[e.leaf.part].copy()
                return x, c

            yield Diagnosis(
                "swapped-arguments",
                f"the cotangent is right for `{e.leaf.name}` and `{other.name}` exchanged",
                e.explained(e.asked(exchange)),
            )


def mean_over_axes(e: Evidence) -> Iterator[Diagnosis]:
    """The truth averaged over some axes and spread out again."""
    axes = [a for a, size in enumerate(e.leaf.shape) if size > 1]
    for chosen in _subsets(axes):
        mean = e.truth.mean(axis=tuple(a + 1 for a in chosen), keepdims=True)
        where = ", ".join(map(str, chosen))
        yield Diagnosis(
            "averaged",
            f"the cotangent is the truth averaged over axes {where}",
            e.explained(np.broadcast_to(mean, e.truth.shape)),
        )


def operand_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for an operand, or an incoming cotangent, with axes exchanged or mirrored."""
    for leaf in e.leaves:
        if leaf.size > 100_000:
            continue
        for word, sentence, index in _index_maps(leaf.shape):

            def change(x, c, leaf=leaf, index=index):  # type: ignore[no-untyped-def]
                x = x.copy()
                x[leaf.part] = _picked(x[leaf.part], index)
                return x, c

            yield Diagnosis(
                word,
                f"the cotangent is right for `{leaf.name}` {sentence}",
                _explained_early(e, change),
            )
    start = 0
    for number, shape in enumerate(e.outputs):
        stop = start + math.prod(shape)
        for word, sentence, index in _index_maps(shape):

            def turn(x, c, part=slice(start, stop), index=index):  # type: ignore[no-untyped-def]
                c = c.copy()
                c[part] = _picked(c[part], index)
                return x, c

            which = "" if len(e.outputs) == 1 else f" {number}"
            yield Diagnosis(
                word,
                f"the cotangent is right for the incoming cotangent{which} {sentence}",
                _explained_early(e, turn),
            )
        start = stop


def _explained_early(e: Evidence, change) -> float:  # type: ignore[no-untyped-def]
    """As `explained` over all questions, but most changes fail the first one already."""
    x, c = e.points[0], e.cotangents[0]
    answer = unpack(e.reference(*change(x, c))[e.leaf.part], e.leaf)
    error = float(np.sum(np.abs(e.got[0] - e.truth[0]) ** 2))
    left = float(np.sum(np.abs(e.got[0] - answer) ** 2))
    if not error or not left <= 0.05 * error:
        return 0.0
    return e.explained(e.asked(change))


def _index_maps(shape: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Rearrangements as index arrays; -1 stands for a zero let in."""
    indices = np.arange(math.prod(shape)).reshape(1, *shape) + 1
    for word, sentence, moved in _rearrangements(indices, shape):
        yield word, sentence, moved.reshape(-1) - 1


def _picked(v: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.where(index < 0, 0.0, v[np.maximum(index, 0)])


def few_entries(e: Evidence) -> Iterator[Diagnosis]:
    """Right but for the border, or for a few entries."""
    wrong = (np.abs(e.got - e.truth) > e.tolerance).any(axis=0)
    count = int(wrong.sum())
    if not count or e.leaf.size < 2:
        return
    for chosen in _subsets([a for a, size in enumerate(e.leaf.shape) if size > 2]):
        inner = wrong.copy()
        width = 0
        while inner.any() and width < 4:
            width += 1
            cut = [slice(None)] * wrong.ndim
            for axis in chosen:
                cut[axis] = slice(width, wrong.shape[axis] - width)
            inner = wrong[tuple(cut)]
        if not inner.any() and inner.size and inner.size * 8 >= wrong.size and _spread_out(wrong, chosen, width):
            where = ", ".join(map(str, chosen))
            yield Diagnosis(
                "border",
                f"only entries within {width} of the border along axes {where} are wrong "
                f"({count} of {e.leaf.size})",
                1.0,
            )
            return
    if count <= max(1, e.leaf.size // 4) or _is_block(wrong):
        places = np.argwhere(wrong)
        low, high = places.min(axis=0), places.max(axis=0)
        box = ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True))
        yield Diagnosis(
            "local", f"only {count} of {e.leaf.size} entries are wrong, within [{box}]", 1.0
        )


def _spread_out(wrong: np.ndarray, axes: tuple[int, ...], width: int) -> bool:
    """Whether enough of the border is wrong to call it the border's fault."""
    border = np.ones(wrong.shape, dtype=bool)
    cut = [slice(None)] * wrong.ndim
    for axis in axes:
        cut[axis] = slice(width, wrong.shape[axis] - width)
    border[tuple(cut)] = False
    return bool(wrong[border].mean() > 0.2)


def _is_block(wrong: np.ndarray) -> bool:
    places = np.argwhere(wrong)
    box = np.prod(places.max(axis=0) - places.min(axis=0) + 1)
    return bool(box == len(places) and len(places) <= wrong.size // 2)


def some_contributions(e: Evidence) -> Iterator[Diagnosis]:
    """Some outputs' contributions kept, others dropped."""
    jacobians = _jacobians(e)
    if jacobians is None:
        return
    rows, got, truth, tolerance = jacobians
    kept = np.abs(got - truth) <= tolerance
    dropped = np.abs(got) <= tolerance
    there = np.abs(truth) > tolerance
    if not np.all(kept | dropped) or not np.any(there & kept) or not np.any(there & ~kept):
        return
    share = 1.0
    shape = next((s for s in e.outputs if math.prod(s) == len(rows)), None)
    if shape is not None:
        yield from _by_output_axis(there, kept, shape, share)
    held = (there & kept).sum(axis=0)
    several = there.sum(axis=0) > 1
    if several.any() and np.all(held[there.any(axis=0)] >= 1) and np.all(held[several] < there.sum(axis=0)[several] + 1):
        most = int(there.sum(axis=0).max())
        yield Diagnosis(
            "overwritten",
            f"entries that several outputs contribute to (up to {most}) keep only some of the "
            "contributions: later ones seem to replace earlier ones where they should be added",
            share,
        )


def _by_output_axis(
    there: np.ndarray, kept: np.ndarray, shape: tuple[int, ...], share: float
) -> Iterator[Diagnosis]:
    """Whether one index of the output decides what is kept."""
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        place = np.unravel_index(np.arange(math.prod(shape)), shape)[axis]
        whole = [bool(np.all(kept[place == i] | ~there[place == i])) for i in range(size)]
        none = [bool(not np.any(kept[place == i] & there[place == i])) for i in range(size)]
        if not all(a or b for a, b in zip(whole, none, strict=True)) or not any(whole):
            continue
        places = [i for i in range(size) if whole[i] and not none[i]]
        what = f"only the contributions of output index {places} along axis {axis} (of {size})"
        if axis == 0 or len(places) == 1:
            yield Diagnosis("one-example", what + " are in the cotangent", share)
        else:
            yield Diagnosis("border", what + " are in the cotangent", share)
        return


def _jacobians(
    e: Evidence, most: int = 512
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Rows of both Jacobians at the first point, and what may count as equal. [m, leaf.size]"""
    m = e.cotangents.shape[1]
    if m > most or m * e.leaf.size > 4_000_000:
        return None
    got, truth = [], []
    for row in range(m):
        c = np.zeros(m)
        c[row] = 1.0
        got.append(e.rule(e.points[0], c)[e.leaf.part])
        truth.append(e.reference(e.points[0], c)[e.leaf.part])
    a, b = np.array(got), np.array(truth)
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        return None
    size = max(float(np.abs(b).max(initial=0.0)), float(np.abs(a).max(initial=0.0)))
    tolerance = np.full(b.shape, 1e-9 * size) + 1e-7 * np.abs(b)
    return np.arange(m), a, b, tolerance


def factor(e: Evidence) -> Iterator[Diagnosis]:
    """A factor for each entry, or for each output, that no cotangent changes."""
    per_entry = _ratio_per_entry(e)
    if per_entry is not None:
        ratio, share = per_entry
        inverse = 1.0 / ratio[np.isfinite(ratio) & (ratio != 0)]
        if inverse.size and np.allclose(inverse, np.round(inverse), rtol=1e-6) and np.all(inverse >= 0.5):
            yield Diagnosis(
                "averaged",
                "each entry is divided by a count of contributions "
                f"(1 to {int(round(float(inverse.max())))}): a mean where a sum belongs",
                share,
            )
            return
        yield Diagnosis(
            "missing-term",
            "each entry is the truth times a factor of its own "
            f"({np.nanmin(ratio):.4g} to {np.nanmax(ratio):.4g}) whatever the cotangent",
            share,
        )
        return
    jacobians = _jacobians(e)
    if jacobians is None:
        return
    _, got, truth, tolerance = jacobians
    share = _rows_proportional(got, truth)
    if share >= 0.95 and len(got) > 1:
        yield Diagnosis(
            "missing-term",
            "each output's contribution is the truth times a factor of its own: a factor that "
            "belongs on the incoming cotangent (an activation's derivative, say) is not right",
            share,
        )


def _ratio_per_entry(e: Evidence) -> tuple[np.ndarray, float] | None:
    """got / truth for each entry, where it is the same for every cotangent at one point."""
    same = np.all(e.points == e.points[0], axis=1)
    got, truth = e.got[same], e.truth[same]
    if len(got) < 2 or e.leaf.size < 2:
        return None
    norm = np.sum(truth * truth, axis=0)
    top = np.sum(truth * got, axis=0)
    ratio = np.divide(top, norm, out=np.zeros_like(top), where=norm > 0)
    left = np.sum((got - ratio * truth) ** 2)
    error = np.sum((got - truth) ** 2)
    if not error > 0:
        return None
    # As many factors as entries: each question beyond the first is a test of them.
    share = 1.0 - float(left / error)
    return (ratio, share) if share >= 0.95 else None


def _rows_proportional(got: np.ndarray, truth: np.ndarray) -> float:
    """The share of the error that is gone when every row may have a factor of its own."""
    if np.count_nonzero(np.abs(truth).sum(axis=0)) < 2:
        return 0.0
    norm = np.sum(truth * truth, axis=1)
    back = np.sum(got * got, axis=1)
    cross = np.sum(truth * got, axis=1)
    ratio = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    left = np.sum((got - ratio[:, None] * truth) ** 2, axis=1)
    # A row that must be zero and is not (a relu's closed gate) has an infinite factor.
    left = np.where(norm == 0, 0.0, left)
    if np.all((norm == 0) | (back == 0)):
        return 0.0
    error = float(np.sum((got - truth) ** 2))
    return 1.0 - float(np.sum(left)) / error if error > 0 else 0.0
