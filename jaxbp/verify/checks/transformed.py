"""What a transform of the VJP must give: the plain calls' answers, whichever transform it is."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.sample import Place, Sample, spread, tolerance_of
from jaxbp.verify.subject.pullback import QUICK, Pullback, vjp_of
from jaxbp.verify.subject.raised import named
from jaxbp.verify.subject.vectors import Leaf, LeafFunction, Leaves, Vector, eps_of
from jaxbp.verify.trial import Trial

BATCH = 2
"""What goes wrong in a batch goes wrong in one of two."""

LeavesVjp = Callable[[Leaves, Leaves, Leaves], Leaves]


class Answer(NamedTuple):
    """A plain call's answer, and what rounding may do to it."""

    cotangents: Vector
    room: Vector


class Situation:
    """Two points, two cotangents, and the plain answers, which every transform must give."""

    def __init__(
        self,
        trial: Trial,
        points: Sequence[Vector],
        rng: np.random.Generator,
        as_given: bool = False,
    ) -> None:
        self.trial = trial
        self.rule = trial.given if as_given else trial.traced
        self.eps = trial.traced.eps
        if as_given:
            self.eps = max([self.eps, *(eps_of(leaf.dtype) for leaf in trial.subject.leaves)])
        away = list(points[1:]) or list(points)
        self.points = [away[0], away[-1] if len(away) > 1 else points[0]]
        self.given_points = points
        self.cotangents = [trial.cotangent(rng) for _ in range(BATCH)]
        self.rng = rng
        self._plain: dict[tuple[bytes, int], Answer] = {}

    def as_given(self) -> "Situation":
        """The same with the arguments in the dtypes in which they were given."""
        return Situation(self.trial, self.given_points, self.rng, as_given=True)

    def plain(self, x: Vector, which: int) -> Answer:
        """The plain VJP at `x` for cotangent `which`."""
        key = (x.tobytes(), which)
        if key not in self._plain:
            self._plain[key] = self.answered(self.rule, x, self.cotangents[which])
        return self._plain[key]

    def answered(self, pullback: Pullback, x: Vector, c: Vector) -> Answer:
        """A function's VJP."""
        answer = pullback(x, c)
        moved = spread(pullback, x, c, self.eps, self.rng)
        room = tolerance_of(moved, answer, self.trial.subject.leaves, self.eps)
        if not pullback.wide:  # what cancels in few digits differs with the order of its steps
            room += self._moved(pullback, x, c)
        return Answer(answer, room)

    def _moved(self, pullback: Pullback, x: Vector, c: Vector) -> Vector | float:
        """How far rounding moves an answer; 0 where its program cannot be run step by step."""
        try:
            with pullback.mode():
                arguments = self.trial.subject.cast(x, pullback.dtype), self.trial.subject.others
                vjp = vjp_leaves(pullback.fn)
                return rounding.moved(vjp, (*arguments, pullback.cotangents(c)), self.rng, False)
        except Exception:  # a primitive that cannot be bound anew
            return 0.0

    def leaves(self, x: Vector) -> Leaves:
        """The arguments at a point."""
        return self.trial.subject.cast(x, self.rule.dtype)

    def ct(self, which: int) -> Leaves:
        """The incoming cotangents."""
        return self.rule.cotangents(self.cotangents[which])

    def stacked_cts(self) -> Leaves:
        """Those of a batch."""
        return [np.stack(parts) for parts in zip(self.ct(0), self.ct(1), strict=True)]

    def mixed(self, subset: Sequence[int]) -> list[Vector]:
        """The points of a batch in which only the arguments of `subset` vary."""
        base = self.points[0]
        members = []
        for x in self.points:
            member = base.copy()
            for leaf in self.trial.subject.leaves:
                if leaf.argument in subset:
                    member[leaf.part] = x[leaf.part]
            members.append(member)
        return members

    def stacked(self, members: list[Vector], subset: Sequence[int]) -> Leaves:
        """The arguments of a batch, those of `subset` with an axis for it."""
        columns = [self.leaves(x) for x in members]
        return [
            np.stack([column[i] for column in columns])
            if leaf.argument in subset
            else columns[0][i]
            for i, leaf in enumerate(self.trial.subject.leaves)
        ]

    def names(self, subset: Sequence[int]) -> str:
        """The names of some arguments."""
        return ", ".join(self.trial.subject.argument_names[a] for a in subset)


class Composition(NamedTuple):
    """One way to transform the VJP, and what the plain calls say it must give."""

    name: str
    transformed: LeavesVjp
    arguments: tuple[Leaves, Leaves, Leaves]
    expected: list[Answer]
    blames: str | None = None
    """The argument to name when it raises: the only one that is batched."""
    members: list[Vector] | None = None
    """The points of a batch that is differentiated as one."""


class NotApplicable(Exception):
    """There is nothing to transform here, and why."""


class Transform(NamedTuple):
    """One transform, and all the ways to apply it."""

    name: str
    """Of its row, and the word of its findings."""
    compositions: Callable[[Situation, LeafFunction], list[Composition]]
    hint: Callable[[Exception], str] = lambda error: ""
    """What to do about an exception, in brackets."""
    cause: Callable[[Situation, Composition], str] = lambda s, composition: ""
    """Why an answer may be wrong, after a colon."""
    may_be_refused: bool = False
    """Whether a rule that raises is not wrong."""


