"""The rule against the reference, entry by entry, and finite differences to say which is wrong."""

import dataclasses
from typing import Any

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.finite_differences import FiniteDifferences
from jaxbp.verify.compare.sample import Sample, Vjp
from jaxbp.verify.diagnose import consequence, evidence, hypotheses
from jaxbp.verify.report import Finding, Side
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.subject import Leaf, Vector
from jaxbp.verify.trial import Trial

ARBITRATED = 48
"""How many wrong entries of a leaf are put before finite differences."""
DENSE = 3
DOUBTFUL = 6
"""How many of the questions in which a leaf is wrong are looked into."""


def samples(trial: Trial, points: list[Vector], rng: np.random.Generator) -> list[Sample]:
    """Rule and reference at every point: dense cotangents, one output leaf alone, rows."""
    taken = []
    m = trial.output_size
    for number, x in enumerate(points):
        where = "the given arguments" if number == 0 else "other arguments like the given ones"
        for _ in range(DENSE):
            taken.append(trial.compare(x, trial.cotangent(rng), rng, where))
        if len(trial.given.outputs()) > 1:
            for c in _leaf_by_leaf(trial, rng):
                taken.append(trial.compare(x, c, rng, f"{where}, one output alone"))
        if number < 2:
            for row in trial.rows(rng):
                c = inputs.one_hot(m, row)
                alone = trial.compare(x, c, rng, f"{where}, output entry {row} alone")
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
            tolerance[leaf.part] += 16 * trial.eps * largest
    return dataclasses.replace(alone, tolerance=tolerance)


def _leaf_by_leaf(trial: Trial, rng: np.random.Generator) -> list[Vector]:
    full, parts = trial.cotangent(rng), []
    for leaf in trial.output_leaves:
        c = np.zeros_like(full)
        c[leaf.part] = full[leaf.part]
        parts.append(c)
    return [c for c in parts if c.any()]


def judge(
    trial: Trial, taken: list[Sample], points: list[Vector], rng: np.random.Generator
) -> Outcome:
    """Findings for every leaf in which rule and reference are too far apart."""
    outcome = Outcome()
    arbiter = Arbiter(trial, rng)
    unsure: dict[rounding.Excuse, list[str]] = {}
    for leaf in trial.subject.leaves:
        verdict = _verdict(trial, arbiter, leaf, taken)
        outcome.notes += verdict.notes
        if verdict.sample is None:
            if leaf.size and not any(np.isfinite(s.expected[leaf.part]).any() for s in taken):
                outcome.findings.append(_nothing_to_compare(leaf))
            if verdict.excuse is not None:
                unsure.setdefault(verdict.excuse, []).append(f"`{leaf.name}`")
            continue
        outcome.findings.append(_finding(trial, leaf, verdict, taken, points, rng))
    outcome.findings = consequence.explained(trial, outcome.findings, points[-1])
    counted = f"{len(taken)} questions at {len(points)} points"
    ok = not outcome.findings
    blamed = ", ".join(f.argument or "" for f in outcome.findings)
    outcome.row("gradient", ok, counted if ok else f"wrong for {blamed}; {counted}")
    if "constants" in unsure:
        outcome.notes.append(rounding.narrow_constants(", ".join(unsure["constants"])))
    if "unfelt" in unsure:
        outcome.notes.append(rounding.nothing_felt(", ".join(unsure["unfelt"])))
    return outcome


@dataclasses.dataclass
class Verdict:
    """What became of one leaf."""

    sample: Sample | None
    side: Side = "rule"
    notes: list[str] = dataclasses.field(default_factory=list)
    check: str = "gradient"
    word: str | None = None
    excuse: rounding.Excuse | None = None
    """How rounding explains what little there is, if it does."""


