"""Does a zero cotangent give zero cotangents?"""

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall
from jaxbp.verify.compare.sample import Place
from jaxbp.verify.subject.vectors import pack
from jaxbp.verify.trial import Trial

NAME = "zero"


def check(trial: Trial, call: PlainCall) -> Outcome:
    """Zero in, zero out, wherever the plain call is finite."""
    outcome = Outcome()
    zeros, first = pack(call.pull(np.zeros_like(call.c))), call.first
    for leaf in trial.subject.leaves:
        answer = zeros[leaf.part]
        if not answer.any() or not np.all(np.isfinite(first[leaf.part])):
            continue
        largest = int(np.argmax(np.abs(np.nan_to_num(answer, nan=np.inf))))
        place = Place.of(leaf, largest, zeros, np.zeros_like(zeros), 0.0)
        message = "a zero cotangent must give a zero cotangent; something is added to it"
        outcome.found(finding(NAME, "nonlinear", message, argument=leaf.name, at=place))
    if not outcome.findings:
        outcome.row(NAME, True, "zero in, zero out")
    return outcome
