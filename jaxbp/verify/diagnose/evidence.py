"""What a diagnosis has to go by: what one cotangent is and should be, for many questions."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxbp.verify.compare.sample import Sample, Vjp
from jaxbp.verify.diagnose.altered_backward import Backward
from jaxbp.verify.diagnose.altered_forward import Altered
from jaxbp.verify.diagnose.jacobian import Jacobian, jacobian_of
from jaxbp.verify.diagnose.parts import Parts
from jaxbp.verify.diagnose.taken_apart import Apart, Integers
from jaxbp.verify.subject.vectors import Leaf, Vector, unpack

Change = Callable[[Vector, Vector], tuple[Vector, Vector]]
"""(point, cotangent) -> others in their place."""

PROMISING = 0.05
"""A change that leaves more of the first question's error need not be tried on the others."""


class Fit(NamedTuple):
    """A factor, and the share of the error that is gone with it."""

    factor: float
    share: float


class Known(NamedTuple):
    """A value that is known, and what a sentence calls it."""

    name: str
    value: np.ndarray


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

    @cached_property
    def wrong(self) -> np.ndarray:
        """Which entries are wrong in which questions. [S, *leaf.shape]"""
        return np.asarray(np.abs(self.got - self.truth) > self.tolerance)

    @property
    def anywhere(self) -> np.ndarray:
        """Which entries are wrong in any question. [*leaf.shape]"""
        return np.asarray(self.wrong.any(axis=0))

    @property
    def at_first_point(self) -> np.ndarray:
        """Which questions are asked at the point of the first one. [S]"""
        return np.all(self.points == self.points[0], axis=1)

    @cached_property
    def jacobian(self) -> Jacobian | None:
        """Both Jacobians, whether they differ or not: for what the truth depends on."""
        rows = self.cotangents.shape[1]
        return jacobian_of(self.rule, self.reference, self.leaf, self.points, rows)

    @property
    def differing_jacobian(self) -> Jacobian | None:
        """Both Jacobians, where they differ."""
        return self.jacobian if self.jacobian is not None and self.jacobian.differs else None

    @property
    def entry_by_entry(self) -> bool:
        """Whether each entry of the leaf moves one output only: then any error is a factor."""
        return self.jacobian is not None and self.jacobian.entry_by_entry

    def explained(self, answer: np.ndarray) -> float:
        """The share of the error that is gone when `answer` is what the rule is taken to give."""
        axes = tuple(range(1, self.got.ndim))
        left = np.sum(np.abs(self.got - answer) ** 2, axis=axes)
        error = np.sum(np.abs(self.got - self.truth) ** 2, axis=axes)
        usable = error > 0
        if not usable.any():
            return 0.0
        return float(np.clip(1.0 - np.max(left[usable] / error[usable]), 0.0, 1.0))

    def left(self, answer: np.ndarray, question: int = 0) -> float:
        """The share of one question's error that is left then; 1 where there is none."""
        error = float(np.sum(np.abs(self.got[question] - self.truth[question]) ** 2))
        with np.errstate(over="ignore", invalid="ignore"):
            left = float(np.sum(np.abs(self.got[question] - answer) ** 2))
        return left / error if error > 0 and np.isfinite(left) else 1.0

    def fitted(self, answer: np.ndarray) -> Fit:
        """The factor with which `answer` explains most, and the share that it explains."""
        size = np.sqrt(np.sum(np.abs(self.got) ** 2, axis=tuple(range(1, self.got.ndim))))
        weight = (1.0 / np.where(size > 0, size, np.inf)).reshape(-1, *[1] * (self.got.ndim - 1))
        a, b = answer * weight, self.got * weight
        norm = float(np.sum(np.abs(a) ** 2))
        factor = float(np.sum(np.real(np.conj(a) * b)) / norm) if norm > 0 else 0.0
        return Fit(factor, self.explained(factor * answer))

    def values(self, x: Vector) -> list[Known]:
        """What the function computes on its way at `x`, by the names of its operations."""
        parts = self.parts()
        return [] if parts is None else [Known(*computed) for computed in parts.values(x)]

    def known(self, x: Vector) -> list[Known]:
        """The arguments and what the function computes on its way, at `x`."""
        leaves = [Known(f"`{leaf.name}`", unpack(x[leaf.part], leaf)) for leaf in self.leaves]
        return leaves + self.values(x)

    def mine(self, answer: Vector) -> np.ndarray:
        """This leaf's part of an answer for all of them. [*leaf.shape]"""
        return unpack(answer[self.leaf.part], self.leaf)

    def asked(self, change: Change) -> np.ndarray:
        """The truth for this leaf, at points and cotangents changed by `change`. [S, *shape]"""
        questions = zip(self.points, self.cotangents, strict=True)
        return np.array([self.mine(self.reference(*change(x, c))) for x, c in questions])

    def explained_by(self, change: Change) -> float:
        """As `explained` over all questions, but most changes fail the first one already."""
        first = self.mine(self.reference(*change(self.points[0], self.cotangents[0])))
        if not self.left(first) <= PROMISING:
            return 0.0
        return self.explained(self.asked(change))


def gather(
    leaf: Leaf,
    leaves: Sequence[Leaf],
    outputs: Sequence[Leaf],
    samples: Sequence[Sample],
    rule: Vjp,
    reference: Vjp,
    *,
    apart: Apart | None = None,
    given: Vector | None = None,
    integers: Sequence[Integers] = (),
) -> Evidence | None:
    """The evidence of these samples for one leaf; None if none of them is finite."""
    if not samples:
        return None
    got, truth = (np.array([v(s)[leaf.part] for s in samples]) for v in (_got, _expected))
    keep = np.all(np.isfinite(got), axis=1) & np.all(np.isfinite(truth), axis=1)
    if not keep.any():
        return None
    shape = (int(keep.sum()), *leaf.shape)
    kept = [sample for sample, usable in zip(samples, keep, strict=True) if usable]
    apart = apart or Apart()
    return Evidence(
        leaf,
        tuple(leaves),
        tuple(out.shape for out in outputs),
        points=np.array([s.x for s in kept]),
        cotangents=np.array([s.c for s in kept]),
        got=got[keep].reshape(shape),
        truth=truth[keep].reshape(shape),
        truths=np.array([s.expected for s in kept]),
        tolerance=np.array([s.tolerance[leaf.part] for s in kept]).reshape(shape),
        rule=rule,
        reference=reference,
        parts=apart.parts,
        given=given,
        altered=apart.altered,
        backward=apart.backward,
        integers=tuple(integers),
    )


def _got(sample: Sample) -> Vector:
    return sample.got


def _expected(sample: Sample) -> Vector:
    return sample.expected
