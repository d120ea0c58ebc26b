"""Which mistake it is: every hypothesis in turn, and the one that is believed.

One that explains all of the error goes before one that does not, and a simple one before an
involved one.
"""

from collections.abc import Callable, Iterable

from jaxbp.verify.diagnose.diagnosis import BELIEVED, EXACT, Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence
from jaxbp.verify.diagnose.mistakes import (
    answers,
    backward,
    contributions,
    entries,
    forward,
    jacobian,
    terms,
    values,
)

BETTER = 0.02
"""By so much must an involved hypothesis explain more than a simple one to be preferred."""

Hypothesis = Callable[[Evidence], Iterable[Diagnosis]]

HYPOTHESES: tuple[Hypothesis, ...] = (
    answers.zero,
    answers.stale,
    answers.surrogate,
    answers.multiple,
    answers.rearranged,
    answers.ignored_output,
    entries.lost_entries,
    terms.one_factor,
    terms.one_term,
    answers.another_leaf,
    entries.lost_examples,
    contributions.some_contributions,
    entries.divided_by_counts,
    answers.cotangent_rearranged,
    contributions.one_of_several,
    contributions.misplaced,
    contributions.lost_outputs,
    entries.few_entries,
    terms.some_uses,
    answers.passed_on,
    answers.mean_over_axes,
    answers.displaced,
    answers.integers_displaced,
    terms.operand_of_product,
    jacobian.adjoint_forgotten,
    contributions.border_elements,
    contributions.dropped_contributions,
    answers.operand_rearranged,
    terms.two_terms,
    terms.result_of_product,
    answers.outputs_exchanged,
    values.value_displaced,
    values.taken_elsewhere,
    terms.two_factors,
    values.another_value,
    backward.residual_exchanged,
    backward.residual_powered,
    backward.value_rearranged,
    backward.summed_elsewhere,
    entries.one_region,
    contributions.mask_forgotten,
    answers.centred,
    jacobian.transposed_by_factors,
    contributions.contributions_moved,
    contributions.redistributed,
    entries.factor,
    forward.step_changed,
    jacobian.through_a_sum,
)
"""Simple ones first."""


def diagnose(evidence: Evidence | None) -> Diagnosis:
    """The best explanation of what is wrong with one leaf's cotangent."""
    if evidence is None:
        return Diagnosis("unknown", "no finite answer to diagnose", 0.0)
    best: Diagnosis | None = None
    for hypothesis in HYPOTHESES:
        for found in hypothesis(evidence):
            if found.explained >= EXACT:
                return found
            if found.explained >= BELIEVED and (
                best is None or found.explained > best.explained + BETTER
            ):
                best = found
    return best or Diagnosis("unknown", "no hypothesis explains 95 % of the error", 0.0)
