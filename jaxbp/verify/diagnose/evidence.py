"""What a diagnosis has to go by: what one cotangent is and should be, for many questions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxbp.verify.diagnose.altered_backward import Backward
from jaxbp.verify.diagnose.altered_forward import Altered
from jaxbp.verify.diagnose.gated import Parts
from jaxbp.verify.subject.subject import Leaf, Vector, unpack

Vjp = Callable[[Vector, Vector], Vector]


@dataclasses.dataclass(frozen=True)
class Integers:
    """An array argument that is not differentiated: indices, lengths, labels."""

    name: str
    value: np.ndarray
    displaced: Callable[[int], Vjp]
    """The truth with all of it that much larger."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The answers for one leaf. All arrays start with the axis of the questions, `S`."""

    leaf: Leaf
    leaves: tuple[Leaf, ...]
    outputs: tuple[tuple[int, ...], ...]
    """The shape of every output leaf."""
    points: np.ndarray
    """[S, n]"""
    cotangents: np.ndarray
    """[S, m]"""
    got: np.ndarray
    """[S, *leaf.shape]"""
    truth: np.ndarray
    """[S, *leaf.shape]"""
    truths: np.ndarray
    """[S, n]: the truth for every leaf."""
    tolerance: np.ndarray
    """[S, *leaf.shape]"""
    rule: Vjp
    reference: Vjp
    parts: Callable[[], Parts | None] = lambda: None
    """The reference's derivative taken apart, where that works."""
    given: Vector | None = None
    """The arguments that the rule was first called with."""
    altered: Callable[[], Altered | None] = lambda: None
    """The reference with any one of its steps changed, where that works."""
    backward: Callable[[], Backward | None] = lambda: None
    """The reference's backward with any one value replaced, where that works."""
    integers: tuple[Integers, ...] = ()
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict)
    """What several hypotheses ask for, computed once."""

    def explained(self, answer: np.ndarray) -> float:
        """The share of the error that is gone when `answer` is what the rule is taken to give."""
        axes = tuple(range(1, self.got.ndim))
        left = np.sum(np.abs(self.got - answer) ** 2, axis=axes)
        error = np.sum(np.abs(self.got - self.truth) ** 2, axis=axes)
        usable = error > 0
        if not usable.any():
            return 0.0
        return float(np.clip(1.0 - np.max(left[usable] / error[usable]), 0.0, 1.0))

    def fitted(self, answer: np.ndarray) -> tuple[float, float]:
        """The factor with which `answer` explains most, and the share that it explains."""
        size = np.sqrt(np.sum(np.abs(self.got) ** 2, axis=tuple(range(1, self.got.ndim))))
        weight = (1.0 / np.where(size > 0, size, np.inf)).reshape(-1, *[1] * (self.got.ndim - 1))
        a, b = answer * weight, self.got * weight
        norm = float(np.sum(np.abs(a) ** 2))
        factor = float(np.sum(np.real(np.conj(a) * b)) / norm) if norm > 0 else 0.0
        return factor, self.explained(factor * answer)

    def values(self, x: Vector) -> list[tuple[str, np.ndarray]]:
        """What the function computes on its way at `x`, by the names of its operations."""
        parts = self.parts()
        return [] if parts is None else parts.values(x)

    def asked(self, change: Callable[[Vector, Vector], tuple[Vector, Vector]]) -> np.ndarray:
        """The truth for this leaf, at points and cotangents changed by `change`. [S, *shape]"""
        answers = []
        for x, c in zip(self.points, self.cotangents, strict=True):
            answers.append(unpack(self.reference(*change(x, c))[self.leaf.part], self.leaf))
        return np.array(answers)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A kind of mistake, why it is taken to be that one, and how much of the error it explains."""

    word: str
    sentence: str
    explained: float


def usable_samples(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which questions have two finite answers."""
    axes = tuple(range(1, got.ndim))
    return np.all(np.isfinite(got), axis=axes) & np.all(np.isfinite(truth), axis=axes)


def gather(
    leaf: Leaf,
    leaves: Sequence[Leaf],
    outputs: Sequence[tuple[int, ...]],
    questions: Sequence[tuple[Vector, Vector, Vector, Vector, Vector]],
    rule: Vjp,
    reference: Vjp,
    parts: Callable[[], Parts | None] = lambda: None,
    given: Vector | None = None,
    altered: Callable[[], Altered | None] = lambda: None,
    backward: Callable[[], Backward | None] = lambda: None,
    integers: Sequence[Integers] = (),
) -> Evidence | None:
    """The evidence in (x, c, got, expected, tolerance) for one leaf; None if none is finite."""
    if not questions:
        return None
    xs, cs, got, expected, tolerance = map(np.array, zip(*questions, strict=True))
    shape = (len(questions), *leaf.shape)
    mine, theirs = got[:, leaf.part].reshape(shape), expected[:, leaf.part].reshape(shape)
    keep = usable_samples(mine, theirs)
    if not keep.any():
        return None
    return Evidence(
        leaf,
        tuple(leaves),
        tuple(outputs),
        xs[keep],
        cs[keep],
        mine[keep],
        theirs[keep],
        expected[keep],
        tolerance[:, leaf.part].reshape(shape)[keep],
        rule,
        reference,
        parts,
        given,
        altered,
        backward,
        tuple(integers),
    )
