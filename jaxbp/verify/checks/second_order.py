"""Is the rule right when it is differentiated again: gradient of gradient, forward over reverse?"""

import dataclasses
import enum
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.sample import Place, Sample, Vjp, compare
from jaxbp.verify.diagnose.verdict import overrules_the_reference
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.pullback import QUICK, Pullback, vjp_of
from jaxbp.verify.subject.raised import named
from jaxbp.verify.subject.vectors import Leaf, LeafFunction, Leaves, Vector, pack, unpack
from jaxbp.verify.trial import Trial

NAME = "second-order"
POINTS = 2
STEPS = (1e-3, 5e-4, 2.5e-4)
"""Of the differences, relative to the size of what is moved: halved twice, to extrapolate."""
TURNS = 0.1
"""A slope that changes by more than this share from step to step has met a kink."""
UNSURE = 0.1
"""A slope that is not known to this share of it cannot tell."""
SAME_SLOPE = 1e-5
"""Relative: as close do slopes come that are the same."""


class Way(enum.Enum):
    """Of differentiating the VJP again."""

    BACKWARDS = "gradient of gradient"
    FORWARDS = "forward over reverse"


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """Each argument's cotangent, differentiated once more by everything it depends on."""
    outcome = Outcome()
    if not trial.has_rule and not trial.explicit:
        outcome.row(NAME, None, "autodiff is its own reference here")
        return outcome
    away = (points[1:] or points)[:POINTS]
    first = [trial.compare(x, trial.cotangent(rng), rng, "first order") for x in away]
    if overrules_the_reference(trial, first, rng):
        _by_differences(trial, away, rng, outcome)
        return outcome
    for way in Way:
        if outcome.findings:
            return outcome
        why_not = _compare(trial, way, away, rng, outcome)
        if why_not is not None:
            outcome.row(NAME, None, why_not)
            return outcome
    if not outcome.findings:
        outcome.row(NAME, True, ", ".join(way.value for way in Way))
    return outcome


def reverse_over_reverse(fn: LeafFunction) -> Callable[[Leaves, Leaves, Leaves, Leaves], Leaves]:
    """The VJP for `u` of (leaves, cotangents) -> VJP of `fn`, leaves before cotangents."""
    first = vjp_of(fn)

    def second(leaves: Leaves, others: Leaves, cts: Leaves, u: Leaves) -> Leaves:
        _, pull = jax.vjp(lambda ls, cs: first(ls, others, cs)[1], leaves, cts)
        by_leaves, by_cts = pull(u)
        return [*by_leaves, *by_cts]

    return second


def forward_over_reverse(fn: LeafFunction) -> Callable[[Leaves, Leaves, Leaves, Leaves], Leaves]:
    """The derivative of the VJP of `fn` along `v`."""
    first = vjp_of(fn)

    def second(leaves: Leaves, others: Leaves, cts: Leaves, v: Leaves) -> Leaves:
        return jax.jvp(lambda ls: first(ls, others, cts)[1], (leaves,), (v,))[1]

    return second


_MAKERS = {Way.BACKWARDS: reverse_over_reverse, Way.FORWARDS: forward_over_reverse}


class _Second:
    """One of the two above, on vectors: x and c together in, `u` held."""

    def __init__(self, trial: Trial, pullback: Pullback, way: Way) -> None:
        self.trial, self.pullback, self.make = trial, pullback, _MAKERS[way]
        self.run = jax.jit(self.make(pullback.fn), compiler_options=QUICK)

    def at(self, u: Vector) -> Vjp:
        """(x, c) -> the answer for this `u`."""

        def answer(x: Vector, c: Vector) -> Vector:
            with self.pullback.mode():
                dtype = self.pullback.dtype
                subject = self.trial.subject
                leaves, along = subject.cast(x, dtype), subject.cast(u, dtype)
                return pack(self.run(leaves, subject.others, self.pullback.cotangents(c), along))

        return answer


