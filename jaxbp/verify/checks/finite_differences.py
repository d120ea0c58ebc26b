"""Finite differences of the plain function against what rule and reference agree on.

Where the two agree with each other they may still both be wrong: a stopped gradient in the primal,
a custom_jvp, a derivative of JAX's own.
"""

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.finite_differences import FiniteDifferences, Slope
from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.diagnose import evidence
from jaxbp.verify.diagnose.hypotheses import Diagnosis, diagnose
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.programs import stops_gradients, trace
from jaxbp.verify.subject.subject import Leaf, Vector
from jaxbp.verify.trial import Trial

ALL_ENTRIES = 40
"""A leaf of at most so many entries is differenced whole."""
SAMPLED_ENTRIES = 12
NEGLIGIBLE = 1e-5
"""Relative to the leaf's largest slope: differences can be misled at this level."""

NAME = "finite-differences"


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """Difference every leaf at a point away from kinks, if there is one."""
    outcome = Outcome()
    if not trial.subject.is_real:
        outcome.row(NAME, None, "complex arguments")
        return outcome
    x = points[1] if len(points) > 1 else points[0]
    differences = trial.differences(x, rng)
    cotangents = [trial.cotangent(rng) for _ in range(2)]
    answers = [trial.rule(x, c) for c in cotangents]
    decided = undecided = 0
    worst = 0.0
    for leaf in trial.subject.leaves:
        whole = leaf.size <= ALL_ENTRIES
        entries = inputs.sample_rows(leaf.size, ALL_ENTRIES if whole else SAMPLED_ENTRIES, rng)
        slopes = {leaf.start + i: differences.entry(leaf.start + i) for i in entries}
        for c, answer in zip(cotangents, answers, strict=True):
            sample = _sample(x, c, answer, slopes, leaf)
            known = np.isfinite(sample.tolerance[leaf.part]) & (sample.tolerance[leaf.part] > 0)
            size = float(np.abs(sample.expected[leaf.part]).max(initial=0.0))
            sharp = known & (sample.tolerance[leaf.part] < 1e-2 * max(size, 1e-300))
            decided, undecided = decided + int(sharp.sum()), undecided + int((known & ~sharp).sum())
            wrong = sample.wrong(leaf) & known
            if not wrong.any():
                worst = max(worst, _relative(sample, leaf, sharp))
                continue
            if not _confirmed(trial, sample, leaf, np.flatnonzero(wrong), rng):
                undecided += 1
                continue
            if x is not points[0] and not _also_at(trial, points[0], c, leaf, entries, rng):
                undecided += 1
                continue
            _blame(trial, leaf, sample, slopes if whole else None, rng, outcome)
            break
    if outcome.findings or any(c.name == NAME for c in outcome.checks):
        return outcome
    if not decided:
        outcome.row(NAME, None, "no step gave a slope that is sharp enough to compare with")
    else:
        outcome.row(NAME, True, f"{decided} slopes agree, to {worst:.1g} of the largest")
    return outcome


def _also_at(
    trial: Trial, x: Vector, c: Vector, leaf: Leaf, entries: list[int], rng: np.random.Generator
) -> bool:
    """Whether they differ at the given arguments too, if that can be told.

    Elsewhere the function may have been led out of its domain: past the end of a table, say.
    """
    differences = trial.differences(x, rng)
    slopes = {leaf.start + i: differences.entry(leaf.start + i) for i in entries}
    sample = _sample(x, c, trial.rule(x, c), slopes, leaf)
    known = np.isfinite(sample.tolerance[leaf.part]) & (sample.tolerance[leaf.part] > 0)
    return bool((sample.wrong(leaf) & known).any() or not known.any())


def _sample(x: Vector, c: Vector, answer: Vector, slopes: dict[int, Slope], leaf: Leaf) -> Sample:
    """Rule against differences; entries that were not differenced agree by construction."""
    expected, tolerance = answer.copy(), np.full(answer.shape, np.inf)
    for index, slope in slopes.items():
        with np.errstate(all="ignore"):
            used = c != 0
            if np.any(slope.kink & used):
                continue
            value = np.sum(np.where(used, c * slope.value, 0.0)).real  # as the argument is
            error = np.sum(np.where(used, np.abs(c) * slope.error, 0.0))
        if np.isfinite(value) and np.isfinite(error):
            expected[index], tolerance[index] = value, 10 * error
    size = float(np.abs(expected[leaf.part]).max(initial=0.0))
    tolerance[leaf.part] += NEGLIGIBLE * size
    return Sample(x, c, answer, expected, tolerance, "finite differences")


