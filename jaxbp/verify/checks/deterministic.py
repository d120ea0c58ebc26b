"""Does the rule answer the same twice, also after another call?"""

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall, plain_value
from jaxbp.verify.compare.sample import Place
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Vector, pack
from jaxbp.verify.trial import Trial

NAME = "deterministic"
ELSEWHERE = 0.3
"""How far away the other call is, relative to the arguments."""


def check(trial: Trial, call: PlainCall, rng: np.random.Generator) -> Outcome:
    """The same answer from the same pullback after another call, and from a call made anew."""
    outcome = Outcome()
    elsewhere = trial.rounded(inputs.another_point(trial.subject, rng, ELSEWHERE))
    try:
        _, other = trial.given.eager(elsewhere)
        other(trial.cotangent(rng))
    except Exception:  # a value that the rule does not take: then there is nothing to be mixed up
        pass
    again = pack(call.pull(call.c))
    _, anew = trial.given.eager(trial.subject.x)
    for answer, how in (
        (again, "the same pullback, asked again after another call, answers differently"),
        (pack(anew(call.c)), "a second, equal call answers differently"),
    ):
        if not np.array_equal(answer, call.first, equal_nan=True):
            _differs(trial, answer, call.first, how, outcome)
            break
    else:
        outcome.row(NAME, True, "the same answer twice, and after another call")
    if not np.array_equal(pack(call.plain), pack(plain_value(trial)), equal_nan=True):
        message = (
            "a second, equal call gives another value: it depends on state outside its arguments"
        )
        outcome.found(finding(NAME, "nondeterministic", message, side="forward"))
    return outcome


def _differs(trial: Trial, answer: Vector, first: Vector, how: str, outcome: Outcome) -> None:
    bad = (answer != first) & ~(np.isnan(answer) & np.isnan(first))
    for leaf in trial.subject.leaves:
        if bad[leaf.part].any():
            message = how + ": it depends on state outside its arguments"
            place = Place.of(leaf, int(np.argmax(bad[leaf.part])), answer, first, 0.0)
            outcome.found(finding(NAME, "nondeterministic", message, argument=leaf.name, at=place))
