"""The mistakes of a backward that is right but for one value in it.

One residual, or one cotangent on its way, enters rearranged; one sum goes over other axes; one
residual is taken for another. Each must give the rule's answer exactly.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose.altered_backward import Backward, Value
from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence, Known
from jaxbp.verify.diagnose.rearrangements import index_maps, long_axes, subsets
from jaxbp.verify.subject.vectors import Vector

MOST_TRIED = 2000
"""Each hypothesis tries so many changes at most: a few seconds."""
EXACT = 1e-9
"""Of the first question's error no more may be left."""

POWERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1": np.ones_like,
    "the square": np.square,
    "the root": np.sqrt,
    "the inverse": lambda v: 1 / v,
    "the inverse square": lambda v: 1 / np.square(v),
    "the inverse root": lambda v: 1 / np.sqrt(v),
}

Change = Callable[[list[np.ndarray], Vector], np.ndarray]
"""(the backward's values, the point) -> what stands in the place of one of them."""


class _Run:
    """A backward, with the values that it has for each question."""

    def __init__(self, e: Evidence, backward: Backward) -> None:
        self.e, self.backward = e, backward
        self.known = backward.known
        self._values: dict[int, list[np.ndarray]] = {}
        self._computed: dict[bytes, list[Known]] = {}

    def values(self, question: int) -> list[np.ndarray]:
        """Those of one question."""
        if question not in self._values:
            x, c = self.e.points[question], self.e.cotangents[question]
            self._values[question] = self.backward.values(x, c)
        return self._values[question]

    def explained(self, numbers: list[int], change: Change) -> float:
        """The share explained over all questions; most changes fail the first one already."""
        answers = []
        for q, (x, c) in enumerate(zip(self.e.points, self.e.cotangents, strict=True)):
            answer = self.backward.answer(x, c, numbers, change(self.values(q), x))
            answers.append(self.e.mine(answer))
            if q == 0 and not self.e.left(answers[0]) <= EXACT:
                return 0.0
        return self.e.explained(np.array(answers))

    def computed(self, x: Vector) -> list[Known]:
        """What the function computes at `x`, the arguments among it."""
        if x.tobytes() not in self._computed:
            self._computed[x.tobytes()] = self.e.known(x)
        return self._computed[x.tobytes()]

    def taken_for(self, which: int) -> Change:
        """The change that puts a value of `computed` in the place of another."""
        return lambda _, x: self.computed(x)[which].value

    def distinct(self) -> list["_Same"]:
        """The values, but those that are the same in all entries."""
        found: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
        for number, value in enumerate(self.values(0)):
            if np.ptp(value) == 0:
                continue
            turned = (value.shape[::-1], value.T.tobytes())
            if value.ndim == 2 and turned in found:
                found[turned].append(~number)
            else:
                found.setdefault((value.shape, value.tobytes()), []).append(number)
        return [_Same(shape, numbers) for (shape, _), numbers in found.items()]

    def residuals(self) -> Iterator["_Same"]:
        """Those of `distinct` that the forward has kept."""
        for same in self.distinct():
            if self.known[same.first].primitive is None:
                yield same


class _Same(NamedTuple):
    """One value, and where the backward has it."""

    shape: tuple[int, ...]
    numbers: list[int]
    """~k where it is transposed."""

    @property
    def first(self) -> int:
        """Where it stands as it is."""
        return self.numbers[0]


def _run(e: Evidence) -> _Run | None:
    backward = e.backward()
    return None if backward is None else _Run(e, backward)


def value_rearranged(e: Evidence) -> Iterator[Diagnosis]:
    """One value of the backward with axes exchanged, mirrored or displaced."""
    run = _run(e)
    if run is None:
        return
    ways = ((same, way) for same in run.distinct() for way in index_maps(same.shape))
    for same, way in itertools.islice(ways, MOST_TRIED):
        what = f"{run.known[same.first].what} of shape {list(same.shape)} {way.sentence}"
        yield Diagnosis(
            way.word,
            f"the cotangent is right for {what} where the backward uses it",
            run.explained(same.numbers, _changed(same.first, way.of)),
        )


