"""Does the rule's cotangent equal the reference's, entry by entry?"""

import dataclasses
from collections.abc import Collection

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare import power, rounding
from jaxbp.verify.compare.rounding import Excuse
from jaxbp.verify.compare.sample import Sample, Vjp
from jaxbp.verify.diagnose import consequence
from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import gather
from jaxbp.verify.diagnose.hypotheses import diagnose
from jaxbp.verify.diagnose.taken_apart import Apart, integers, taken_apart
from jaxbp.verify.diagnose.verdict import Fault, Verdict, verdict_of
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector
from jaxbp.verify.trial import Trial

NAME = "gradient"
DENSE = 3
"""Dense cotangents at each point."""
IN_ROWS = 2
"""At so many points rows of the Jacobian are compared on their own."""
DIAGNOSED = 6
"""So many questions in which a leaf is wrong does a diagnosis go by."""
CANCELLED = 16
"""Rounding units of the other rows' size that may be left in a row that is zero."""


def check(
    trial: Trial,
    points: list[Vector],
    rng: np.random.Generator,
    twisted: Collection[str | None] = (),
) -> Outcome:
    """Findings for every leaf in which rule and reference are too far apart.

    What is not even linear, or not even a function, has no gradient to diagnose: `twisted`.
    """
    taken = _samples(trial, points, rng)
    outcome = _judged(trial, taken, points, rng)
    outcome.findings = [f for f in outcome.findings if f.argument not in twisted]
    outcome.powers = power.measure(taken, trial.subject.leaves, outcome.blamed, rng)
    return outcome


def _samples(trial: Trial, points: list[Vector], rng: np.random.Generator) -> list[Sample]:
    """Rule and reference at every point: dense cotangents, one output leaf alone, rows."""
    taken = []
    for number, x in enumerate(points):
        away = number > 0
        where = "other arguments like the given ones" if away else "the given arguments"
        for _ in range(DENSE):
            taken.append(trial.compare(x, trial.cotangent(rng), rng, where, away))
        if len(trial.given.outputs()) > 1:
            for c in _leaf_by_leaf(trial, rng):
                taken.append(trial.compare(x, c, rng, f"{where}, one output alone", away))
        if number < IN_ROWS:
            for row in trial.rows(rng):
                c, what = inputs.one_hot(trial.output_size, row), f"output entry {row} alone"
                alone = trial.compare(x, c, rng, f"{where}, {what}", away)
                taken.append(_beside_the_others(trial, alone, taken))
    return taken


def _beside_the_others(trial: Trial, alone: Sample, taken: list[Sample]) -> Sample:
    """The sample; where its row is exactly zero, with the room of the other rows' rounding.

    A rule that sums terms which cancel, a matrix of sines, leaves the last bits of such terms.
    """
    tolerance = alone.tolerance.copy()
    for leaf in trial.subject.leaves:
        if leaf.size and not alone.expected[leaf.part].any():
            rows = [s.expected[leaf.part] for s in taken if np.array_equal(s.x, alone.x)]
            largest = max(float(np.nan_to_num(np.abs(row), posinf=0.0).max()) for row in rows)
            tolerance[leaf.part] += CANCELLED * trial.eps * largest
    return dataclasses.replace(alone, tolerance=tolerance)


def _leaf_by_leaf(trial: Trial, rng: np.random.Generator) -> list[Vector]:
    full, parts = trial.cotangent(rng), []
    for leaf in trial.output_leaves:
        c = np.zeros_like(full)
        c[leaf.part] = full[leaf.part]
        parts.append(c)
    return [c for c in parts if c.any()]


