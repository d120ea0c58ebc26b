"""The mistakes of a backward that computes the forward anew, and does one step of it otherwise.

A mask, a scale, a bias or an activation that is missing there gives the exact derivative of another
function: the one without that step. So does a state that is kept after its step and not before.
"""

from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Evidence

MOST_STEPS = 80
"""Of a longer program the first so many steps are tried."""
EXACT = 1e-9
"""Of the first question's error no more may be left."""


def step_changed(e: Evidence) -> Iterator[Diagnosis]:
    """The derivative of the function with one of its steps changed."""
    altered = e.altered()
    if altered is None:
        return
    questions = list(zip(e.points, e.cotangents, strict=True))
    for number, step in enumerate(altered.steps[:MOST_STEPS]):
        if not e.left(e.mine(altered.answer(*questions[0], number))) <= EXACT:
            continue
        answers = [e.mine(altered.answer(x, c, number)) for x, c in questions]
        yield Diagnosis(
            step.word,
            f"the cotangent is the one of the function {step.change}: so the forward is computed "
            "anew, or kept",
            e.explained(np.array(answers)),
        )
