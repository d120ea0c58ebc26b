"""The mistakes that a diagnosis knows, those that show in the answers alone.

Each function takes the evidence for one leaf and yields explanations. None of them looks at what
the function computes; `terms` does.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.subject.subject import unpack

MOST_ROWS = 512
"""Jacobians of more rows are not looked at."""


def zero(e: Evidence) -> Iterator[Diagnosis]:
    """Nothing where there must be something."""
    if not e.got.any():
        yield Diagnosis("zero", "the cotangent is zero everywhere, and must not be", 1.0)


def stale(e: Evidence) -> Iterator[Diagnosis]:
    """The answer that was right for the first call."""
    if e.given is None or all(np.array_equal(x, e.given) for x in e.points):
        return
    yield Diagnosis(
        "nondeterministic",
        "the cotangent is the one for the arguments of an earlier call: something is kept between "
        "calls",
        e.explained(e.asked(lambda x, c: (e.given, c))),  # type: ignore[arg-type, return-value]
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
        if share_of_conjugate >= 0.995:
            what = "the imaginary part has its sign turned: it is conjugated, or must be"
            yield Diagnosis("sign", what, share_of_conjugate)
            return
    if share < 0.995:
        yield from _multiple_of_the_data(e)
        return
    inputs = [(leaf.name, leaf.shape) for leaf in e.leaves]
    sizes = list(naming.counts(inputs, e.outputs))
    sentence = f"the cotangent is {naming.spelled(factor)} times the truth"
    mean = naming.count_like(1.0 / factor, sizes)
    several = _contributing(e)
    if several is not None and factor > 0 and naming.close(1 / factor, round(1 / factor)):
        # A mean is one over a number of things that were there to be added.
        if 1 < round(1 / factor) <= several and (mean or round(1 / factor) == several):
            what = mean[1] if mean else "the number of outputs that each entry contributes to"
            yield Diagnosis(
                "averaged", f"{sentence}: a mean where a sum belongs, 1 over {what}", share
            )
            return
        # Entries that add nothing just here (a mask) were counted by the mean all the same.
        if mean is not None and mean[0] > 2 and several >= 2 and 4 * several >= mean[0]:
            yield Diagnosis(
                "averaged", f"{sentence}: a mean where a sum belongs, 1 over {mean[1]}", share
            )
            return
    elif several is None and mean is not None and mean[0] > 2:
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
    if share < 0.995 or np.any(ratio == 0):
        return
    for leaf in e.leaves:
        if leaf.size != 1:
            continue
        value = e.points[:, leaf.start]
        for power in (1, -1, 2, -2):
            with np.errstate(all="ignore"):
                if np.allclose(ratio, value**power, 1e-6):
                    what = f"`{leaf.name}`" + ("" if power == 1 else f" to the power {power}")
                    yield Diagnosis("scale", f"the cotangent is the truth times {what}", share)
                    return
    what = f"{ratio.min():.4g} to {ratio.max():.4g}"
    if e.given is not None and len(np.unique(e.given)) > 2:
        c = e.cotangents[0]
        mine, truth = e.rule(e.given, c)[e.leaf.part], e.reference(e.given, c)[e.leaf.part]
        if np.allclose(mine, truth, 1e-5, 1e-7 * float(np.abs(truth).max())):
            yield Diagnosis(
                "nondeterministic",
                "right for the arguments of the first call, and for others wrong by a number "
                f"({what}): something computed then is kept between calls",
                share,
            )
            return
    sentence = f"the cotangent is the truth times a number that depends on the arguments ({what})"
    yield Diagnosis("scale", sentence, share)


def _contributing(e: Evidence) -> int | None:
    """To how many outputs the entries of the leaf contribute, at most; None: it does not show."""
    found = _rows(e)
    if found is None or len(found[0]) < 2:
        return None
    _, _, truth, tolerance = found
    return int((np.abs(truth) > tolerance).sum(axis=0).max())


def rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth with its axes exchanged, mirrored or displaced."""
    for word, sentence, answer in rearrangements(e.truth, e.leaf.shape):
        yield Diagnosis(word, f"the cotangent is the truth {sentence}", e.explained(answer))