def _second(trial: Trial, pullback: Pullback, way: Way) -> _Second:
    key = ("second", way, pullback is trial.rule)
    made: _Second = trial.remember(key, lambda: _Second(trial, pullback, way))
    return made


def _compare(
    trial: Trial, way: Way, points: list[Vector], rng: np.random.Generator, outcome: Outcome
) -> str | None:
    """Rule against reference at these points; why it cannot be done, if so."""
    for x in points:
        c = trial.cotangent(rng)
        for leaf in trial.subject.leaves:
            asked = _sample(trial, way, x, c, leaf, rng)
            if isinstance(asked, str):
                return asked
            if asked is None:
                continue
            if way is Way.BACKWARDS:
                _judge_backwards(trial, asked, leaf, rng, outcome)
            else:  # all arguments have been moved together
                _judge_forwards(trial, asked, rng, outcome)
                break
    return None


class _Sample(NamedTuple):
    """Two answers of second order, and the direction in which they were asked."""

    sample: Sample
    u: Vector
    parts: list[Leaf]
    """Of the answer: the arguments, and backwards the incoming cotangent."""


def _sample(
    trial: Trial, way: Way, x: Vector, c: Vector, leaf: Leaf, rng: np.random.Generator
) -> _Sample | str | None:
    """Both answers; a text if one cannot be had, None if the reference's is not finite."""
    rule, truth = (_second(trial, pullback, way) for pullback in (trial.rule, trial.truth))
    u = np.zeros(trial.subject.size)
    u[leaf.part] = rng.normal(size=leaf.size)
    if way is Way.FORWARDS:
        u = rng.normal(size=trial.subject.size)
    u = _along_promises(trial, u)
    try:
        theirs = truth.at(u)(x, c)
    except Exception as error:  # anybody's code runs here
        return f"the reference has no second order: {named(error)}"
    try:
        rule.at(u)(x, c)
    except Exception as error:
        return f"the rule cannot be differentiated again: {named(error)}"
    if not np.all(np.isfinite(theirs)):
        return None
    parts = list(trial.subject.leaves)
    if way is Way.BACKWARDS:
        parts.append(_incoming(trial))
    sample = compare(rule.at(u), truth.at(u), x, c, parts, trial.eps, rng, way.value)
    got, expected = (_along_promises(trial, v) for v in (sample.got, sample.expected))
    return _Sample(dataclasses.replace(sample, got=got, expected=expected), u, parts)


def _wrong_parts(trial: Trial, asked: _Sample, way: Way, rng: np.random.Generator) -> list[Leaf]:
    sample, u, parts = asked
    return [
        part
        for part in parts
        if sample.wrong(part).any() and trial.excuse(sample, part, rng, _MAKERS[way], u) is None
    ]


def _judge_backwards(
    trial: Trial, asked: _Sample, leaf: Leaf, rng: np.random.Generator, outcome: Outcome
) -> None:
    """The cotangent of one leaf, of which the worst derivative is told."""
    wrong = _wrong_parts(trial, asked, Way.BACKWARDS, rng)
    if not wrong or leaf.name in outcome.blamed:
        return

    def worst(part: Leaf) -> float:
        return float(np.max(np.nan_to_num(asked.sample.excess()[part.part], posinf=1e300)))

    part = max(wrong, key=worst)
    if not _excused(trial, asked, part, leaf.name, Way.BACKWARDS, rng, outcome):
        _found(leaf.name, part, Way.BACKWARDS, asked.sample.worst(part), outcome)


def _judge_forwards(
    trial: Trial, asked: _Sample, rng: np.random.Generator, outcome: Outcome
) -> None:
    """The cotangents of all leaves, moved together."""
    for part in _wrong_parts(trial, asked, Way.FORWARDS, rng):
        if not _excused(trial, asked, part, part.name, Way.FORWARDS, rng, outcome):
            _found(part.name, part, Way.FORWARDS, asked.sample.worst(part), outcome)


def _found(blamed: str, part: Leaf, way: Way, at: Place, outcome: Outcome) -> None:
    outcome.found(_finding(blamed, part, way, at), f"wrong for {blamed}, {way.value}")


