"""The rule's own derivative: gradient of gradient, and forward over reverse, in float64."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.verify.checks import gradient
from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.sample import Sample, Vjp, compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.subject import (
    QUICK,
    Leaf,
    LeafFunction,
    Leaves,
    Pullback,
    Vector,
    pack,
    unpack,
    vjp_of,
)
from jaxbp.verify.trial import Trial


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


class _Second:
    """One of the two above, on vectors: x and c together in, `u` held."""

    def __init__(
        self, trial: Trial, pullback: Pullback, make: Callable[[LeafFunction], Any]
    ) -> None:
        self.trial, self.pullback, self.make = trial, pullback, make
        self.run = jax.jit(make(pullback.fn), compiler_options=QUICK)

    def at(self, u: Vector) -> Callable[[Vector, Vector], Vector]:
        def answer(x: Vector, c: Vector) -> Vector:
            with self.pullback.mode():
                dtype = self.pullback.dtype
                subject = self.trial.subject
                leaves, along = subject.cast(x, dtype), subject.cast(u, dtype)
                return pack(self.run(leaves, subject.others, self.pullback.cotangents(c), along))

        return answer


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """Each argument's cotangent, differentiated once more by everything it depends on."""
    outcome = Outcome()
    name = "second-order"
    if not trial.has_rule and not trial.explicit:
        outcome.row(name, None, "autodiff is its own reference here")
        return outcome
    away = (points[1:] or points)[:2]
    first = [trial.compare(x, trial.cotangent(rng), rng, "first order") for x in away]
    if gradient.overrules_the_reference(trial, first, rng):
        _by_differences(trial, away, rng, outcome)
        return outcome
    for make, label in (
        (reverse_over_reverse, "gradient of gradient"),
        (forward_over_reverse, "forward over reverse"),
    ):
        rule = _remembered(trial, trial.rule, make)
        truth = _remembered(trial, trial.truth, make)
        if label == "forward over reverse" and outcome.findings:
            return outcome
        _compare(trial, rule, truth, points, rng, label, outcome)
        if any(check.ok is None for check in outcome.checks):
            return outcome
    if not outcome.findings:
        outcome.checks = [c for c in outcome.checks if c.name != name]
        outcome.row(name, True, "gradient of gradient, forward over reverse")
    return outcome


def _remembered(trial: Trial, pullback: Pullback, make: Callable[[LeafFunction], Any]) -> _Second:
    key = ("second", make.__name__, pullback is trial.rule)
    return trial.remember(key, lambda: _Second(trial, pullback, make))


def _compare(
    trial: Trial,
    rule: _Second,
    truth: _Second,
    points: list[Vector],
    rng: np.random.Generator,
    label: str,
    outcome: Outcome,
) -> None:
    subject = trial.subject
    extended = [*subject.leaves]
    if label == "gradient of gradient":
        extended.append(_incoming(trial))
    away = points[1:] or points
    for x in away[:2]:
        c = trial.cotangent(rng)
        for leaf in subject.leaves:
            u = np.zeros(subject.size)
            u[leaf.part] = rng.normal(size=leaf.size)
            if label == "forward over reverse":
                u = rng.normal(size=subject.size)
            u = _along_promises(trial, u)
            try:
                theirs = truth.at(u)(x, c)
            except Exception as error:
                outcome.row(
                    "second-order", None, f"the reference has no second order: {_said(error)}"
                )
                return
            try:
                rule.at(u)(x, c)
            except Exception as error:
                outcome.row(
                    "second-order", None, f"the rule cannot be differentiated again: {_said(error)}"
                )
                return
            if not np.all(np.isfinite(theirs)):
                continue
            sample = compare(rule.at(u), truth.at(u), x, c, extended, trial.eps, rng, label)
            sample = dataclasses.replace(
                sample,
                got=_along_promises(trial, sample.got),
                expected=_along_promises(trial, sample.expected),
            )
            wrong = [
                part
                for part in extended
                if sample.wrong(part).any()
                and trial.excuse(sample, part, rng, rule.make, u) is None
            ]
            if label == "forward over reverse":
                for part in wrong:
                    _found(trial, sample, part, part.name, u, label, outcome, rng)
                if wrong or leaf is subject.leaves[0]:
                    break
            elif wrong and not any(f.argument == leaf.name for f in outcome.findings):
                part = max(
                    wrong,
                    key=lambda p: float(
                        np.max(np.nan_to_num(sample.excess()[p.part], posinf=1e300))
                    ),
                )
                _found(trial, sample, part, leaf.name, u, label, outcome, rng)


def _incoming(trial: Trial) -> Leaf:
    start, count = trial.subject.size, trial.output_size
    name = "the incoming cotangent"
    return Leaf(name, -1, (count,), np.dtype(float), start, start + count)


