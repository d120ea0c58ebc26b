"""The mistakes of a backward that computes the forward anew, and does one step of it otherwise.

A mask, a scale, a bias or an activation that is missing there gives the exact derivative of another
function: the one without that step. So does a state that is kept after its step and not before.
"""

from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.subject.subject import unpack

MOST_STEPS = 80


def step_changed(e: Evidence) -> Iterator[Diagnosis]:
    """The derivative of the function with one of its steps changed."""
    altered = e.altered()
    if altered is None:
        return
    error = float(np.sum(np.abs(e.got[0] - e.truth[0]) ** 2))
    for step, (word, change) in enumerate(altered.steps[:MOST_STEPS]):
        answer = unpack(altered.answer(e.points[0], e.cotangents[0], step)[e.leaf.part], e.leaf)
        with np.errstate(over="ignore", invalid="ignore"):
            left = float(np.sum(np.abs(e.got[0] - answer) ** 2))
        if not left <= 1e-9 * error:
            continue
        answers = [
            unpack(altered.answer(x, c, step)[e.leaf.part], e.leaf)
            for x, c in zip(e.points, e.cotangents, strict=True)
        ]
        yield Diagnosis(
            word,
            f"the cotangent is the one of the function {change}: so the forward is computed anew, "
            "or kept",
            e.explained(np.array(answers)),
        )
