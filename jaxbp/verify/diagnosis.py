"""What kind of mistake it is: hypotheses, each a way to make a wrong cotangent out of right ones.

A hypothesis says what the rule would answer if it made one certain mistake. It is believed when it
accounts for at least `BELIEVED` of the error in every question; among those that do, one that is
exact goes before one that is not, and a simple one before an involved one.
"""

from collections.abc import Callable, Iterable

from jaxbp.verify import mistakes
from jaxbp.verify.evidence import Diagnosis, Evidence

BELIEVED = 0.95
EXACT = 1.0 - 1e-6

Hypothesis = Callable[[Evidence], Iterable[Diagnosis]]

HYPOTHESES: tuple[Hypothesis, ...] = (
    mistakes.zero,
    mistakes.surrogate,
    mistakes.multiple,
    mistakes.rearranged,
    mistakes.another_leaf,
    mistakes.mean_over_axes,
    mistakes.some_contributions,
    mistakes.operand_rearranged,
    mistakes.few_entries,
    mistakes.factor,
)
"""Simple ones first."""


def diagnose(evidence: Evidence, more: Iterable[Hypothesis] = ()) -> Diagnosis:
    """The best explanation of what is wrong with one leaf's cotangent."""
    best: Diagnosis | None = None
    for hypothesis in (*HYPOTHESES, *more):
        for found in hypothesis(evidence):
            if found.explained >= EXACT:
                return found
            if found.explained >= BELIEVED and (
                best is None or found.explained > best.explained + 0.02
            ):
                best = found
    return best or Diagnosis("unknown", "no hypothesis explains 95 % of the error", 0.0)
