"""The mistakes of a backward that is right but for one value in it.

One residual, or one cotangent on its way, enters rearranged; one sum goes over other axes; one
residual is taken for another. Each must give the rule's answer exactly.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from jaxbp.verify.diagnose.altered_backward import Backward, Value
from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.diagnose.mistakes.answers import index_maps
from jaxbp.verify.subject.subject import unpack

MOST_TRIED = 2000
EXACT = 1e-9

POWERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1": np.ones_like,
    "the square": np.square,
    "the root": np.sqrt,
    "the inverse": lambda v: 1 / v,
    "the inverse square": lambda v: 1 / np.square(v),
    "the inverse root": lambda v: 1 / np.sqrt(v),
}

Change = Callable[[list[np.ndarray], np.ndarray], np.ndarray]
"""(the backward's values, the point) -> what stands in the place of one of them."""


def value_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """One value of the backward with axes exchanged, mirrored or displaced."""
    backward = e.backward()
    if backward is None:
        return
    changes = (
        (same, word, f"{backward.known[same[0]].what} of shape {list(shape)} {sentence}", index)
        for shape, same in _distinct(e, backward)
        for word, sentence, index in index_maps(shape)
    )
    for same, word, sentence, index in itertools.islice(changes, MOST_TRIED):

        def change(values, _, first=same[0], index=index):  # type: ignore[no-untyped-def]
            return np.where(index < 0, 0.0, values[first].reshape(-1)[np.maximum(index, 0)])

        yield Diagnosis(
            word,
            f"the cotangent is right for {sentence} where the backward uses it",
            _share(e, backward, same, change),
        )


def summed_elsewhere(e: Evidence) -> Iterator[Diagnosis]:
    """One sum of the backward over other axes, and spread out again to where it is used."""
    backward = e.backward()
    if backward is None:
        return
    changes = (
        (whole, axes, number, other, mean, unit)
        for _, _, whole, axes in backward.known
        if whole is not None
        for number in range(whole + 1, len(backward.known))
        for shape in (backward.known[whole].shape,)
        if backward.known[number] == Value("`broadcast_in_dim`", shape)
        for other in _other_axes(shape, axes)
        for mean in (False, True)
        for unit in (None, *_constant_along(axes, shape, backward.known))
    )
    for whole, axes, number, other, mean, unit in itertools.islice(changes, MOST_TRIED):

        def change(  # type: ignore[no-untyped-def]
            values, _, whole=whole, axes=axes, number=number, other=other, mean=mean, unit=unit
        ):
            # What is the same for all that is summed may stand inside of the sum or outside.
            with np.errstate(all="ignore"):
                factor = 1.0 if unit is None else values[unit]
                right = (values[whole] * factor).sum(axis=axes, keepdims=True)
                wrong = (values[whole] * factor).sum(axis=other, keepdims=True)
                share = wrong.size / right.size if mean else 1.0
                return np.nan_to_num(values[number] / right * wrong * share)

        what = "mean" if mean else "sum"
        yield Diagnosis(
            "missing-term",
            f"the cotangent is right for a {what} over axes {list(other)} where the backward takes "
            f"one over axes {list(axes)}, of an array of shape "
            f"{list(backward.known[whole].shape)}",
            _share(e, backward, [number], change),
        )


def _other_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    long = [a for a, n in enumerate(shape) if n > 1]
    lengths = range(1, len(long) + 1)
    every = itertools.chain(*(itertools.combinations(long, length) for length in lengths))
    return [chosen for chosen in every if set(chosen) != set(axes) & set(long)]


def _constant_along(
    axes: tuple[int, ...], shape: tuple[int, ...], known: list[Value]
) -> Iterator[int]:
    """The residuals that are the same all along these axes."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(shape))
    yield from (k for k, v in enumerate(known) if v == Value("a residual", kept))


def residual_exchanged(e: Evidence) -> Iterator[Diagnosis]:
    """A residual taken for another value that the function computes."""
    backward = e.backward()
    if backward is None:
        return
    here = _candidates(e, e.points[0])
    values = _values(e, backward, 0)
    tried = 0
    for shape, same in _distinct(e, backward):
        if backward.known[same[0]].what != "a residual":
            continue
        for which, (name, other) in enumerate(here):
            if other.shape != shape or np.array_equal(other, values[same[0]]):
                continue
            if tried >= MOST_TRIED:
                return
            tried += 1

            def change(_, x, which=which):  # type: ignore[no-untyped-def]
                return _candidates(e, x)[which][1]

            by = _displaced_by(other, values[same[0]])
            moved = f", the same one step {'later' if by > 0 else 'earlier'} along axis 0"
            yield Diagnosis(
                "shifted" if by else "missing-term",
                f"the cotangent is right with {name} in the place of a residual of shape "
                f"{list(shape)}{moved if by else ''}: one is taken for the other",
                _share(e, backward, same, change),
            )


def residual_powered(e: Evidence) -> Iterator[Diagnosis]:
    """A residual to a wrong power: left out, or a deviation for a variance."""
    backward = e.backward()
    if backward is None:
        return
    for shape, same in _distinct(e, backward):
        if backward.known[same[0]].what != "a residual":
            continue
        for name, power in POWERS.items():

            def change(values, _, first=same[0], power=power):  # type: ignore[no-untyped-def]
                with np.errstate(all="ignore"):
                    return np.nan_to_num(power(values[first]))

            yield Diagnosis(
                "missing-term",
                f"the cotangent is right with {name} of a residual of shape {list(shape)} in its "
                "place: a factor is left out, or its power wrong",
                _share(e, backward, same, change),
            )


def _displaced_by(a: np.ndarray, b: np.ndarray) -> int:
    """1 where `a` is what `b` is an entry later along axis 0, -1 where earlier, else 0."""
    if a.shape[0] < 2:
        return 0
    return int(np.allclose(a[:-1], b[1:])) - int(np.allclose(a[1:], b[:-1]))


def _candidates(e: Evidence, x: np.ndarray) -> list[tuple[str, np.ndarray]]:
    key = ("candidates", x.tobytes())
    if key not in e.kept:
        leaves = [(f"`{leaf.name}`", unpack(x[leaf.part], leaf)) for leaf in e.leaves]
        e.kept[key] = leaves + e.values(x)
    return e.kept[key]


def _values(e: Evidence, backward: Backward, question: int) -> list[np.ndarray]:
    key = ("backward", question)
    if key not in e.kept:
        e.kept[key] = backward.values(e.points[question], e.cotangents[question])
    return e.kept[key]


def _distinct(e: Evidence, backward: Backward) -> list[tuple[tuple[int, ...], list[int]]]:
    """The shapes and numbers of the values; those that are one value have several numbers, ~k
    where it is transposed."""
    found: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for number, value in enumerate(_values(e, backward, 0)):
        if np.ptp(value) == 0:
            continue
        turned = (value.shape[::-1], value.T.tobytes())
        if value.ndim == 2 and turned in found:
            found[turned].append(~number)
        else:
            found.setdefault((value.shape, value.tobytes()), []).append(number)
    return [(shape, numbers) for (shape, _), numbers in found.items()]


def _share(e: Evidence, backward: Backward, numbers: list[int], change: Change) -> float:
    """The share explained over all questions; most changes fail the first one already."""
    answers = []
    for q in range(len(e.got)):
        x, c = e.points[q], e.cotangents[q]
        answer = backward.answer(x, c, numbers, change(_values(e, backward, q), x))
        answers.append(unpack(answer[e.leaf.part], e.leaf))
        error = float(np.sum(np.abs(e.got[q] - e.truth[q]) ** 2))
        with np.errstate(over="ignore", invalid="ignore"):
            left = float(np.sum(np.abs(e.got[q] - answers[-1]) ** 2))
        if not left <= EXACT * error and q == 0:
            return 0.0
    return e.explained(np.array(answers))