def _finding(blamed: str, part: Leaf, way: Way, at: Place) -> Finding:
    by = f"`{part.name}`" if part.argument >= 0 else part.name
    message = (
        f"the cotangent of `{blamed}` is right, but its own derivative by {by} is not "
        f"({way.value}): is something in fwd or bwd detached (stop_gradient, a residual computed "
        "outside fwd), or a residual not a function of the arguments?"
    )
    return finding(NAME, "second-order", message, argument=blamed, at=at)


def _incoming(trial: Trial) -> Leaf:
    """The part of an answer that is the derivative by the incoming cotangent."""
    start, count = trial.subject.size, trial.output_size
    name = "the incoming cotangent"
    return Leaf(name, -1, (count,), np.dtype(float), start, start + count)


def _random_on(leaf: Leaf, trial: Trial, rng: np.random.Generator) -> Vector:
    v = np.zeros(trial.subject.size)
    v[leaf.part] = rng.normal(size=leaf.size)
    return _along_promises(trial, v)


def _along_promises(trial: Trial, v: Vector) -> Vector:
    """The vector, of a positive definite matrix's part what is symmetric.

    By no other change does it stay one, and a rule through `cholesky` reads one triangle of it.
    """
    kept = v.copy()
    for leaf in trial.subject.leaves:
        if inputs.is_positive_definite(unpack(trial.subject.x[leaf.part], leaf)):
            part = unpack(v[leaf.part], leaf)
            kept[leaf.part] = ((part + np.swapaxes(part, -1, -2)) / 2).reshape(-1)
    return kept


def _excused(
    trial: Trial,
    asked: _Sample,
    part: Leaf,
    blamed: str,
    way: Way,
    rng: np.random.Generator,
    outcome: Outcome,
) -> bool:
    """Whether it is not the rule that is wrong about one part, which a note may say."""
    sample, u, _ = asked
    if part.argument >= 0 and trial.subject.is_real:
        some = np.zeros_like(sample.x)
        some[part.part] = rng.normal(size=part.size)
        moved, weights = (some, u) if way is Way.BACKWARDS else (u, some)
        slope = _slope(trial.truth, sample.x, sample.c, moved, weights)
        who = _who_is_right(sample, part, some, slope)
        if who is _Right.RULE:
            outcome.note(
                f"{way.value}: the rule agrees with finite differences of the gradient of "
                f"`{blamed}`, autodiff of the reference does not"
            )
        return who in (_Right.RULE, _Right.KINK)
    if part.argument < 0 and _is_the_first_order(trial, sample, part, u, rng):
        outcome.note(
            f"{way.value}: by the incoming cotangent the rule's derivative is its first order, as "
            "it must be; autodiff of the reference is not (an index out of bounds does that)"
        )
        return True
    return False


def _is_the_first_order(
    trial: Trial, sample: Sample, part: Leaf, u: Vector, rng: np.random.Generator
) -> bool:
    """Whether the rule alone is right by the cotangent, in which a VJP is linear.

    So the slope of <VJP, u> along another cotangent is the VJP for that one.
    """
    other = rng.normal(size=trial.output_size)
    slope = np.dot(trial.truth(sample.x, other), u).real
    room = float(np.dot(sample.tolerance[part.part], np.abs(other)))
    mine, theirs = (np.dot(v[part.part], other).real for v in (sample.got, sample.expected))
    return bool(abs(mine - slope) <= room < abs(theirs - slope))


class _Right(enum.Enum):
    """Who agrees with finite differences of the first order."""

    RULE = enum.auto()
    KINK = enum.auto()
    """Nobody: there is one."""
    OTHERS = enum.auto()
    """The reference, or they cannot tell."""


class _Slope(NamedTuple):
    """That of <VJP, weights> along a direction."""

    value: float
    error: float
    turns: bool
    """Whether it changes much as the step shrinks."""