def _changed(number: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda values, _: change(values[number].reshape(-1))


class _Sum(NamedTuple):
    """A sum of the backward, what is made of it, and how it may have been taken otherwise."""

    whole: int
    """The number of the value that is summed."""
    axes: tuple[int, ...]
    spread: int
    """The number of the value that is the sum spread out again."""
    other_axes: tuple[int, ...]
    mean: bool
    unit: int | None
    """A residual that may stand inside of the sum or outside, for it is the same all along it."""

    def taken_otherwise(self, values: list[np.ndarray], _: Vector) -> np.ndarray:
        """What stands in the place of `spread` then."""
        with np.errstate(all="ignore"):
            factor = 1.0 if self.unit is None else values[self.unit]
            right = (values[self.whole] * factor).sum(axis=self.axes, keepdims=True)
            wrong = (values[self.whole] * factor).sum(axis=self.other_axes, keepdims=True)
            share = wrong.size / right.size if self.mean else 1.0
            return np.nan_to_num(values[self.spread] / right * wrong * share)


def summed_elsewhere(e: Evidence) -> Iterator[Diagnosis]:
    """One sum of the backward over other axes, and spread out again to where it is used."""
    run = _run(e)
    if run is None:
        return
    for way in itertools.islice(_sums(run.known), MOST_TRIED):
        yield Diagnosis(
            "missing-term",
            f"the cotangent is right for a {'mean' if way.mean else 'sum'} over axes "
            f"{list(way.other_axes)} where the backward takes one over axes {list(way.axes)}, of "
            f"an array of shape {list(run.known[way.whole].shape)}",
            run.explained([way.spread], way.taken_otherwise),
        )


def _sums(known: list[Value]) -> Iterator[_Sum]:
    for value in known:
        if value.summed is None:
            continue
        shape = known[value.summed].shape
        spread = Value("broadcast_in_dim", shape)
        units = [None, *_constant_along(value.axes, shape, known)]
        for number in range(value.summed + 1, len(known)):
            if known[number] == spread:
                for other in _other_axes(shape, value.axes):
                    for mean, unit in itertools.product((False, True), units):
                        yield _Sum(value.summed, value.axes, number, other, mean, unit)


def _other_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    long = long_axes(shape)
    return [chosen for chosen in subsets(long) if set(chosen) != set(axes) & set(long)]


def _constant_along(
    axes: tuple[int, ...], shape: tuple[int, ...], known: list[Value]
) -> Iterator[int]:
    """The residuals that are the same all along these axes."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(shape))
    yield from (k for k, v in enumerate(known) if v == Value(None, kept))


def residual_exchanged(e: Evidence) -> Iterator[Diagnosis]:
    """A residual taken for another value that the function computes."""
    run = _run(e)
    if run is None:
        return
    here = run.computed(e.points[0])
    pairs = (
        (same, which)
        for same in run.residuals()
        for which, (_, other) in enumerate(here)
        if other.shape == same.shape and not np.array_equal(other, run.values(0)[same.first])
    )
    for same, which in itertools.islice(pairs, MOST_TRIED):
        by = _displaced_by(here[which].value, run.values(0)[same.first])
        moved = f", the same one step {'later' if by > 0 else 'earlier'} along axis 0"
        yield Diagnosis(
            "shifted" if by else "missing-term",
            f"the cotangent is right with {here[which].name} in the place of a residual of shape "
            f"{list(same.shape)}{moved if by else ''}: one is taken for the other",
            run.explained(same.numbers, run.taken_for(which)),
        )


def residual_powered(e: Evidence) -> Iterator[Diagnosis]:
    """A residual to a wrong power: left out, or a deviation for a variance."""
    run = _run(e)
    if run is None:
        return
    for same in run.residuals():
        for name, power in POWERS.items():
            yield Diagnosis(
                "missing-term",
                f"the cotangent is right with {name} of a residual of shape {list(same.shape)} in "
                "its place: a factor is left out, or its power wrong",
                run.explained(same.numbers, _changed(same.first, _finite(power))),
            )


def _finite(power: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def powered(v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(power(v))

    return powered


def _displaced_by(a: np.ndarray, b: np.ndarray) -> int:
    """1 where `a` is what `b` is an entry later along axis 0, -1 where earlier, else 0."""
    if a.shape[0] < 2:
        return 0
    return int(np.allclose(a[:-1], b[1:])) - int(np.allclose(a[1:], b[:-1]))