def judge(s: Situation, transform: Transform) -> Outcome:
    """A row, and a finding for the first composition that goes wrong."""
    outcome, fn = Outcome(), s.trial.rule_fn
    try:
        compositions = transform.compositions(s, fn)
    except NotApplicable as reason:
        outcome.row(transform.name, None, str(reason))
        return outcome
    differs = s.rule.wide and s.trial.given is not s.trial.traced
    if differs and _raises(s, compositions):
        # A dtype that is written down in a rule is no fault of it: asked as it was given then.
        s = s.as_given()
        compositions = transform.compositions(s, fn)
    for composition, (answer, error) in zip(
        compositions, _answers(s, transform, compositions), strict=True
    ):
        if error is not None:
            _raised(s, transform, composition, error, outcome)
            return outcome
        wrong = _first_wrong(s, composition, answer)
        if wrong is not None:
            message = (
                f"under {composition.name} the cotangent differs from the plain call's"
                + transform.cause(s, composition)
            )
            argument, at = wrong.leaf.name, wrong.place
            outcome.found(
                finding(transform.name, transform.name, message, argument=argument, at=at),
                f"wrong under {composition.name}",
            )
            return outcome
    names = [composition.name for composition in compositions]
    outcome.row(transform.name, True, "; ".join(names[:4]) + (" …" if len(names) > 4 else ""))
    return outcome


def _answers(
    s: Situation, transform: Transform, compositions: list[Composition]
) -> list[tuple[Any, Exception | None]]:
    """What each of them gives, or raises; all are compiled together, where none raises."""
    functions = [composition.transformed for composition in compositions]

    def together(arguments: list[Any]) -> list[Leaves]:
        return [f(*a) for f, a in zip(functions, arguments, strict=True)]

    names = tuple(composition.name for composition in compositions)
    key = (transform.name, names, s.rule.wide)
    run = s.trial.remember(key, lambda: jax.jit(together, compiler_options=QUICK))
    try:
        with s.rule.mode():
            arguments = [composition.arguments for composition in compositions]
            return [(answer, None) for answer in jax.block_until_ready(run(arguments))]
    except Exception:  # one of them fails: which one?
        return [alone(s, composition) for composition in compositions]


def alone(s: Situation, composition: Composition) -> tuple[Any, Exception | None]:
    """What one composition gives, or raises."""
    try:
        with s.rule.mode():
            run = jax.jit(composition.transformed, compiler_options=QUICK)
            return jax.block_until_ready(run(*composition.arguments)), None
    except Exception as error:  # anybody's code runs here
        return None, error


def is_right(s: Situation, composition: Composition) -> bool:
    """Whether one composition, compiled on its own, gives what it must."""
    answer, error = alone(s, composition)
    return error is None and _first_wrong(s, composition, answer) is None


def _raises(s: Situation, compositions: list[Composition]) -> bool:
    try:
        with s.rule.mode():
            for composition in compositions:
                jax.eval_shape(composition.transformed, *composition.arguments)
    except Exception:
        return True
    return False


def _raised(
    s: Situation,
    transform: Transform,
    composition: Composition,
    error: Exception,
    outcome: Outcome,
) -> None:
    """What raises is refused, not wrong: it is a finding where the reference can do it."""
    kind, said, hint = transform.name, named(error), transform.hint(error)
    if transform.may_be_refused:
        outcome.row(kind, None, f"refused with the default checks{hint}: {said}")
    elif "UNIMPLEMENTED" in said:  # as XLA says what a backend cannot run
        outcome.row(kind, None, f"this backend cannot run {composition.name}: {said}")
    elif not _reference_can(s, transform):
        outcome.row(kind, None, f"the reference cannot be transformed either: {said}")
    else:
        message = f"{composition.name} raises {said}{hint}"
        outcome.found(
            finding(kind, kind, message, argument=composition.blames),
            f"raises under {composition.name}",
        )


def _reference_can(s: Situation, transform: Transform) -> bool:
    try:
        with s.trial.truth.mode():
            for composition in transform.compositions(s, s.trial.truth_fn):
                jax.eval_shape(composition.transformed, *composition.arguments)
    except Exception:
        return False
    return True


class _Wrong(NamedTuple):
    """A leaf that is not what it must be, and where."""

    leaf: Leaf
    place: Place


def _first_wrong(s: Situation, composition: Composition, answer: Leaves) -> _Wrong | None:
    """The first leaf in which the transformed answer is not the plain one."""
    for leaf, got in zip(s.trial.subject.leaves, answer, strict=True):
        stacked = np.asarray(got, dtype=np.complex128 if leaf.dtype.kind == "c" else np.float64)
        expected = composition.expected
        if len(expected) > 1 and stacked.ndim > len(leaf.shape):
            members = zip(stacked, expected, strict=True)
            samples = [_sample(leaf, m, e.cotangents, e.room) for m, e in members]
        else:  # an argument that is not batched: what all members send back is added
            total = np.sum([e.cotangents for e in expected], axis=0)
            samples = [_sample(leaf, stacked, total, np.sum([e.room for e in expected], axis=0))]
        for sample in samples:
            if sample.wrong(leaf).any():
                return _Wrong(leaf, sample.worst(leaf))
    return None


def _sample(leaf: Leaf, mine: np.ndarray, theirs: Vector, room: Vector) -> Sample:
    """One leaf's answer beside the vectors of all of them."""
    got = np.zeros(len(theirs), dtype=np.result_type(mine, theirs))
    got[leaf.part] = mine.reshape(-1)
    return Sample(got, got, got, theirs, room, "")


def vjp_leaves(fn: LeafFunction) -> LeavesVjp:
    """(leaves, others, cotangents) -> the VJP."""
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[1]