def _relative(sample: Sample, leaf: Leaf, sharp: np.ndarray) -> float:
    size = float(np.abs(sample.expected[leaf.part]).max(initial=0.0))
    gap = np.abs(sample.got - sample.expected)[leaf.part][sharp]
    return float(gap.max(initial=0.0)) / size if size else 0.0


def _confirmed(
    trial: Trial, sample: Sample, leaf: Leaf, places: np.ndarray, rng: np.random.Generator
) -> bool:
    """Whether differences with other steps say the same of the worst entries."""
    again = FiniteDifferences(
        trial.plain.value, sample.x, trial.subject.leaves, trial.eps_plain, rng
    )
    again.scale = again.scale * 0.137
    excess = sample.excess()[leaf.part][places]
    for place in places[np.argsort(-excess)][:4]:
        index = leaf.start + int(place)
        slopes = {index: again.entry(index)}
        other = _sample(sample.x, sample.c, sample.got, slopes, leaf)
        gap = abs(other.expected[index] - sample.expected[index])
        off = abs(sample.got[index] - sample.expected[index])
        if other.wrong(leaf).any() and gap < 0.01 * off:
            return True
    return False


def _blame(
    trial: Trial,
    leaf: Leaf,
    sample: Sample,
    slopes: dict[int, Slope] | None,
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    given = trial.subject.cast(trial.subject.x), trial.subject.others
    for fn, whose in ((trial.plain_fn, "the function itself"), (trial.truth_fn, "the reference")):
        if (trial.has_rule or trial.explicit) and stops_gradients(trace(fn, *given)):
            why = f"differ for `{leaf.name}`, in which {whose} stops a gradient on purpose"
            outcome.row(NAME, None, why)
            return
    found = _rounded(trial, leaf, sample) or _diagnosed(trial, leaf, sample, slopes, rng)
    if found.explained < 0.999:
        found = _rounded_often(trial, leaf, sample) or found
    compared = trial.has_rule or trial.explicit
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
        Finding(
            NAME,
            leaf.name,
            found.word,
            f"{whose}: {found.sentence}",
            "undecided" if compared and with_reference else "rule",
            explained=found.explained,
            **numbers(sample, leaf),  # type: ignore[arg-type]
        )
    )


def _rounded(trial: Trial, leaf: Leaf, sample: Sample) -> Diagnosis | None:
    """Whether the rule computes in a narrower dtype than the function, and is off by as much."""
    size = float(np.abs(sample.expected[leaf.part]).max(initial=0.0))
    off = float(np.abs(sample.got - sample.expected)[leaf.part].max(initial=0.0))
    if trial.eps_rule <= trial.eps_plain or off > 16 * trial.eps_rule * size:
        return None
    return Diagnosis(
        "precision",
        f"the rule computes in a dtype with rounding unit {trial.eps_rule:.1g} and is off by as "
        f"much, the function in one with {trial.eps_plain:.1g}",
        1.0,
    )


def _rounded_often(trial: Trial, leaf: Leaf, sample: Sample) -> Diagnosis | None:
    """Whether the rule is narrow inside and near the truth: then it is a long sum's rounding."""
    known = np.isfinite(sample.tolerance[leaf.part])
    truth = sample.expected[leaf.part][known]
    off = sample.got[leaf.part][known] - truth
    if trial.eps_rule <= trial.eps_plain or not np.linalg.norm(off) <= 0.3 * np.linalg.norm(truth):
        return None
    return Diagnosis(
        "precision",
        f"the rule computes in a dtype with rounding unit {trial.eps_rule:.1g}, the function in "
        f"one with {trial.eps_plain:.1g}; it is near the truth, as after a long sum in that dtype",
        0.0,
    )


def _diagnosed(
    trial: Trial,
    leaf: Leaf,
    sample: Sample,
    slopes: dict[int, Slope] | None,
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

    questions = []
    for _ in range(4):
        c = trial.cotangent(rng)
        got, expected = trial.rule(sample.x, c), truth(sample.x, c)
        questions.append(
            (sample.x, c, got, expected, np.full(got.shape, sample.tolerance[leaf.part].max()))
        )
    outputs = [tuple(out.shape) for out in trial.given.outputs()]
    gathered = evidence.gather(leaf, trial.subject.leaves, outputs, questions, trial.rule, truth)
    if gathered is None:
        return Diagnosis("unknown", "no finite answer to diagnose", 0.0)
    return diagnose(gathered)
