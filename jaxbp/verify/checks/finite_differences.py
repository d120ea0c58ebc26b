"""Do finite differences of the plain function agree with what rule and reference agree on?

Where the two agree with each other they may still both be wrong: a stopped gradient in the primal,
a custom_jvp, a derivative of JAX's own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.finite_differences import Slope
from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import gather
from jaxbp.verify.diagnose.hypotheses import diagnose
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.programs import stops_gradients, trace
from jaxbp.verify.subject.vectors import Leaf, Vector
from jaxbp.verify.trial import Trial

NAME = "finite-differences"
QUESTIONS = 2
DIAGNOSED = 4
"""So many questions does a diagnosis go by."""
TRUSTED = 10
"""Differences may be so many times their estimated error off."""
SHARP = 1e-2
"""Relative: a slope that is less sure is not compared with …"""
OTHER_STEPS = 0.137
"""… and one that is wrong must be so by as much with steps of other sizes, …"""
CONFIRMED = 4
"""… at one of so many entries."""
ROUNDINGS = 16
"""Of its narrow dtype's rounding units a rule may be off by so many …"""
NEAR = 0.3
"""… or by this share of the truth, after a long sum."""
ALL_ENTRIES = 40
"""A leaf of at most so many entries is differenced whole."""
SAMPLED_ENTRIES = 12
NEGLIGIBLE = 1e-5
"""Relative to the leaf's largest slope: differences can be misled at this level."""


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """Difference every leaf at a point away from kinks, if there is one."""
    outcome = Outcome()
    if not trial.subject.is_real:
        outcome.row(NAME, None, "complex arguments")
        return outcome
    x = points[1] if len(points) > 1 else points[0]
    differences = trial.differences(x, rng)
    cotangents = [trial.cotangent(rng) for _ in range(QUESTIONS)]
    answers = [_Answer(x, c, trial.rule(x, c)) for c in cotangents]
    seen = _Seen()
    for leaf in trial.subject.leaves:
        whole = leaf.size <= ALL_ENTRIES
        entries = inputs.sample_rows(leaf.size, ALL_ENTRIES if whole else SAMPLED_ENTRIES, rng)
        slopes = {leaf.start + i: differences.entry(leaf.start + i) for i in entries}
        for answer in answers:
            sample = _sample(answer, slopes, leaf)
            wrong = seen.wrong(sample, leaf)
            if not wrong.any():
                continue
            sure = _confirmed(trial, sample, leaf, np.flatnonzero(wrong), rng)
            if sure and x is not points[0]:
                sure = _also_at(trial, points[0], answer.c, leaf, entries, rng)
            if sure:
                _blame(trial, leaf, sample, slopes if whole else None, rng, outcome)
                break
    if outcome.findings or outcome.decided(NAME):
        return outcome
    if not seen.decided:
        outcome.row(NAME, None, "no step gave a slope that is sharp enough to compare with")
    else:
        detail = f"{seen.decided} slopes agree, to {seen.worst:.1g} of the largest"
        outcome.row(NAME, True, detail)
    return outcome


class _Answer(NamedTuple):
    """What the rule answers to one question."""

    x: Vector
    c: Vector
    cotangents: Vector


class _Seen:
    """How many slopes were sharp enough to compare with, and how far apart they were at most."""

    def __init__(self) -> None:
        self.decided, self.worst = 0, 0.0

    def wrong(self, sample: Sample, leaf: Leaf) -> np.ndarray:
        """Count, and give the entries of a leaf that are wrong."""
        known = _known(sample, leaf)
        size = _size(sample, leaf)
        sharp = known & (sample.tolerance[leaf.part] < SHARP * max(size, 1e-300))
        self.decided += int(sharp.sum())
        wrong = sample.wrong(leaf) & known
        if not wrong.any():
            gap = np.abs(sample.got - sample.expected)[leaf.part][sharp]
            self.worst = max(self.worst, float(gap.max(initial=0.0)) / size if size else 0.0)
        return wrong


def _known(sample: Sample, leaf: Leaf) -> np.ndarray:
    """Which entries of a leaf were differenced, with a slope that says something."""
    tolerance = sample.tolerance[leaf.part]
    return np.isfinite(tolerance) & (tolerance > 0)


def _size(sample: Sample, leaf: Leaf) -> float:
    return float(np.abs(sample.expected[leaf.part]).max(initial=0.0))


def _also_at(
    trial: Trial, x: Vector, c: Vector, leaf: Leaf, entries: list[int], rng: np.random.Generator
) -> bool:
    """Whether they differ at the given arguments too, if that can be told.

    Elsewhere the function may have been led out of its domain: past the end of a table, say.
    """
    differences = trial.differences(x, rng)
    slopes = {leaf.start + i: differences.entry(leaf.start + i) for i in entries}
    sample = _sample(_Answer(x, c, trial.rule(x, c)), slopes, leaf)
    known = _known(sample, leaf)
    return bool((sample.wrong(leaf) & known).any() or not known.any())


def _sample(asked: _Answer, slopes: Mapping[int, Slope], leaf: Leaf) -> Sample:
    """Rule against differences; entries that were not differenced agree by construction."""
    x, c, answer = asked
    expected, tolerance = answer.copy(), np.full(answer.shape, np.inf)
    for index, slope in slopes.items():
        with np.errstate(all="ignore"):
            used = c != 0
            if np.any(slope.kink & used):
                continue
            value = np.sum(np.where(used, c * slope.value, 0.0)).real  # as the argument is
            error = np.sum(np.where(used, np.abs(c) * slope.error, 0.0))
        if np.isfinite(value) and np.isfinite(error):
            expected[index], tolerance[index] = value, TRUSTED * error
    sample = Sample(x, c, answer, expected, tolerance, NAME)
    tolerance[leaf.part] += NEGLIGIBLE * _size(sample, leaf)
    return sample