def rearrangements(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    """`v` [S, *shape] rearranged in every way that keeps the shape."""
    axes = [a for a, size in enumerate(shape) if size > 1]
    yield from _exchanged(v, shape)
    for chosen in _subsets(axes):
        where = ", ".join(map(str, chosen))
        yield "flipped", f"mirrored along axes {where}", np.flip(v, tuple(a + 1 for a in chosen))
    for axis in axes:
        for step in range(1, min((shape[axis] + 1) // 2, 4) + 1):
            for k in (step, -step):
                what = f"displaced by {k} along axis {axis}"
                yield "shifted", what, _moved(v, k, axis + 1)
                yield "shifted", what + ", around the edge", np.roll(v, k, axis + 1)
    for i, k in itertools.combinations(range(len(shape)), 2):
        if shape[i] == shape[k] > 1 and len(shape) > 2:
            swapped = np.swapaxes(v, i + 1, k + 1)
            for chosen in _subsets([a for a in axes if a not in (i, k)]):
                where = ", ".join(map(str, chosen))
                what = f"with axes {i} and {k} exchanged and mirrored along {where}"
                yield "flipped", what, np.flip(swapped, tuple(a + 1 for a in chosen))
    yield from _factored(v, shape)


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
                back = np.transpose(
                    other, (0, *[int(np.argsort(order)[a]) + 1 for a in range(rank)])
                )
                if back.shape == v.shape:
                    yield "transposed", f"reshaped, then with axes {order} exchanged", back


def _factored(v: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Two factors of one axis exchanged, or two of its entries."""
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


def displaced(e: Evidence) -> Iterator[Diagnosis]:
    """The truth displaced by one or two; what comes in over the edge may be anything."""
    axes = [a for a, size in enumerate(e.leaf.shape) if size > 2]
    steps = [-2, -1, 0, 1, 2]
    for chosen in itertools.product(steps, repeat=min(len(axes), 3)):
        if not any(chosen):
            continue
        here = [slice(None)] * e.got.ndim
        there = [slice(None)] * e.got.ndim
        for axis, k in zip(axes, chosen, strict=False):
            size = e.leaf.shape[axis]
            here[axis + 1] = slice(max(k, 0), size + min(k, 0))
            there[axis + 1] = slice(max(-k, 0), size + min(-k, 0))
        got, truth, before = e.got[tuple(here)], e.truth[tuple(there)], e.truth[tuple(here)]
        if got[0].size < 0.4 * e.leaf.size or got[0].size < 3:
            continue
        error = float(np.sum(np.abs(got - before) ** 2))
        left = float(np.sum(np.abs(got - truth) ** 2))
        if error > 0 and left <= 1e-9 * error and np.abs(truth).max() > 0:
            by = ", ".join(f"{k} along axis {a}" for a, k in zip(axes, chosen, strict=False) if k)
            yield Diagnosis(
                "shifted",
                f"the cotangent is the truth displaced by {by}, wherever both have the entry",
                1.0,
            )
            return


def integers_displaced(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for indices, lengths or labels off by one."""
    for integers in e.integers:
        for by in (1, -1):
            vjp = integers.displaced(by)
            answers = [
                unpack(vjp(x, c)[e.leaf.part], e.leaf)
                for x, c in zip(e.points, e.cotangents, strict=True)
            ]
            yield Diagnosis(
                "shifted",
                f"the cotangent is right for `{integers.name}` {'+' if by > 0 else '-'} 1",
                e.explained(np.array(answers)),
            )


def adjoint_forgotten(e: Evidence) -> Iterator[Diagnosis]:
    """The Jacobian applied where its transpose belongs."""
    found = jacobians(e)
    if found is None or found[2].shape[0] != found[2].shape[1]:
        return
    _, got, truth, _ = found
    error = float(np.sum(np.abs(got - truth) ** 2))
    left = float(np.sum(np.abs(got - truth.T) ** 2))
    if error > 0:
        yield Diagnosis(
            "transposed",
            "the function's own Jacobian is applied to the cotangent, not its transpose: the "
            "backward runs the forward again, in the forward's order",
            max(0.0, 1.0 - left / error),
        )


def ignored_output(e: Evidence) -> Iterator[Diagnosis]:
    """The cotangent of one of several outputs left out."""
    if len(e.outputs) < 2:
        return
    sizes = [math.prod(shape) for shape in e.outputs]
    starts = np.cumsum([0, *sizes])
    for number in range(len(sizes)):
        part = slice(int(starts[number]), int(starts[number + 1]))

        def without(x, c, part=part):  # type: ignore[no-untyped-def]
            c = c.copy()
            c[part] = 0.0
            return x, c

        yield Diagnosis(
            "missing-term",
            f"what output {number} of {len(sizes)} sends back is missing",
            e.explained(e.asked(without)),
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
    """The truth for an argument with axes exchanged, mirrored or displaced."""
    for leaf in e.leaves:
        if leaf.size > 100_000:
            continue
        for word, sentence, index in index_maps(leaf.shape):

            def change(x, c, leaf=leaf, index=index):  # type: ignore[no-untyped-def]
                x = x.copy()
                x[leaf.part] = _picked(x[leaf.part], index)
                return x, c

            yield Diagnosis(
                word,
                f"the cotangent is right for `{leaf.name}` {sentence}",
                explained_early(e, change),
            )


def cotangent_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """The truth for an incoming cotangent with axes exchanged, mirrored or displaced."""
    start = 0
    for number, shape in enumerate(e.outputs):
        stop = start + math.prod(shape)
        for word, sentence, index in index_maps(shape):

            def turn(x, c, part=slice(start, stop), index=index):  # type: ignore[no-untyped-def]
                c = c.copy()
                c[part] = _picked(c[part], index)
                return x, c

            which = "" if len(e.outputs) == 1 else f" {number}"
            yield Diagnosis(
                word,
                f"the cotangent is right for the incoming cotangent{which} {sentence}",
                explained_early(e, turn),
            )
        start = stop


def explained_early(e: Evidence, change) -> float:  # type: ignore[no-untyped-def]
    """As `explained` over all questions, but most changes fail the first one already."""
    x, c = e.points[0], e.cotangents[0]
    answer = unpack(e.reference(*change(x, c))[e.leaf.part], e.leaf)
    error = float(np.sum(np.abs(e.got[0] - e.truth[0]) ** 2))
    left = float(np.sum(np.abs(e.got[0] - answer) ** 2))
    if not error or not left <= 0.05 * error:
        return 0.0
    return e.explained(e.asked(change))


def index_maps(shape: tuple[int, ...]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Rearrangements as index arrays; -1 stands for a zero let in."""
    indices = np.arange(math.prod(shape)).reshape(1, *shape) + 1
    for word, sentence, moved in rearrangements(indices, shape):
        yield word, sentence, moved.reshape(-1) - 1


def _picked(v: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.where(index < 0, 0.0, v[np.maximum(index, 0)])


def few_entries(e: Evidence) -> Iterator[Diagnosis]:
    """Right but for the border, or for a few entries."""
    everywhere = (np.abs(e.got - e.truth) > e.tolerance).any(axis=0)
    if not everywhere.any() or e.leaf.size < 2:
        return
    wrong = max(_wrong_at_each_point(e), key=lambda mask: int(mask.sum()))
    if not wrong.any():  # points that hold a NaN equal no point, not even themselves
        return
    count = int(wrong.sum())
    border = _border_of(wrong)
    if border is not None:
        axes, width = border
        yield Diagnosis(
            "border",
            f"only entries within {width} of the border along axes {', '.join(map(str, axes))} are "
            f"wrong ({count} of {e.leaf.size})",
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


def _wrong_at_each_point(e: Evidence) -> Iterator[np.ndarray]:
    """Which entries are wrong; others may be at another point (those that win there, say)."""
    wrong = np.abs(e.got - e.truth) > e.tolerance
    for x in {x.tobytes(): x for x in e.points}.values():
        yield wrong[np.all(e.points == x, axis=1)].any(axis=0)


def lost_entries(e: Evidence) -> Iterator[Diagnosis]:
    """A block of at most a third of the entries is zero, and all others are right."""
    wrong = (np.abs(e.got - e.truth) > e.tolerance).any(axis=0)
    if not wrong.any() or 3 * wrong.sum() > e.leaf.size or np.any(e.got[:, wrong] != 0):
        return
    if _is_block(wrong) and _border_of(wrong) is None:
        yield from few_entries(e)


def _border_of(wrong: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    """The axes whose two ends hold all that is wrong, and how deep; None if it is not the ends."""
    axes = [a for a, size in enumerate(wrong.shape) if size > 2]
    for chosen in _subsets(axes):
        for width in (1, 2, 3):
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
            if min(ends) > 0.5:
                return chosen, width
            break
    return None


def _is_block(wrong: np.ndarray) -> bool:
    places = np.argwhere(wrong)
    box = np.prod(places.max(axis=0) - places.min(axis=0) + 1)
    return bool(box == len(places) and len(places) <= wrong.size // 2)


def lost_examples(e: Evidence) -> Iterator[Diagnosis]:
    """Right for some examples, and zero for at least as many."""
    if not e.leaf.shape:
        return
    wrong = (np.abs(e.got - e.truth) > e.tolerance).any(axis=0)
    there = np.any(e.truth != 0, axis=0)
    zero_there = ~np.any(e.got != 0, axis=0)
    if np.any(wrong & ~zero_there):
        return
    length = e.leaf.shape[0]
    rows = there.reshape(length, -1).any(axis=1)
    gone = wrong.reshape(length, -1).any(axis=1)
    whole = not np.any((there & ~wrong)[gone])
    kept = np.flatnonzero(rows & ~gone)
    one_end = kept.size > 0 and (
        np.array_equal(kept, np.flatnonzero(rows)[: kept.size])
        or np.array_equal(kept, np.flatnonzero(rows)[-kept.size :])
    )
    if whole and one_end and rows.sum() > 1 and 2 * gone.sum() >= rows.sum():
        yield Diagnosis(
            "one-example",
            f"only entries {kept.tolist()} along axis 0 (of {length}) have "
            "a cotangent, the others zero",
            1.0,
        )


def misplaced(e: Evidence) -> Iterator[Diagnosis]:
    """What an output sends back has the right size and goes to another entry."""
    found = jacobians(e)
    if found is None or e.leaf.size < 3:
        return
    _, got, truth, tolerance = found
    error = np.where(np.abs(got - truth) > tolerance, got - truth, 0.0)
    if not error.any() or not got.any():
        return

    def fibres(v: np.ndarray, axis: int) -> np.ndarray:
        whole = v.reshape(len(v), *e.leaf.shape)
        return np.moveaxis(whole, axis + 1, -1).reshape(-1, e.leaf.shape[axis])

    looks = [(error, truth)]
    for axis, size in enumerate(e.leaf.shape):
        if 2 < size < e.leaf.size:
            looks.append((fibres(error, axis), fibres(truth, axis)))
    for rows, correct in looks:
        off = np.count_nonzero(rows, axis=1)
        moved = (off == 2) & (np.abs(rows.sum(axis=1)) <= 1e-6 * np.abs(rows).max(axis=1))
        gone = np.all((rows == 0) | (rows == -correct), axis=1) & (off == 1)
        if moved.any():  # it may also have gone over the edge, the same amount as elsewhere
            amounts = np.abs(rows[moved]).max(axis=1)
            alone = np.abs(rows).max(axis=1)
            same = np.abs(alone - amounts[0]) <= 1e-6 * amounts[0]
            if np.ptp(amounts) <= 1e-6 * amounts[0]:
                gone |= (off == 1) & same
        if np.all((off == 0) | moved | gone) and 2 * moved.sum() > gone.sum():
            yield Diagnosis(
                "shifted",
                "an amount of the right size is added to one entry and is missing at another: it "
                "goes to the wrong place",
                1.0,
            )
            return


def one_of_several(e: Evidence) -> Iterator[Diagnosis]:
    """Entries that several outputs contribute to hold one contribution alone."""
    if e.cotangents.shape[1] > MOST_ROWS:
        return
    matched = 0
    for x, c, got, truth in zip(e.points, e.cotangents, e.got, e.truth, strict=True):
        rows = _truth_rows(e, x)
        size = float(np.abs(truth).max(initial=0.0))
        off = np.abs(got - truth).reshape(-1) > 1e-7 * size
        if not off.any():
            continue
        shares = c[:, None] * rows[:, off]
        gap = np.abs(got.reshape(-1)[off] - np.where(shares == 0, np.inf, shares)).min(axis=0)
        if np.any(gap > 1e-7 * size) or np.any(np.count_nonzero(shares, axis=0) < 2):
            return
        matched += int(off.sum())
    if matched:
        yield Diagnosis(
            "overwritten",
            "entries that several outputs contribute to hold only one contribution: the others "
            "are replaced where they should be added",
            1.0,
        )


def _truth_rows(e: Evidence, x: np.ndarray) -> np.ndarray:
    """The truth's Jacobian at `x`. [m, leaf.size]"""
    key = ("rows", x.tobytes())
    if key not in e.kept:
        unit = np.eye(e.cotangents.shape[1])
        e.kept[key] = np.array([e.reference(x, c)[e.leaf.part] for c in unit])
    return e.kept[key]


def border_elements(e: Evidence) -> Iterator[Diagnosis]:
    """Right wherever neither the entry nor the output is at the border."""
    found = jacobians(e)
    if found is None or len(e.outputs) != 1 or len(e.outputs[0]) != len(e.leaf.shape):
        return
    _, got, truth, tolerance = found
    wrong = np.abs(got - truth) > tolerance
    axes = [a for a, n in enumerate(e.leaf.shape) if n > 3 and e.outputs[0][a] > 3]
    for chosen in _subsets(axes):
        inner = [_inside(shape, chosen).reshape(-1) for shape in (e.outputs[0], e.leaf.shape)]
        right = np.outer(*inner)
        coupled = np.abs(truth) * right
        if coupled.shape[0] == coupled.shape[1]:
            np.fill_diagonal(coupled, 0.0)  # entry by entry, the border would show in the entries
        if wrong[right].any() or np.count_nonzero(coupled) < 3:
            continue
        where = ", ".join(map(str, chosen))
        yield Diagnosis(
            "border",
            f"wrong only between entries and outputs of which one is at the border along axes "
            f"{where}",
            1.0,
        )
        return


def _inside(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    inside = np.zeros(shape, dtype=bool)
    inside[tuple(slice(1, -1) if a in axes else slice(None) for a in range(len(shape)))] = True
    return inside


def some_contributions(e: Evidence) -> Iterator[Diagnosis]:
    """Some outputs' contributions kept, others dropped."""
    found = jacobians(e)
    if found is None or len(found[0]) < 2:
        return
    rows, got, truth, tolerance = found
    kept = np.abs(got - truth) <= tolerance
    dropped = np.abs(got) <= tolerance
    there = np.abs(truth) > tolerance
    if not np.all(kept | dropped) or not np.any(there & kept) or not np.any(there & ~kept):
        return
    held, all_of_them = (there & kept).sum(axis=0), there.sum(axis=0)
    touched = all_of_them > 0
    lost = touched & (held == 0)
    if np.all((held == all_of_them) | lost):  # entry by entry, all or nothing: `lost_examples`
        return
    if (
        len(e.outputs) == 1
        and e.outputs[0] == e.leaf.shape
        and np.all(kept | ~np.eye(len(rows), dtype=bool))
    ):
        own = np.eye(len(rows), dtype=bool)
        if not np.any(kept & there & ~own):
            yield Diagnosis(
                "missing-term",
                "only what each output entry sends to the input entry at its own place is there; "
                "the terms that couple different entries are missing",
                1.0,
            )
            return
    hit = (held < all_of_them) & (held > 0)
    few_kept = bool(hit.any() and np.all(2 * held[hit] <= all_of_them[hit]))
    shape = next((s for s in e.outputs if math.prod(s) == len(rows)), None)
    axis_wise = None if shape is None else _by_output_axis(there, kept, shape)
    one_each = (
        axis_wise is not None
        and held[hit].max(initial=0) == 1
        and (axis_wise[2] > 1 or len(set(all_of_them[touched].tolist())) > 1)
    )
    if few_kept and (axis_wise is None or one_each):
        # Inner entries that keep several contributions are not written over.
        if np.any((held == all_of_them) & (held > 1)) and _border_of(hit.reshape(e.leaf.shape)):
            yield from few_entries(e)
            return
        yield Diagnosis(
            "overwritten",
            f"entries that several outputs contribute to (up to {int(all_of_them.max())}) keep "
            "only some contributions: the others are replaced where they should be added",
            1.0,
        )
        return
    if axis_wise is not None:
        word, sentence, *_ = axis_wise
        yield Diagnosis(word, sentence, 1.0)


def lost_outputs(e: Evidence) -> Iterator[Diagnosis]:
    """What the outputs of some index along an axis send back is missing, all else right."""
    found = jacobians(e)
    if found is None or len(e.outputs) != 1 or not entry_by_entry(e):
        return
    _, got, truth, tolerance = found
    kept, there = np.abs(got - truth) <= tolerance, np.abs(truth) > tolerance
    if not np.all(kept | (np.abs(got) <= tolerance)) or not np.any(there & ~kept):
        return
    lost = _by_output_axis(there, ~kept, e.outputs[0])
    if lost is not None and len(e.outputs[0]) > 1 and lost[3] > 0:
        sentence = lost[1].replace("only the", "the", 1).replace("are in", "are missing from")
        yield Diagnosis("missing-term", sentence, 1.0)


def dropped_contributions(e: Evidence) -> Iterator[Diagnosis]:
    """Of every entry's contributions some are right and the others not there."""
    found = jacobians(e)
    if found is None or len(found[0]) < 2:
        return
    _, got, truth, tolerance = found
    kept, there = np.abs(got - truth) <= tolerance, np.abs(truth) > tolerance
    dropped = there & ~kept
    if np.all(kept | (np.abs(got) <= tolerance)) and np.any(there & kept):
        yield Diagnosis(
            "missing-term",
            f"{int(dropped.sum())} of the {int(there.sum())} contributions of outputs to entries "
            "are missing, the others right",
            1.0,
        )


def _by_output_axis(
    there: np.ndarray, kept: np.ndarray, shape: tuple[int, ...]
) -> tuple[str, str, int, int] | None:
    """Whether the output's index along one axis decides what is kept: word, sentence, how many,
    which axis."""
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        place = np.unravel_index(np.arange(math.prod(shape)), shape)[axis]
        whole = [bool(np.all(kept[place == i] | ~there[place == i])) for i in range(size)]
        none = [bool(not np.any(kept[place == i] & there[place == i])) for i in range(size)]
        if not all(a or b for a, b in zip(whole, none, strict=True)):
            continue
        places = [i for i in range(size) if whole[i] and not none[i]]
        if not places or len(places) == size:
            continue
        ends = [i for i in range(size) if i not in places]
        what = f"only the contributions of output index {places} along axis {axis} (of {size})"
        outer = ends in ([0], [size - 1], [0, size - 1]) and size > 2 and axis > 0
        return (
            ("border" if outer else "one-example"),
            what + " are in the cotangent",
            len(places),
            axis,
        )
    return None


Jacobians = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def jacobians(e: Evidence) -> Jacobians | None:
    """Rows of both Jacobians at a point at which they differ, and what may count as equal.

    [m, leaf.size] each. None where they differ nowhere: they have nothing to say of an error that
    small, and every hypothesis about them would hold.
    """
    rows = _rows(e)
    return rows if "jacobian point" in e.kept else None


def _rows(e: Evidence) -> Jacobians | None:
    """As `jacobians`, whether they differ or not: for what the truth depends on."""
    if "jacobians" not in e.kept:
        e.kept["jacobians"] = _jacobians_anew(e)
    return e.kept["jacobians"]


def _jacobians_anew(e: Evidence) -> Jacobians | None:
    m = e.cotangents.shape[1]
    if m > MOST_ROWS or m * e.leaf.size > 4_000_000:
        return None
    answers = None
    for point in list({x.tobytes(): x for x in e.points}.values())[:3]:
        got, truth = [], []
        for row in range(m):
            c = np.zeros(m)
            c[row] = 1.0
            got.append(e.rule(point, c)[e.leaf.part])
            truth.append(e.reference(point, c)[e.leaf.part])
        a, b = np.array(got), np.array(truth)
        if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
            return None
        size = max(float(np.abs(b).max(initial=0.0)), float(np.abs(a).max(initial=0.0)))
        tolerance = np.full(b.shape, 1e-9 * size) + 1e-7 * np.abs(b)
        answers = np.arange(m), a, b, tolerance
        if np.any(np.abs(a - b) > tolerance):
            e.kept["jacobian point"] = point
            break  # a point at which the mistake shows entry by entry
    return answers


def jacobian_point(e: Evidence) -> np.ndarray:
    """Where `jacobians` were taken."""
    jacobians(e)
    return np.asarray(e.kept.get("jacobian point", e.points[0]))


def passed_on(e: Evidence) -> Iterator[Diagnosis]:
    """The incoming cotangent handed on as it came."""
    if len(e.outputs) == 1 and math.prod(e.outputs[0]) == e.leaf.size:
        yield Diagnosis(
            "missing-term",
            "the incoming cotangent is handed on unchanged: the function's derivative is left out",
            e.explained(e.cotangents.reshape(e.got.shape)),
        )


def one_region(e: Evidence) -> Iterator[Diagnosis]:
    """Right at many entries, and at the others wrong by a factor: a branch of the function."""
    found = _ratio_per_entry(e)
    if found is None:
        return
    same = np.all(e.points == e.points[0], axis=1)
    off = (np.abs(e.got - e.truth) > e.tolerance)[same].any(axis=0).reshape(-1)
    there = np.abs(e.truth[same]).max(axis=0).reshape(-1) > 0
    right = there & ~off
    if not off.any() or right.sum() < 2 or right.sum() < 0.3 * e.leaf.size:
        return
    sentence = (
        f"right at {int(right.sum())} of {e.leaf.size} entries, wrong by a factor at "
        f"{int(off.sum())}"
    )
    x = e.points[0][e.leaf.part]
    for values, what in ((x, f"`{e.leaf.name}`"), (np.abs(x), f"|`{e.leaf.name}`|")):
        for side, low, high in (
            ("above", values[right].max(), values[off].min()),
            ("below", values[off].max(), values[right].min()),
        ):
            if low < high:
                sentence += f": wrong where {what} is {side} about {0.5 * (low + high):.3g}"
                yield Diagnosis("local", sentence, found[1])
                return
    yield Diagnosis("local", sentence, found[1])


def factor(e: Evidence) -> Iterator[Diagnosis]:
    """A factor for each entry, or for each output, that no cotangent changes."""
    per_entry = _ratio_per_entry(e)
    if per_entry is not None:
        ratio, share = per_entry
        if entry_by_entry(e):  # then any wrong derivative is a factor: it must be a known one
            if _factor_of_each_output(e):
                yield Diagnosis(
                    "missing-term",
                    "what each output sends back is the truth times a factor of its own: a factor "
                    "of the output, or of its example, is missing or wrong",
                    share,
                )
                return
            known = _recognised(e, ratio)
            if known is not None:
                yield Diagnosis("missing-term", f"each entry lacks the factor {known}", share)
            return
        yield Diagnosis(
            "missing-term",
            "each entry is the truth times a factor of its own "
            f"({np.nanmin(ratio):.4g} to {np.nanmax(ratio):.4g}) whatever the cotangent",
            share,
        )
        return
    found = jacobians(e)
    if found is None:
        return
    _, got, truth, _ = found
    if e.leaf.size == 1:  # then any wrong answer is a factor for each output
        with np.errstate(all="ignore"):
            known = _recognised(e, (got / truth).reshape(-1))
        if known is not None:
            yield Diagnosis(
                "missing-term", f"each output's contribution lacks the factor {known}", 1.0
            )
        return
    share = 0.0 if entry_by_entry(e) else _rows_proportional(got, truth)
    if share >= 1 - 1e-6 and len(got) > 1:
        yield Diagnosis(
            "missing-term",
            "each output's contribution is the truth times a factor of its own: a factor that "
            "belongs on the incoming cotangent (an activation's derivative, say) is not right",
            share,
        )


def _factor_of_each_output(e: Evidence) -> bool:
    """Whether the many entries that one output sends to are all wrong by one factor."""
    found = jacobians(e)
    if found is None or len(found[0]) < 2:
        return False
    _, got, truth, _ = found
    several = np.count_nonzero(truth, axis=1) > 1
    return bool(several.sum() > 1 and _rows_proportional(got, truth) >= 1 - 1e-6)


def divided_by_counts(e: Evidence) -> Iterator[Diagnosis]:
    """Each entry over the number of its contributions: an embedding's row used twice, say."""
    found = _ratio_per_entry(e)
    if found is not None and _divided_by_counts(e, found[0]):
        ratio, share = found
        yield Diagnosis(
            "averaged",
            "each entry is divided by the number of its contributions "
            f"(up to {round(float((1 / ratio[ratio != 0]).max()))}): a mean where a sum belongs",
            share,
        )


def entry_by_entry(e: Evidence) -> bool:
    """Whether each entry of the leaf moves one output only: then any error is a factor."""
    found = _rows(e)
    if found is None:
        return False
    _, got, truth, tolerance = found
    there = (np.abs(truth) > tolerance) | (np.abs(got) > tolerance)
    return bool(there.sum(axis=0).max() <= 1)


def _recognised(e: Evidence, ratio: np.ndarray) -> str | None:
    """What the truth over the answer is, among what the function computes on its way."""
    flat = ratio.reshape(-1)
    used = np.isfinite(flat) & (flat != 0)
    if used.sum() < 3:
        return None
    lacking = 1.0 / flat[used]
    candidates = [(f"`{leaf.name}`", e.points[0][leaf.part]) for leaf in e.leaves]
    candidates += e.values(e.points[0])
    for name, value in candidates:
        if value.size not in (1, flat.size):
            continue
        v = np.broadcast_to(value.reshape(-1), flat.shape)[used]
        with np.errstate(all="ignore"):
            for spelled, factor in (
                ("{}", v), ("1 / {}", 1 / v), ("{}²", v * v), ("1 / {}²", 1 / (v * v)),
                ("1 - {}", 1 - v), ("1 + {}", 1 + v), ("1 / (1 - {})", 1 / (1 - v)),
                ("1 / (1 + {})", 1 / (1 + v)), ("1 - {}²", 1 - v * v), ("1 + {}²", 1 + v * v),
                ("log {}", np.log(v)), ("exp {}", np.exp(v)), ("cos {}", np.cos(v)),
            ):  # fmt: skip
                for sign in (1.0, -1.0):
                    if np.allclose(sign * factor, lacking, 1e-5, 0.0):
                        return ("-" if sign < 0 else "") + spelled.format(name)
    return None


def _divided_by_counts(e: Evidence, ratio: np.ndarray) -> bool:
    """Whether each entry's factor is one over the number of outputs that it contributes to."""
    found = jacobians(e)
    if found is None:
        return False
    _, _, truth, tolerance = found
    counts = (np.abs(truth) > tolerance).sum(axis=0).reshape(ratio.shape)
    used = (counts > 0) & (ratio != 0)
    if not used.any() or counts[used].max() < 2:
        return False
    with np.errstate(divide="ignore"):
        inverse = 1.0 / ratio[used]
    # An embedding's row is used by several tokens, each of which contributes to one entry once.
    return bool(np.allclose(inverse, counts[used], 1e-6))


def _ratio_per_entry(e: Evidence) -> tuple[np.ndarray, float] | None:
    """got / truth for each entry, where it is the same for every cotangent at one point."""
    same = np.all(e.points == e.points[0], axis=1)
    got, truth = e.got[same], e.truth[same]
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
    return (ratio, share) if share >= 1 - 1e-6 else None


def _rows_proportional(got: np.ndarray, truth: np.ndarray) -> float:
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