def _who_is_right(sample: Sample, part: Leaf, some: Vector, slope: _Slope) -> _Right:
    """Who is right about <answer, some>, which is this slope."""
    mine, theirs = (
        float(np.dot(v[part.part], some[part.part]).real) for v in (sample.got, sample.expected)
    )
    if not np.isfinite(slope.value):
        return _Right.OTHERS
    off_mine, off_theirs = abs(mine - slope.value), abs(theirs - slope.value)
    if off_mine <= slope.error < off_theirs:
        return _Right.RULE
    if min(off_mine, off_theirs) > slope.error and slope.turns:
        return _Right.KINK
    return _Right.OTHERS


def _slope(vjp: Vjp, x: Vector, c: Vector, along: Vector, weights: Vector) -> _Slope:
    size = float(np.sqrt(np.mean(x[along != 0] ** 2))) or 1.0

    def slope(h: float) -> float:
        above, below = vjp(x + h * along, c), vjp(x - h * along, c)
        return float(np.dot(above - below, weights) / (2 * h))

    steps = [slope(size * h) for h in STEPS]
    # Richardson's extrapolation: the error of central differences goes with the step squared.
    value = (4 * steps[2] - steps[1]) / 3
    error = 4 * abs(value - (4 * steps[1] - steps[0]) / 3) + 1e-6 * abs(value)
    return _Slope(value, error, abs(steps[2] - steps[1]) > TURNS * abs(steps[1]))


def _by_differences(
    trial: Trial, points: list[Vector], rng: np.random.Generator, outcome: Outcome
) -> None:
    """The rule's derivative against differences of its own cotangents, which need no reference."""
    why = "the reference's first order is wrong already"
    leaves, asked = trial.subject.leaves, 0
    for way in Way:
        parts = [*leaves, _incoming(trial)] if way is Way.BACKWARDS else leaves
        for x, leaf, part in itertools.product(points, leaves, parts):
            try:
                pair = _own_difference(trial, way, x, leaf, part, rng)
            except Exception as error:  # anybody's code runs here
                outcome.row(NAME, None, f"the rule cannot be differentiated again: {named(error)}")
                return
            size = max(abs(pair.answer), abs(pair.slope))
            if not np.isfinite(pair.error) or pair.error > UNSURE * size:
                continue
            asked += 1
            if abs(pair.answer - pair.slope) > pair.error + SAME_SLOPE * size:
                whose, by = (leaf, part) if way is Way.BACKWARDS else (part, leaf)
                wrong = _finding(whose.name, by, way, Place(None, pair.answer, pair.slope, None))
                detail = f"wrong for {whose.name}, {way.value}, by differences: {why}"
                outcome.found(wrong, detail)
                return
    if asked:
        outcome.row(NAME, True, f"{why}; {asked} slopes agree with the rule's own differences")
    else:
        outcome.row(NAME, None, f"{why}, and differences of the rule itself cannot tell")


class _Pair(NamedTuple):
    """A derivative of the rule's cotangent, as the rule's own differentiation and as differences
    give it."""

    answer: float
    slope: float
    error: float


def _own_difference(
    trial: Trial, way: Way, x: Vector, leaf: Leaf, part: Leaf, rng: np.random.Generator
) -> _Pair:
    """That of one leaf, asked along or by another part."""
    c, u = trial.cotangent(rng), _random_on(leaf, trial, rng)
    answer = _second(trial, trial.rule, way).at(u)(x, c)
    if part.argument >= 0:
        some = _random_on(part, trial, rng)
        # Backwards it is asked how <VJP, u> rises along `some`, else the other way round.
        along, weights = (some, u) if way is Way.BACKWARDS else (u, some)
        slope = _slope(trial.rule, x, c, along, weights)
        value, error = slope.value, 10 * slope.error
    else:  # linear in it: its slope along another cotangent is the VJP for that one
        some = rng.normal(size=part.size)
        value, error = float(np.dot(trial.rule(x, some), u).real), 0.0
        some = np.concatenate([np.zeros_like(x), some])
    return _Pair(float(np.dot(answer[part.part], some[part.part]).real), value, error)
