"""Ties and corners among the given arguments: which slopes are right there.

A primal does not bind at a kink: any slope between the one-sided ones is right. An explicit
reference does.
"""

import dataclasses

import numpy as np

from jaxbp.verify.checks.gradient import Arbiter
from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.sample import SPREADS, Sample, rounding_room, spread
from jaxbp.verify.report import Finding
from jaxbp.verify.subject.subject import Leaf
from jaxbp.verify.trial import Trial

QUESTIONS = 2
LOOKED_AT = 32
"""So many entries of a leaf, at most, are put before finite differences."""


def check(trial: Trial, rng: np.random.Generator) -> Outcome:
    """The rule's slopes at the kinks among the given arguments."""
    outcome = Outcome()
    if not trial.subject.is_real:
        outcome.row("kinks", None, "complex arguments")
        return outcome
    arbiter = Arbiter(trial, rng)
    met = 0
    for _ in range(QUESTIONS):
        sample = _sample(trial, rng)
        tied: list[int] = []
        for leaf in trial.subject.leaves:
            if any(f.argument == leaf.name for f in outcome.findings):
                continue
            for index in _suspects(sample, leaf):
                ruling = arbiter.entry(sample, index)
                met += ruling.kink
                if ruling.who == "kink":
                    tied.append(index)
                if ruling.kink and ruling.who == "kink":
                    if not trial.explicit or not _is_exact(trial, sample, index, rng):
                        continue
                    message = (
                        "at a tie or corner the rule gives another slope than the reference, and "
                        "an explicit reference binds there"
                    )
                elif ruling.kink:
                    message = "at a tie or corner the slope is not between the one-sided slopes"
                elif ruling.who in ("reference", "neither"):
                    message = "wrong at the given arguments, where the function is smooth"
                else:
                    continue
                outcome.found(
                    Finding(
                        "kinks",
                        leaf.name,
                        "ties" if ruling.kink else "local",
                        message,
                        "rule",
                        **numbers(_alone(sample, index), leaf),  # type: ignore[arg-type]
                    )
                )
                break
        if tied and not outcome.findings:
            _together(trial, arbiter, sample, tied, outcome)
    if not outcome.findings:
        detail = f"{met} met, each slope right there" if met else "none met at the given arguments"
        outcome.row("kinks", True, detail)
    return outcome


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
    room = 1e-3 * (high - low) + 1e-5 * size
    mine, theirs = float(sample.got[tied].sum()), float(sample.expected[tied].sum())
    if not np.isfinite([low, high]).all() or low - room <= mine <= high + room:
        return
    if not low - room <= theirs <= high + room:
        return  # autodiff does not add up there either: composed kinks, nothing to hold a rule to
    for leaf in trial.subject.leaves:
        own = [i for i in tied if leaf.start <= i < leaf.stop]
        if own:
            outcome.found(
                Finding(
                    "kinks",
                    leaf.name,
                    "ties",
                    f"each slope at the tie is possible, but not all of them together: moved at "
                    f"once, the tied entries have slope {low:.4g} to {high:.4g}, and the rule's "
                    f"add up to {mine:.4g}",
                    "rule",
                    **numbers(_alone(sample, own[0]), leaf),  # type: ignore[arg-type]
                )
            )


def _sample(trial: Trial, rng: np.random.Generator) -> Sample:
    """Rule and reference at the very point: a tolerance from changing the cotangent alone, since a
    changed argument leaves the tie; errors at a kink are as large as the slopes themselves."""
    x, c = trial.subject.x, trial.cotangent(rng)
    got, expected = trial.rule(x, c), trial.truth(x, c)
    tolerance = SPREADS * spread(trial.rule, x, c, trial.eps, rng, move_x=False)
    tolerance += rounding_room(expected, trial.subject.leaves, trial.eps)
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
    truth = trial.remember("truth-as-given", lambda: trial.as_given(trial.truth_fn))
    given = trial.given(sample.x, sample.c)[index] - truth(sample.x, sample.c)[index]
    return bool(abs(scaled) > 1e-2 * abs(gap) or abs(given - gap) < 1e-2 * abs(gap))


def _alone(sample: Sample, index: int) -> Sample:
    """The sample with only one entry left to complain of."""
    got = sample.expected.copy()
    got[index] = sample.got[index]
    return dataclasses.replace(sample, got=got)
