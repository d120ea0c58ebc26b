"""Does the compiled rule answer as the plain call does?"""

import numpy as np

from jaxbp.verify.checks.fwd_value import room_for
from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall
from jaxbp.verify.checks.value import place_in_outputs
from jaxbp.verify.compare.sample import ROUNDINGS, Sample, compare
from jaxbp.verify.subject.vectors import eps_of, pack
from jaxbp.verify.trial import Trial

NAME = "jit"


def check(trial: Trial, call: PlainCall, rng: np.random.Generator) -> Outcome:
    """Cotangents and value, compiled and plain."""
    outcome = Outcome()
    if trial.given.interpreted:
        message = f"under jit the rule raises {trial.given.refused}"
        outcome.found(finding(NAME, "jit", message))
        return outcome
    leaves, x = trial.subject.leaves, trial.subject.x
    eps = max([eps_of(leaf.dtype) for leaf in leaves if leaf.size], default=0.0)
    eps = max([eps, *(eps_of(out.dtype) for out in trial.given.outputs())])
    # Compiled, a rule that is narrow inside may skip the rounding between two operations.
    inside, first = max(eps, trial.traced.eps), call.first
    sample = compare(trial.given, lambda _x, _c: first, x, call.c, leaves, inside, rng, NAME)
    for leaf in leaves:
        if sample.wrong(leaf).any() and (
            trial.excuse(sample, leaf, rng, sides=(trial.given,)) is None
        ):
            message = "under jit the cotangent differs from the plain call's"
            outcome.found(finding(NAME, "jit", message, argument=leaf.name, at=sample.worst(leaf)))
    plain, compiled = pack(call.plain), trial.given.value(x)
    room = room_for(trial, plain, eps, rng, ROUNDINGS)
    with np.errstate(invalid="ignore"):
        off = (np.abs(plain - compiled) > room) & np.isfinite(plain)
    if off.any():
        value = Sample(x, call.c, compiled, plain, room, NAME)
        at = place_in_outputs(trial, int(np.argmax(off)), value)
        message = "under jit the value differs from the plain call's"
        outcome.found(finding(NAME, "jit", message, side="forward", at=at))
    elif not outcome.findings:
        outcome.row(NAME, True, "as the plain call")
    return outcome