def _judged(
    trial: Trial, taken: list[Sample], points: list[Vector], rng: np.random.Generator
) -> Outcome:
    outcome = Outcome()
    arbiter = trial.arbiter(rng)
    unsure: dict[Excuse, list[str]] = {}
    for leaf in trial.subject.leaves:
        verdict = verdict_of(trial, arbiter, leaf, taken, rng)
        outcome.notes += verdict.notes
        if verdict.sample is not None:
            outcome.findings.append(_finding(trial, leaf, verdict.sample, verdict, taken))
            continue
        if leaf.size and not any(np.isfinite(s.expected[leaf.part]).any() for s in taken):
            outcome.findings.append(_nothing_to_compare(leaf))
        if verdict.excuse is not None:
            unsure.setdefault(verdict.excuse, []).append(f"`{leaf.name}`")
    outcome.findings = consequence.explained(trial, outcome.findings, points[-1])
    counted = f"{len(taken)} questions at {len(points)} points"
    blamed = ", ".join(f.argument or "" for f in outcome.findings)
    detail = f"wrong for {blamed}; {counted}" if outcome.findings else counted
    outcome.row(NAME, not outcome.findings, detail, outcome.findings)
    if Excuse.CONSTANTS in unsure:
        outcome.note(rounding.narrow_constants(", ".join(unsure[Excuse.CONSTANTS])))
    if Excuse.UNFELT in unsure:
        outcome.note(rounding.nothing_felt(", ".join(unsure[Excuse.UNFELT])))
    return outcome


def _nothing_to_compare(leaf: Leaf) -> Finding:
    message = (
        "the true cotangent is finite at no point asked, so nothing was compared: are there NaNs "
        "or infinities among the arguments?"
    )
    return finding(NAME, "nan", message, argument=leaf.name, side="undecided")


def _finding(
    trial: Trial, leaf: Leaf, sample: Sample, verdict: Verdict, taken: list[Sample]
) -> Finding:
    place = sample.worst(leaf)
    if verdict.fault is Fault.NOT_FINITE:
        message = "the cotangent is not finite where value and reference are"
        return finding("nan", "nan", message, argument=leaf.name, at=place)
    if verdict.fault is Fault.OUTSIDE_A_KINK:
        message = "at a tie or corner the slope is not between the one-sided slopes"
        return finding("kinks", "ties", message, argument=leaf.name, at=place)
    if verdict.side == "reference":
        message = (
            "the rule agrees with finite differences of the function, the reference's own "
            "gradient does not"
        )
        return finding(NAME, "unknown", message, argument=leaf.name, side="reference", at=place)
    found = _explain(trial, leaf, taken)
    return finding(
        NAME,
        found.word,
        f"{found.sentence} ({sample.label})",
        argument=leaf.name,
        side=verdict.side,
        at=place,
        explained=found.explained,
    )


def _explain(trial: Trial, leaf: Leaf, taken: list[Sample]) -> Diagnosis:
    """Diagnose one leaf, from dense cotangents at the points that have the least symmetry."""
    rule: Vjp = trial.rule
    truth: Vjp = trial.truth
    apart: Apart | None = taken_apart(trial)
    lost = np.any([~np.isfinite(s.expected) for s in taken], axis=0)
    known = [_without(sample, lost) for sample in taken]
    if lost[leaf.part].any() and any(sample.wrong(leaf).any() for sample in known):
        taken, apart = known, None  # which would not be a number there either
        rule, truth = (_zero_where(lost, vjp) for vjp in (trial.rule, trial.truth))
    dense = [s for s in taken if np.count_nonzero(s.c) == s.c.size]
    away = [s for s in dense if s.away]
    for chosen in (away, dense, taken):
        evidence = gather(
            leaf,
            trial.subject.leaves,
            trial.output_leaves,
            [sample for sample in chosen if sample.wrong(leaf).any()][:DIAGNOSED],
            rule,
            truth,
            apart=apart,
            given=trial.subject.x,
            integers=integers(trial),
        )
        if evidence is not None:
            return diagnose(evidence)
    return diagnose(None)


def _without(sample: Sample, lost: np.ndarray) -> Sample:
    """The sample with nothing, right and given, where the reference is not a number."""
    got, expected = (np.where(lost, 0.0, v) for v in (sample.got, sample.expected))
    return dataclasses.replace(sample, got=got, expected=expected)


def _zero_where(lost: np.ndarray, vjp: Vjp) -> Vjp:
    return lambda x, c: np.where(lost, 0.0, vjp(x, c))
