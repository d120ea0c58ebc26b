"""Is the cotangent linear in the incoming one: VJP(a·c + b·d) = a·VJP(c) + b·VJP(d)?"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.subject.pullback import vjp_of
from jaxbp.verify.subject.vectors import Leaf, LeafFunction, Leaves, Vector
from jaxbp.verify.trial import Trial

NAME = "linear"
FAR = 1e6
"""So far from one are the cotangents …"""
FAR_IN_HALF = 1e3
"""… and so far where the rule runs as given: what float16 holds."""
FACTORS = (2.0, -3.0)


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """Linear for large and small cotangents."""
    outcome = Outcome()
    far = FAR if trial.rule.wide else FAR_IN_HALF
    bad: dict[str, tuple[Leaf, Sample]] = {}
    for question in _questions(trial, points, far, rng):
        sample = _sample(trial, question, rng)
        for leaf in trial.subject.leaves:
            # What is not finite on one side only is for `gradient` and `nan` to name.
            finite = np.isfinite(sample.got) & np.isfinite(sample.expected)
            wrong = sample.wrong(leaf) & finite[leaf.part]
            if not wrong.any() or leaf.name in bad:
                continue
            if not _rounded_apart(trial, sample, leaf, question, rng):
                bad[leaf.name] = (leaf, sample)
    for leaf, sample in bad.values():
        message = _said(trial, leaf, points[-1], rng)
        place = sample.worst(leaf)
        outcome.found(finding(NAME, "nonlinear", message, argument=leaf.name, at=place))
    if not bad:
        outcome.row(NAME, True, f"linear in the cotangent from {1 / far:.0e} to {far:.0e}")
    return outcome


class _Question(NamedTuple):
    """a·c + b·d at one point."""

    x: Vector
    a: float
    c: Vector
    b: float
    d: Vector


def _questions(
    trial: Trial, points: list[Vector], far: float, rng: np.random.Generator
) -> Iterator[_Question]:
    a, b = FACTORS
    for x in points:
        for scale in (1.0, far, 1 / far):
            c, d = trial.cotangent(rng), trial.cotangent(rng)
            yield _Question(x, a * scale, c, b * scale, d)


def _sample(trial: Trial, question: _Question, rng: np.random.Generator) -> Sample:
    """The answer to the sum, and the sum of the answers."""
    rule, (x, a, c, b, d) = trial.rule, question

    def both(x: Vector, cd: Vector) -> Vector:
        first, second = np.split(cd, 2)
        return rule(x, a * first + b * second)

    def apart(x: Vector, cd: Vector) -> Vector:
        first, second = np.split(cd, 2)
        return a * rule(x, first) + b * rule(x, second)

    leaves = trial.subject.leaves
    return compare(both, apart, x, np.concatenate([c, d]), leaves, rule.eps, rng, "linearity")


def _rounded_apart(
    trial: Trial, sample: Sample, leaf: Leaf, question: _Question, rng: np.random.Generator
) -> bool:
    """Whether rounding explains it: that of a saturated softmax, y(c - y·c), is of c's own size."""
    with trial.rule.mode():
        second = trial.rule.cotangents(question.b * question.d)

    def asked(fn: LeafFunction) -> Callable[..., Any]:
        vjp = vjp_of(fn)

        def apart(leaves: Leaves, others: Leaves, cts: Leaves) -> Leaves:
            first, then = vjp(leaves, others, cts)[1], vjp(leaves, others, second)[1]
            return [u + v for u, v in zip(first, then, strict=True)]

        return apart

    one = dataclasses.replace(sample, c=question.a * question.c)
    return trial.excuse(one, leaf, rng, asked, sides=(trial.rule,)) is not None


def _said(trial: Trial, leaf: Leaf, x: Vector, rng: np.random.Generator) -> str:
    """A clipped cotangent is right while small and bounded when large: the message says so."""
    c = trial.cotangent(rng)
    small, large = c / FAR, c * FAR
    truth = trial.truth(x, small)[leaf.part]
    size = float(np.abs(truth).max(initial=0.0))
    right_when_small = np.allclose(
        trial.rule(x, small)[leaf.part], truth, rtol=1e-4, atol=1e-4 * size
    )
    # Linear, it would be FAR² times as large as when small.
    bounded = np.abs(trial.rule(x, large)[leaf.part]).max(initial=0.0) < 1e-2 * FAR**2 * size
    sentence = "the cotangent is not linear in the incoming one"
    if size and right_when_small and bounded:
        sentence += ": right while small and bounded when large, it is clipped (on purpose?)"
    return sentence
