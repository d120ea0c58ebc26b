"""Is the cotangent finite wherever value and autodiff are: for huge inputs, zeros among them?"""

from typing import NamedTuple

import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.sample import Place
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector
from jaxbp.verify.trial import Trial

NAME = "nan"
HUGE = 1e4
"""What activations reach, and exp does not take."""
DIFFERENCED = 16
"""So many entries that are finite nowhere are put before finite differences."""
SHARP = 1e-3
"""Relative: differences that are surer than this say that a slope is finite."""


class _Probe(NamedTuple):
    """Arguments to try."""

    label: str
    x: Vector
    given: bool


def check(trial: Trial, _: list[Vector], rng: np.random.Generator) -> Outcome:
    """A finite cotangent for each of the probes."""
    outcome = Outcome()
    truth = trial.truth_as_given()
    for probe in _probes(trial, rng):
        c = trial.cotangent(rng)
        if not np.all(np.isfinite(trial.given.value(probe.x))):
            continue
        if not np.all(np.isfinite(probe.x)):
            continue
        got, expected = trial.given(probe.x, c), truth(probe.x, c)
        if probe.given:
            expected = _differenced(trial, probe.x, c, got, expected, rng)
        for leaf in trial.subject.leaves:
            if leaf.name not in outcome.blamed:
                _judge(leaf, probe, got, expected, outcome)
    if not outcome.findings:
        detail = "finite where value and autodiff are"
        if outcome.notes:
            detail = "finite at the given arguments; " + "; ".join(outcome.notes)
        outcome.row(NAME, True, detail)
    return outcome


def _probes(trial: Trial, rng: np.random.Generator) -> list[_Probe]:
    huge = trial.rounded(inputs.enlarged(trial.subject, HUGE))
    zeros = trial.rounded(inputs.with_zeros(trial.subject, rng))
    return [
        _Probe("the given arguments", trial.subject.x, True),
        _Probe("arguments of size 1e4", huge, False),
        _Probe("some entries zero", zeros, False),
    ]


def _judge(leaf: Leaf, probe: _Probe, got: Vector, expected: Vector, outcome: Outcome) -> None:
    bad = ~np.isfinite(got[leaf.part]) & np.isfinite(expected[leaf.part])
    if not bad.any():
        return
    # An infinity for huge arguments may be the answer, overflown.
    if not probe.given and not np.isnan(got[leaf.part][bad]).any():
        outcome.note(
            f"at {probe.label} the cotangent of `{leaf.name}` is not finite where autodiff is"
        )
        return
    message = (
        f"at {probe.label} the cotangent is not finite ({int(bad.sum())} of {leaf.size} entries); "
        "the value is, and autodiff or finite differences are"
    )
    place = Place.of(leaf, int(np.argmax(bad)), got, expected)
    outcome.found(finding(NAME, "nan", message, argument=leaf.name, at=place))


def _differenced(
    trial: Trial, x: Vector, c: Vector, got: Vector, expected: Vector, rng: np.random.Generator
) -> Vector:
    """`expected`, with finite differences where neither rule nor autodiff is finite."""
    places = np.flatnonzero(~np.isfinite(got) & ~np.isfinite(expected))
    if not places.size or not trial.subject.is_real:
        return expected
    expected = expected.copy()
    differences = trial.differences(x, rng)
    for index in places[:DIFFERENCED]:
        slope = differences.entry(int(index))
        with np.errstate(invalid="ignore"):
            value = float(np.sum(c * slope.value).real)
            error = float(np.sum(np.abs(c) * slope.error))
        if np.isfinite(value) and error <= SHARP * max(abs(value), float(np.abs(c).max())):
            expected[index] = value
    return expected