class Arbiter:
    """Finite differences at the points where rule and reference disagree."""

    def __init__(self, trial: Trial, rng: np.random.Generator) -> None:
        self.trial, self.rng = trial, rng
        self._at: dict[bytes, FiniteDifferences] = {}

    def differences(self, x: Vector) -> FiniteDifferences:
        key = x.tobytes()
        if key not in self._at:
            self._at[key] = self.trial.differences(x, self.rng)
        return self._at[key]

    def entry(self, sample: Sample, index: int) -> "Ruling":
        """Who is right at one entry."""
        slope = self.differences(sample.x).entry(index)
        c, got, expected = sample.c, sample.got[index], sample.expected[index]
        with np.errstate(invalid="ignore", over="ignore"):
            used = c != 0
            weight = np.where(used, c, 0.0)
            # Of a complex output the argument, being real, gets the real part.
            value = float(np.sum(np.where(used, weight * slope.value, 0.0)).real)
            error = 4 * float(np.sum(np.where(used, np.abs(weight) * slope.error, 0.0)))
            kinked = slope.kink & used
            if kinked.any():
                ends = np.array([weight * slope.left, weight * slope.right])
                ends = np.where(used, np.where(kinked, ends, weight * slope.value), 0.0).real
                low, high = ends.min(axis=0).sum(), ends.max(axis=0).sum()
                margin = 1e-3 * (high - low) + 1e-6 * max(abs(low), abs(high))
                inside = bool(low - margin <= got <= high + margin)
                return Ruling("kink" if inside else "reference", value, error, True)
        if not np.isfinite(value) or not np.isfinite(error):
            return Ruling("both", value, error)
        mine = abs(got - value) <= error + sample.tolerance[index]
        theirs = abs(expected - value) <= error + sample.tolerance[index]
        who = ("both" if theirs else "rule") if mine else ("reference" if theirs else "neither")
        return Ruling(who, value, error)


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What finite differences say of one entry."""

    who: str
    """`kink` (the rule lies between the one-sided slopes), or who else agrees: `rule`,
    `reference`, `neither`, `both` (or they cannot tell)."""
    value: float
    error: float
    kink: bool = False


def _verdict(trial: Trial, arbiter: Arbiter, leaf: Leaf, taken: list[Sample]) -> Verdict:
    """Go through the samples in which the leaf is wrong until one is certain."""
    verdict = Verdict(None)
    wrong_samples = [s for s in taken if s.wrong(leaf).any()]
    if not wrong_samples:
        return verdict
    wrong_samples.sort(key=lambda s: -_certainty(s, leaf))
    if not trial.subject.is_real:
        return Verdict(wrong_samples[0])
    doubtful = 0
    for sample in wrong_samples:
        if doubtful == DOUBTFUL:
            break
        how = trial.excuse(sample, leaf, arbiter.rng)
        doubtful += how != "unfelt"  # which says nothing of the other questions
        if how is not None:
            verdict.excuse = how
            continue
        excess = sample.excess()[leaf.part]
        order = np.argsort(-excess, kind="stable")
        order = order[excess[order] > 1.0]
        for place in order[:ARBITRATED]:
            index = leaf.start + int(place)
            if not np.isfinite(sample.expected[index]):
                ruling = arbiter.entry(sample, index)
                who = ruling.who
                known = np.isfinite(ruling.value) and np.isfinite(ruling.error)
                if known and np.isfinite(sample.got[index]):
                    if who in ("rule", "kink"):
                        _note(
                            verdict,
                            f"autodiff of the reference is {sample.expected[index]} for "
                            f"`{leaf.name}`; the rule agrees with finite differences",
                        )
                        continue
                    if who in ("neither", "reference"):
                        return Verdict(sample, "rule", verdict.notes)
                _note(
                    verdict,
                    f"autodiff of the reference is {sample.expected[index]} somewhere in "
                    f"`{leaf.name}`, and finite differences cannot decide there",
                )
                continue
            if not np.isfinite(sample.got[index]):
                return Verdict(sample, "rule", verdict.notes, "nan", "nan")
            ruling = arbiter.entry(sample, index)
            who = ruling.who
            if ruling.kink and who != "kink":
                return Verdict(sample, "rule", verdict.notes, "kinks", "ties")
            if who == "kink":
                continue
            if who == "rule":
                if trial.explicit:
                    return Verdict(sample, "reference", verdict.notes)
                _note(
                    verdict,
                    f"autodiff of the reference is wrong for `{leaf.name}`: the rule "
                    "agrees with finite differences, and autodiff does not",
                )
                continue
            return Verdict(sample, "rule", verdict.notes)
    return verdict


def _nothing_to_compare(leaf: Leaf) -> Finding:
    return Finding(
        "gradient",
        leaf.name,
        "nan",
        "the true cotangent is finite at no point asked, so nothing was compared: are there NaNs "
        "or infinities among the arguments?",
        "undecided",
    )


def overrules_the_reference(trial: Trial, taken: list[Sample], rng: np.random.Generator) -> bool:
    """Whether finite differences side with the rule where the reference's own gradient is another.

    It is no judge of the rule's derivative then.
    """
    arbiter = Arbiter(trial, rng)
    for leaf in trial.subject.leaves:
        if any(sample.wrong(leaf).any() for sample in taken):
            verdict = _verdict(trial, arbiter, leaf, taken)
            sides = verdict.sample is None and verdict.excuse is None
            if sides or verdict.side == "reference":
                return True
    return False


def _certainty(sample: Sample, leaf: Leaf) -> float:
    """Dense cotangents away from ties first: there nothing can excuse an error."""
    excess = sample.excess()[leaf.part]
    finite = excess[np.isfinite(excess)]
    return float(np.log10(max(finite.max(initial=0.0), 1e-300))) + 3.0 * sample.label.startswith(
        "other"
    )


def _note(verdict: Verdict, text: str) -> None:
    if text not in verdict.notes:
        verdict.notes.append(text)


def _finding(
    trial: Trial,
    leaf: Leaf,
    verdict: Verdict,
    taken: list[Sample],
    points: list[Vector],
    rng: np.random.Generator,
) -> Finding:
    sample = verdict.sample
    assert sample is not None
    place = numbers(sample, leaf)
    if verdict.word is not None:
        message = (
            "the cotangent is not finite where value and reference are"
            if verdict.word == "nan"
            else "at a tie or corner the slope is not between the one-sided slopes"
        )
        return Finding(verdict.check, leaf.name, verdict.word, message, "rule", **place)  # type: ignore[arg-type]
    if verdict.side == "reference":
        message = (
            "the rule agrees with finite differences of the function, the reference's own "
            "gradient does not"
        )
        return Finding("gradient", leaf.name, "unknown", message, "reference", **place)  # type: ignore[arg-type]
    found = explain(trial, leaf, taken, points, rng)
    message = f"{found.sentence} ({sample.label})"
    return Finding(
        "gradient",
        leaf.name,
        found.word,
        message,
        verdict.side,
        explained=found.explained,
        **place,  # type: ignore[arg-type]
    )


def explain(
    trial: Trial, leaf: Leaf, taken: list[Sample], points: list[Vector], rng: np.random.Generator
) -> hypotheses.Diagnosis:
    """Diagnose one leaf, from dense cotangents at the points that have the least symmetry."""
    rule: Vjp = trial.rule
    truth: Vjp = trial.truth
    apart: dict[str, Any] = {
        "parts": trial.parts,
        "altered": trial.altered,
        "backward": trial.backward,
    }
    lost = np.any([~np.isfinite(s.expected) for s in taken], axis=0)
    known = [_without(s, lost) for s in taken]
    if lost[leaf.part].any() and any(s.wrong(leaf).any() for s in known):
        taken, apart = known, {}  # which would not be a number there either
        rule, truth = (_zero_where(lost, fn) for fn in (trial.rule, trial.truth))
    dense = [s for s in taken if np.count_nonzero(s.c) == s.c.size]
    away = [s for s in dense if s.label.startswith("other")]
    for chosen in (away, dense, taken):
        questions = [
            (s.x, s.c, s.got, s.expected, s.tolerance) for s in chosen if s.wrong(leaf).any()
        ]
        outputs = [tuple(out.shape) for out in trial.given.outputs()]
        gathered = evidence.gather(
            leaf,
            trial.subject.leaves,
            outputs,
            questions[:6],
            rule,
            truth,
            given=trial.subject.x,
            integers=trial.integers(),
            **apart,
        )
        if gathered is not None:
            return hypotheses.diagnose(gathered)
    return hypotheses.Diagnosis("unknown", "no finite answer to diagnose", 0.0)


def _without(sample: Sample, lost: np.ndarray) -> Sample:
    """The sample with nothing, right and given, where the reference is not a number."""
    got, expected = (np.where(lost, 0.0, v) for v in (sample.got, sample.expected))
    return dataclasses.replace(sample, got=got, expected=expected)


def _zero_where(lost: np.ndarray, vjp: Vjp) -> Vjp:
    return lambda x, c: np.where(lost, 0.0, vjp(x, c))
