"""Whether a leaf is wrong for certain, and whose answer it is, if samples of it are.

What rounding explains is excused; of the rest finite differences say which side is wrong.
"""

import dataclasses
import enum

import numpy as np

from jaxbp.verify.compare.arbiter import Arbiter, Right
from jaxbp.verify.compare.rounding import Excuse
from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.report import Side
from jaxbp.verify.subject.vectors import Leaf
from jaxbp.verify.trial import Trial

ARBITRATED = 48
"""How many wrong entries of a leaf are put before finite differences."""
DOUBTFUL = 6
"""How many of the questions in which a leaf is wrong are looked into."""
AWAY = 1e3
"""At the given arguments a tie may excuse what cannot be excused elsewhere: an error there weighs
as much as one so many times as large."""


class Fault(enum.Enum):
    """In which way a leaf is wrong."""

    NUMBERS = enum.auto()
    """Its numbers are others."""
    NOT_FINITE = enum.auto()
    """It is no number where the reference is."""
    OUTSIDE_A_KINK = enum.auto()
    """At a kink it is not between the one-sided slopes."""


@dataclasses.dataclass
class Verdict:
    """What became of one leaf."""

    sample: Sample | None = None
    """In which it is wrong for certain; None: in none."""
    side: Side = "rule"
    fault: Fault = Fault.NUMBERS
    notes: list[str] = dataclasses.field(default_factory=list)
    excuse: Excuse | None = None
    """How rounding explains what little there is, if it does."""

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def wrong(self, sample: Sample, side: Side = "rule", fault: Fault = Fault.NUMBERS) -> "Verdict":
        """The verdict that it is wrong in this sample."""
        return Verdict(sample, side, fault, self.notes)


def verdict_of(
    trial: Trial, arbiter: Arbiter, leaf: Leaf, taken: list[Sample], rng: np.random.Generator
) -> Verdict:
    """Go through the samples in which the leaf is wrong until one is certain."""
    verdict = Verdict()
    suspects = [sample for sample in taken if sample.wrong(leaf).any()]
    if not suspects:
        return verdict
    suspects.sort(key=lambda sample: -_certainty(sample, leaf))
    if not trial.subject.is_real:
        return Verdict(suspects[0])
    doubtful = 0
    for sample in suspects:
        if doubtful == DOUBTFUL:
            break
        how = trial.excuse(sample, leaf, rng)
        doubtful += how is not Excuse.UNFELT  # which says nothing of the other questions
        if how is not None:
            verdict.excuse = how
            continue
        excess = sample.excess()[leaf.part]
        order = np.argsort(-excess, kind="stable")
        for place in order[excess[order] > 1.0][:ARBITRATED]:
            found = _at_entry(trial, arbiter, sample, leaf, leaf.start + int(place), verdict)
            if found is not None:
                return found
    return verdict


def _at_entry(
    trial: Trial, arbiter: Arbiter, sample: Sample, leaf: Leaf, index: int, verdict: Verdict
) -> Verdict | None:
    """The verdict that one wrong entry allows; None: none, but perhaps a note."""
    if not np.isfinite(sample.expected[index]):
        return _without_a_reference(arbiter, sample, leaf, index, verdict)
    if not np.isfinite(sample.got[index]):
        return verdict.wrong(sample, fault=Fault.NOT_FINITE)
    ruling = arbiter.entry(sample, index)
    if ruling.who is Right.KINK:
        return None
    if ruling.kink:
        return verdict.wrong(sample, fault=Fault.OUTSIDE_A_KINK)
    if ruling.who is not Right.RULE:
        return verdict.wrong(sample)
    if trial.explicit:
        return verdict.wrong(sample, side="reference")
    verdict.note(
        f"autodiff of the reference is wrong for `{leaf.name}`: the rule agrees with finite "
        "differences, and autodiff does not"
    )
    return None


def _without_a_reference(
    arbiter: Arbiter, sample: Sample, leaf: Leaf, index: int, verdict: Verdict
) -> Verdict | None:
    """As `_at_entry`, where the reference is no number: differences alone can judge the rule."""
    is_no_number = f"autodiff of the reference is {sample.expected[index]}"
    ruling = arbiter.entry(sample, index)
    if ruling.known and np.isfinite(sample.got[index]):
        if ruling.who in (Right.RULE, Right.KINK):
            verdict.note(
                f"{is_no_number} for `{leaf.name}`; the rule agrees with finite differences"
            )
            return None
        if ruling.who in (Right.NEITHER, Right.REFERENCE):
            return verdict.wrong(sample)
    verdict.note(
        f"{is_no_number} somewhere in `{leaf.name}`, and finite differences cannot decide there"
    )
    return None


def overrules_the_reference(trial: Trial, taken: list[Sample], rng: np.random.Generator) -> bool:
    """Whether finite differences side with the rule where the reference's own gradient is another.

    It is no judge of the rule's derivative then.
    """
    arbiter = trial.arbiter(rng)
    for leaf in trial.subject.leaves:
        if any(sample.wrong(leaf).any() for sample in taken):
            verdict = verdict_of(trial, arbiter, leaf, taken, rng)
            sides = verdict.sample is None and verdict.excuse is None
            if sides or verdict.side == "reference":
                return True
    return False


def _certainty(sample: Sample, leaf: Leaf) -> float:
    """Dense cotangents away from ties first: there nothing can excuse an error."""
    excess = sample.excess()[leaf.part]
    finite = excess[np.isfinite(excess)]
    largest = max(finite.max(initial=0.0), np.finfo(float).tiny)
    return float(np.log10(largest) + np.log10(AWAY) * sample.away)