def _by_differences(
    trial: Trial, points: list[Vector], rng: np.random.Generator, outcome: Outcome
) -> None:
    """The rule's derivative against differences of its own cotangents, which need no reference."""
    name, leaves = "second-order", trial.subject.leaves
    why = "the reference's first order is wrong already"
    asked = 0
    for make, label in (
        (reverse_over_reverse, "gradient of gradient"),
        (forward_over_reverse, "forward over reverse"),
    ):
        rule = _remembered(trial, trial.rule, make)
        backwards = make is reverse_over_reverse
        parts = [*leaves, _incoming(trial)] if backwards else leaves
        for x, leaf, part in itertools.product(points, leaves, parts):
            c, u = trial.cotangent(rng), _random_on(leaf, trial, rng)
            try:
                answer = rule.at(u)(x, c)
            except Exception as raised:
                outcome.row(name, None, f"the rule cannot be differentiated again: {_said(raised)}")
                return
            if part.argument >= 0:
                some = _random_on(part, trial, rng)
                # Backwards it is asked how <VJP, u> rises along `some`, else the other way round.
                slope = _slope(trial.rule, x, c, *((some, u) if backwards else (u, some)))
                value, error = slope.value, 10 * slope.error
            else:  # linear in it: its slope along another cotangent is the VJP for that one
                some = rng.normal(size=part.size)
                value, error = float(np.dot(trial.rule(x, some), u).real), 0.0
                some = np.concatenate([np.zeros_like(x), some])
            mine = float(np.dot(answer[part.part], some[part.part]).real)
            size = max(abs(mine), abs(value))
            if not np.isfinite(error) or error > 0.1 * size:
                continue
            asked += 1
            if abs(mine - value) > error + 1e-5 * size:
                whose, by = (leaf, part) if backwards else (part, leaf)
                found = _finding(whose.name, by, label, got=mine, expected=value)
                outcome.found(found, f"wrong for {whose.name}, {label}, by differences: {why}")
                return
    if asked:
        outcome.row(name, True, f"{why}; {asked} slopes agree with the rule's own differences")
    else:
        outcome.row(name, None, f"{why}, and differences of the rule itself cannot tell")


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


def _found(
    trial: Trial,
    sample: Sample,
    part: Leaf,
    blamed: str,
    u: Vector,
    label: str,
    outcome: Outcome,
    rng: np.random.Generator,
) -> None:
    if part.argument >= 0 and trial.subject.is_real:
        some = np.zeros_like(sample.x)
        some[part.part] = rng.normal(size=part.size)
        moved, weights = (some, u) if label == "gradient of gradient" else (u, some)
        verdict = _finite_difference(trial, sample, part, some, moved, weights)
        if verdict == "rule":
            outcome.notes.append(
                f"{label}: the rule agrees with finite differences of the gradient of `{blamed}`, "
                "autodiff of the reference does not"
            )
            return
        if verdict == "kink":
            return
    elif part.argument < 0 and _is_the_first_order(trial, sample, part, u, rng):
        outcome.notes.append(
            f"{label}: by the incoming cotangent the rule's derivative is its first order, as it "
            "must be; autodiff of the reference is not (an index out of bounds does that)"
        )
        return
    outcome.found(
        _finding(blamed, part, label, **numbers(sample, part)),
        f"wrong for {blamed}, {label}",
    )


def _finding(blamed: str, part: Leaf, label: str, **place: object) -> Finding:
    message = (
        f"the cotangent of `{blamed}` is right, but its own derivative by {_by(part)} is not "
        f"({label}): is something in fwd or bwd detached (stop_gradient, a residual computed "
        "outside fwd), or a residual not a function of the arguments?"
    )
    return Finding("second-order", blamed, "second-order", message, "rule", **place)  # type: ignore[arg-type]


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


def _by(part: Leaf) -> str:
    return f"`{part.name}`" if part.argument >= 0 else part.name


def _finite_difference(
    trial: Trial,
    sample: Sample,
    part: Leaf,
    some: Vector,
    along: Vector,
    weights: Vector,
) -> str:
    """Who is right about <answer, some>, which is the slope of <VJP, weights> along a direction."""
    value, error, turns = _slope(trial.truth, sample.x, sample.c, along, weights)
    mine = float(np.dot(sample.got[part.part], some[part.part]).real)
    theirs = float(np.dot(sample.expected[part.part], some[part.part]).real)
    if not np.isfinite(value):
        return "undecided"
    if abs(mine - value) <= error < abs(theirs - value):
        return "rule"
    if min(abs(mine - value), abs(theirs - value)) > error:
        return "kink" if turns else "undecided"
    return "reference"


class _Slope(NamedTuple):
    """That of <VJP, weights> along a direction."""

    value: float
    error: float
    turns: bool
    """Whether it changes much as the step shrinks."""


def _slope(vjp: Vjp, x: Vector, c: Vector, along: Vector, weights: Vector) -> _Slope:
    size = float(np.sqrt(np.mean(x[along != 0] ** 2))) or 1.0

    def slope(h: float) -> float:
        above, below = vjp(x + h * along, c), vjp(x - h * along, c)
        return float(np.dot(above - below, weights) / (2 * h))

    steps = [slope(size * h) for h in (1e-3, 5e-4, 2.5e-4)]
    value = (4 * steps[2] - steps[1]) / 3
    error = 4 * abs(value - (4 * steps[1] - steps[0]) / 3) + 1e-6 * abs(value)
    return _Slope(value, error, abs(steps[2] - steps[1]) > 0.1 * abs(steps[1]))


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
