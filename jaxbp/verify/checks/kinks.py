"""Ties and corners among the given arguments: which slopes are right there?

A primal does not bind at a kink: any slope between the one-sided ones is right. An explicit
reference does.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.arbiter import Arbiter, Right, Ruling
from jaxbp.verify.compare.sample import SPREADS, Sample, rounding_of, spread
from jaxbp.verify.subject.vectors import Leaf, Vector
from jaxbp.verify.trial import Trial

NAME = "kinks"
QUESTIONS = 2
LOOKED_AT = 32
"""So many entries of a leaf, at most, are put before finite differences."""
ROOM = 1e-3
"""The sum of tied slopes may lie outside the one-sided sums by this share of what is between …"""
SIZE_ROOM = 1e-5
"""… and this share of its own size: differences at a kink are of first order only."""
SAME_GAP = 1e-2
"""A tie in the data shows the same gap again to this share; one that rounding made does not."""


def check(trial: Trial, _: list[Vector], rng: np.random.Generator) -> Outcome:
    """The rule's slopes at the kinks among the given arguments."""
    outcome = Outcome()
    if not trial.subject.is_real:
        outcome.row(NAME, None, "complex arguments")
        return outcome
    arbiter = trial.arbiter(rng)
    met = 0
    for _question in range(QUESTIONS):
        sample = _sample(trial, rng)
        tied: list[int] = []
        for leaf in trial.subject.leaves:
            if leaf.name not in outcome.blamed:
                seen = _at_leaf(trial, arbiter, sample, leaf, rng, outcome)
                met += seen.kinks
                tied += seen.tied
        if tied and not outcome.findings:
            _together(trial, arbiter, sample, tied, outcome)
    if not outcome.findings:
        detail = f"{met} met, each slope right there" if met else "none met at the given arguments"
        outcome.row(NAME, True, detail)
    return outcome


class _Seen(NamedTuple):
    """What was met among the entries of one leaf."""

    kinks: int
    tied: list[int]
    """Which entries stand at a kink and have a slope that is possible there."""


def _at_leaf(
    trial: Trial,
    arbiter: Arbiter,
    sample: Sample,
    leaf: Leaf,
    rng: np.random.Generator,
    outcome: Outcome,
) -> _Seen:
    """Look at the entries in which rule and reference differ, up to the first that is wrong."""
    kinks, tied = 0, []
    for index in _suspects(sample, leaf):
        ruling = arbiter.entry(sample, index)
        kinks += ruling.kink
        if ruling.who is Right.KINK:
            tied.append(index)
        message = _complaint(trial, sample, index, ruling, rng)
        if message is not None:
            word = "ties" if ruling.kink else "local"
            place = _alone(sample, index).worst(leaf)
            outcome.found(finding(NAME, word, message, argument=leaf.name, at=place))
            break
    return _Seen(kinks, tied)


def _complaint(
    trial: Trial, sample: Sample, index: int, ruling: Ruling, rng: np.random.Generator
) -> str | None:
    """What is wrong with one entry; None: nothing."""
    if ruling.who is Right.KINK:
        if not trial.explicit or not _is_exact(trial, sample, index, rng):
            return None
        return (
            "at a tie or corner the rule gives another slope than the reference, and "
            "an explicit reference binds there"
        )
    if ruling.kink:
        return "at a tie or corner the slope is not between the one-sided slopes"
    if ruling.who in (Right.REFERENCE, Right.NEITHER):
        return "wrong at the given arguments, where the function is smooth"
    return None


def _together(
    trial: Trial, arbiter: Arbiter, sample: Sample, tied: list[int], outcome: Outcome
) -> None:
    """All tied entries moved at once, which may be no kink at all: the slopes must add up.

    Equal maxima that each get the whole gradient pass one by one, and are wrong together.
    """
    differences = arbiter.differences(sample.x)
    direction = np.zeros_like(sample.x)
    direction[tied] = 1.0
    slope = differences.along(direction, float(differences.scale[tied].min()))
    with np.errstate(invalid="ignore"):
        ends = sample.c * np.where(slope.kink, [slope.left, slope.right], slope.value)
        ends = np.where(sample.c != 0, ends, 0.0).real
    low, high = float(ends.min(axis=0).sum()), float(ends.max(axis=0).sum())
    size = float(np.abs(sample.expected[tied]).sum() + np.abs(sample.got[tied]).sum())
    room = ROOM * (high - low) + SIZE_ROOM * size
    mine, theirs = float(sample.got[tied].sum()), float(sample.expected[tied].sum())
    if not np.isfinite([low, high]).all() or low - room <= mine <= high + room:
        return
    if not low - room <= theirs <= high + room:
        return  # autodiff does not add up there either: composed kinks, nothing to hold a rule to
    message = (
        f"each slope at the tie is possible, but not all of them together: moved at once, the "
        f"tied entries have slope {low:.4g} to {high:.4g}, and the rule's add up to {mine:.4g}"
    )
    for leaf in trial.subject.leaves:
        own = [i for i in tied if leaf.start <= i < leaf.stop]
        if own:
            place = _alone(sample, own[0]).worst(leaf)
            outcome.found(finding(NAME, "ties", message, argument=leaf.name, at=place))


def _sample(trial: Trial, rng: np.random.Generator) -> Sample:
    """Rule and reference at the very point: a tolerance from changing the cotangent alone, since a
    changed argument leaves the tie; errors at a kink are as large as the slopes themselves."""
    x, c = trial.subject.x, trial.cotangent(rng)
    got, expected = trial.rule(x, c), trial.truth(x, c)
    tolerance = SPREADS * spread(trial.rule, x, c, trial.eps, rng, move_x=False)
    tolerance += rounding_of(expected, trial.subject.leaves, trial.eps)
    for leaf in trial.subject.leaves:
        size = np.nan_to_num(np.abs(expected[leaf.part]), posinf=0.0)
        if size.size:
            tolerance[leaf.part] += max(1e-6, 1e3 * trial.eps) * size.max()
    return Sample(x, c, got, expected, tolerance, "the given arguments")


def _suspects(sample: Sample, leaf: Leaf) -> list[int]:
    """Where the two differ, the worst first."""
    excess = sample.excess()[leaf.part]
    excess = np.where(np.isfinite(excess), excess, 0.0)
    order = np.argsort(-excess, kind="stable")
    return [leaf.start + int(i) for i in order[:LOOKED_AT] if excess[i] > 1.0]


def _is_exact(trial: Trial, sample: Sample, index: int, rng: np.random.Generator) -> bool:
    """Whether the tie is in the data, and not an accident of how float64 rounds.

    One in the data is there in the given dtype too, or survives scaling each leaf.
    """
    gap = sample.got[index] - sample.expected[index]
    factors = np.ones_like(sample.x)
    for leaf in trial.subject.leaves:
        factors[leaf.part] = rng.uniform(0.9, 1.1)
    x = sample.x * factors
    scaled = trial.rule(x, sample.c)[index] - trial.truth(x, sample.c)[index]
    truth = trial.truth_as_given()
    given = trial.given(sample.x, sample.c)[index] - truth(sample.x, sample.c)[index]
    small = SAME_GAP * abs(gap)
    return bool(abs(scaled) > small or abs(given - gap) < small)


def _alone(sample: Sample, index: int) -> Sample:
    """The sample with only one entry left to complain of."""
    got = sample.expected.copy()
    got[index] = sample.got[index]
    return dataclasses.replace(sample, got=got)