def _confirmed(
    trial: Trial, sample: Sample, leaf: Leaf, places: np.ndarray, rng: np.random.Generator
) -> bool:
    """Whether differences with other steps say the same of the worst entries."""
    again = trial.differences(sample.x, rng)
    again.scale = again.scale * OTHER_STEPS
    excess = sample.excess()[leaf.part][places]
    for place in places[np.argsort(-excess)][:CONFIRMED]:
        index = leaf.start + int(place)
        slopes = {index: again.entry(index)}
        other = _sample(_Answer(sample.x, sample.c, sample.got), slopes, leaf)
        gap = abs(other.expected[index] - sample.expected[index])
        off = abs(sample.got[index] - sample.expected[index])
        if other.wrong(leaf).any() and gap < SHARP * off:
            return True
    return False


def _blame(
    trial: Trial,
    leaf: Leaf,
    sample: Sample,
    slopes: Mapping[int, Slope] | None,
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    compared = trial.has_rule or trial.explicit
    given = trial.subject.cast(trial.subject.x), trial.subject.others
    for fn, whose in ((trial.plain_fn, "the function itself"), (trial.truth_fn, "the reference")):
        if compared and stops_gradients(trace(fn, *given)):
            why = f"differ for `{leaf.name}`, in which {whose} stops a gradient on purpose"
            outcome.row(NAME, None, why)
            return
    found = _rounded(trial, leaf, sample) or _diagnosed(trial, leaf, sample, slopes, rng)
    if found.explained < 0.999:
        found = _rounded_often(trial, leaf, sample) or found
    with_reference = (
        found.word != "precision"
        and not trial.compare(sample.x, sample.c, rng, "").wrong(leaf).any()
    )
    if not compared:
        whose = "autodiff does not agree with finite differences"
    elif with_reference:
        whose = "the rule and its reference agree with each other and not with finite differences"
    else:
        whose = "the rule does not agree with finite differences"
    outcome.found(
        finding(
            NAME,
            found.word,
            f"{whose}: {found.sentence}",
            argument=leaf.name,
            side="undecided" if compared and with_reference else "rule",
            at=sample.worst(leaf),
            explained=found.explained,
        )
    )


def _rounded(trial: Trial, leaf: Leaf, sample: Sample) -> Diagnosis | None:
    """Whether the rule computes in a narrower dtype than the function, and is off by as much."""
    mine, theirs = trial.rule.eps, trial.plain.eps
    off = float(np.abs(sample.got - sample.expected)[leaf.part].max(initial=0.0))
    if mine <= theirs or off > ROUNDINGS * mine * _size(sample, leaf):
        return None
    return Diagnosis(
        "precision",
        f"the rule computes in a dtype with rounding unit {mine:.1g} and is off by as "
        f"much, the function in one with {theirs:.1g}",
        1.0,
    )


def _rounded_often(trial: Trial, leaf: Leaf, sample: Sample) -> Diagnosis | None:
    """Whether the rule is narrow inside and near the truth: then it is a long sum's rounding."""
    mine, theirs = trial.rule.eps, trial.plain.eps
    known = np.isfinite(sample.tolerance[leaf.part])
    truth = sample.expected[leaf.part][known]
    off = sample.got[leaf.part][known] - truth
    if mine <= theirs or not np.linalg.norm(off) <= NEAR * np.linalg.norm(truth):
        return None
    return Diagnosis(
        "precision",
        f"the rule computes in a dtype with rounding unit {mine:.1g}, the function in "
        f"one with {theirs:.1g}; it is near the truth, as after a long sum in that dtype",
        0.0,
    )


def _diagnosed(
    trial: Trial,
    leaf: Leaf,
    sample: Sample,
    slopes: Mapping[int, Slope] | None,
    rng: np.random.Generator,
) -> Diagnosis:
    """The diagnosis, with the differenced Jacobian for truth if the leaf was differenced whole."""
    if slopes is None or len(slopes) != leaf.size:
        return Diagnosis("unknown", "only some entries were differenced", 0.0)
    jacobian = np.array([slopes[leaf.start + i].value for i in range(leaf.size)])
    if not np.all(np.isfinite(jacobian)):
        return Diagnosis("unknown", "some slopes are not finite", 0.0)

    def truth(x: Vector, c: Vector) -> Vector:
        answer = np.array(trial.rule(x, c), dtype=float)
        # At another point nothing was differenced: no hypothesis can be tried there.
        answer[leaf.part] = (jacobian @ c).real if np.array_equal(x, sample.x) else np.nan
        return answer

    samples = []
    for _ in range(DIAGNOSED):
        x, c = sample.x, trial.cotangent(rng)
        got, expected = trial.rule(x, c), truth(x, c)
        tolerance = np.full(got.shape, sample.tolerance[leaf.part].max())
        samples.append(Sample(x, c, got, expected, tolerance, NAME))
    leaves, outputs = trial.subject.leaves, trial.output_leaves
    return diagnose(gather(leaf, leaves, outputs, samples, trial.rule, truth))
