"""The mistakes of a backward that computes the forward anew, and leaves a step of it out.

A mask, a scale, a bias or an activation that is missing there gives the exact derivative of another
function: the one without that step.
"""

from collections.abc import Iterator

import numpy as np

from jaxbp.verify.evidence import Diagnosis, Evidence
from jaxbp.verify.subject import unpack

MOST_STEPS = 80


def step_left_out(e: Evidence) -> Iterator[Diagnosis]:
    """The derivative of the function without one of its steps."""
    shortened = e.shortened()
    if shortened is None:
        return
    error = float(np.sum((e.got[0] - e.truth[0]) ** 2))
    for step, what in enumerate(shortened.steps[:MOST_STEPS]):
        answer = unpack(shortened.answer(e.points[0], e.cotangents[0], step)[e.leaf.part], e.leaf)
        with np.errstate(over="ignore", invalid="ignore"):
            left = float(np.sum((e.got[0] - answer) ** 2))
        if not left <= 1e-9 * error:
            continue
        answers = [
            unpack(shortened.answer(x, c, step)[e.leaf.part], e.leaf)
            for x, c in zip(e.points, e.cotangents, strict=True)
        ]
        yield Diagnosis(
            "missing-term",
            f"the cotangent is the one of the function without its {what}: a step of the forward "
            "is left out where it is computed anew",
            e.explained(np.array(answers)),
        )
