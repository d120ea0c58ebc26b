"""Does the function's value equal the explicit reference's?"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.rounding import Excuse
from jaxbp.verify.compare.sample import Place, Sample, compare
from jaxbp.verify.subject.pullback import Pullback
from jaxbp.verify.subject.vectors import Leaf, LeafFunction, Vector
from jaxbp.verify.trial import Trial

NAME = "value"


def check(trial: Trial, _: list[Vector], rng: np.random.Generator) -> Outcome:
    """The same output shapes, and the same values up to rounding, in float64 where that works."""
    outcome = Outcome()
    mine, theirs = trial.plain.outputs(), trial.truth.outputs()
    if [out.shape for out in mine] != [out.shape for out in theirs]:
        message = f"the function gives {_shapes(mine)}, the reference {_shapes(theirs)}"
        outcome.found(finding(NAME, "value", message, side="forward"))
        return outcome
    whole = whole_output(trial)
    sample = compare_values(trial.plain, trial.truth, trial, "value", rng)
    wrong = sample.wrong(whole)
    how = None
    if wrong.any():
        how = trial.excuse(sample, whole, rng, _value_of, sides=(trial.plain, trial.truth))
    if how is Excuse.CONSTANTS:
        outcome.note(rounding.narrow_constants("the value"))
    if not wrong.any() or how is not None:
        outcome.row(NAME, True, "equals the reference's")
        return outcome
    message = (
        f"the forward value differs from the reference's ({int(wrong.sum())} of {wrong.size} "
        "entries); gradients are compared with the function's own plain forward instead"
    )
    at = place_in_outputs(trial, int(np.argmax(sample.excess())), sample)
    outcome.found(finding(NAME, "value", message, side="forward", at=at))
    return outcome


def whole_output(trial: Trial) -> Leaf:
    """All outputs as one leaf, that of no argument in particular."""
    size = trial.output_size
    return Leaf("", 0, (size,), np.dtype(float), 0, size)


def compare_values(
    mine: Pullback, theirs: Pullback, trial: Trial, label: str, rng: np.random.Generator
) -> Sample:
    """The values of two functions at the given arguments."""
    nothing = np.zeros(trial.output_size)
    return compare(
        lambda x, _: mine.value(x),
        lambda x, _: theirs.value(x),
        trial.subject.x,
        nothing,
        [whole_output(trial)],
        max(mine.eps, theirs.eps),
        rng,
        label,
    )


def place_in_outputs(trial: Trial, place: int, sample: Sample) -> Place:
    """One entry of a vector of outputs, where it stands in its array."""
    leaf = next(leaf for leaf in trial.output_leaves if place < leaf.stop)
    return sample.at(leaf, place - leaf.start)


def _value_of(fn: LeafFunction) -> Callable[..., Any]:
    return lambda leaves, others, _cotangents: fn(leaves, others)


def _shapes(outputs: list[jax.ShapeDtypeStruct]) -> str:
    return ", ".join(f"{out.dtype}{list(out.shape)}" for out in outputs)
