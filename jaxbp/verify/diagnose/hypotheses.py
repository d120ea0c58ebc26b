"""What kind of mistake it is: hypotheses, each a way to make a wrong cotangent out of right ones.

A hypothesis says what the rule would answer if it made one certain mistake. It is believed when it
accounts for at least `BELIEVED` of the error in every question; among those that do, one that is
exact goes before one that is not, and a simple one before an involved one.
"""

from collections.abc import Callable, Iterable

from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.diagnose.mistakes import answers as mistakes
from jaxbp.verify.diagnose.mistakes import backward as backward_mistakes
from jaxbp.verify.diagnose.mistakes import forward as forward_mistakes
from jaxbp.verify.diagnose.mistakes import jacobian as jacobian_mistakes
from jaxbp.verify.diagnose.mistakes import terms as term_mistakes
from jaxbp.verify.diagnose.mistakes import values as value_mistakes

BELIEVED = 0.95
EXACT = 1.0 - 1e-6

Hypothesis = Callable[[Evidence], Iterable[Diagnosis]]

HYPOTHESES: tuple[Hypothesis, ...] = (
    mistakes.zero,
    mistakes.stale,
    mistakes.surrogate,
    mistakes.multiple,
    mistakes.rearranged,
    mistakes.ignored_output,
    mistakes.lost_entries,
    term_mistakes.one_factor,
    term_mistakes.one_term,
    mistakes.another_leaf,
    mistakes.lost_examples,
    mistakes.some_contributions,
    mistakes.divided_by_counts,
    mistakes.cotangent_rearranged,
    mistakes.one_of_several,
    mistakes.misplaced,
    mistakes.lost_outputs,
    mistakes.few_entries,
    term_mistakes.some_uses,
    mistakes.passed_on,
    mistakes.mean_over_axes,
    mistakes.displaced,
    mistakes.integers_displaced,
    term_mistakes.operand_of_product,
    mistakes.adjoint_forgotten,
    mistakes.border_elements,
    mistakes.dropped_contributions,
    mistakes.operand_rearranged,
    term_mistakes.two_terms,
    term_mistakes.result_of_product,
    jacobian_mistakes.outputs_exchanged,
    value_mistakes.value_displaced,
    value_mistakes.taken_elsewhere,
    term_mistakes.two_factors,
    value_mistakes.another_value,
    backward_mistakes.residual_exchanged,
    backward_mistakes.residual_powered,
    backward_mistakes.value_rearranged,
    backward_mistakes.summed_elsewhere,
    mistakes.one_region,
    jacobian_mistakes.mask_forgotten,
    jacobian_mistakes.centred,
    jacobian_mistakes.transposed_by_factors,
    jacobian_mistakes.contributions_moved,
    jacobian_mistakes.redistributed,
    mistakes.factor,
    forward_mistakes.step_changed,
    jacobian_mistakes.through_a_sum,
)
"""Simple ones first."""


def diagnose(evidence: Evidence) -> Diagnosis:
    """The best explanation of what is wrong with one leaf's cotangent."""
    best: Diagnosis | None = None
    for hypothesis in HYPOTHESES:
        for found in hypothesis(evidence):
            if found.explained >= EXACT:
                return found
            if found.explained >= BELIEVED and (
                best is None or found.explained > best.explained + 0.02
            ):
                best = found
    return best or Diagnosis("unknown", "no hypothesis explains 95 % of the error", 0.0)
