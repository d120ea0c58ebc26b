"""The function's value against the explicit reference's."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxbp.verify.checks.outcome import Outcome
from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.sample import Vjp, compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject.subject import Leaf, LeafFunction, Vector
from jaxbp.verify.trial import Trial


def check(trial: Trial, rng: np.random.Generator) -> Outcome:
    """The same output shapes, and the same values up to rounding, in float64 where that works."""
    outcome = Outcome()
    mine, theirs = trial.plain.outputs(), trial.truth.outputs()
    if [out.shape for out in mine] != [out.shape for out in theirs]:
        outcome.found(
            Finding(
                "value",
                None,
                "value",
                f"the function gives {_shapes(mine)}, the reference {_shapes(theirs)}",
                "forward",
            )
        )
        return outcome
    x = trial.subject.x
    whole = [Leaf("", 0, (trial.output_size,), np.dtype(float), 0, trial.output_size)]
    eps = max(trial.eps_plain, trial.eps_truth)

    def values(pullback: object) -> Vjp:
        return lambda x, _c: pullback.value(x)  # type: ignore[attr-defined]

    nothing: Vector = np.zeros(trial.output_size)
    sample = compare(values(trial.plain), values(trial.truth), x, nothing, whole, eps, rng, "value")
    wrong = sample.wrong(whole[0])
    how = None
    if wrong.any():
        sides = (trial.plain, trial.truth)
        how = trial.excuse(sample, whole[0], rng, _value_of, sides=sides)
    if how == "constants":
        outcome.notes.append(rounding.narrow_constants("the value"))
    if not wrong.any() or how is not None:
        outcome.row("value", True, "equals the reference's")
        return outcome
    place = int(np.argmax(sample.excess()))
    outcome.found(
        Finding(
            "value",
            None,
            "value",
            f"the forward value differs from the reference's ({int(wrong.sum())} of {wrong.size} "
            "entries); gradients are compared with the function's own plain forward instead",
            "forward",
            trial.output_index(place),
            float(sample.got[place].real),
            float(sample.expected[place].real),
            float(sample.tolerance[place]),
        )
    )
    return outcome


def _value_of(fn: LeafFunction) -> Callable[..., Any]:
    return lambda leaves, others, _cotangents: fn(leaves, others)


def _shapes(outputs: list[jax.ShapeDtypeStruct]) -> str:
    return ", ".join(f"{out.dtype}{list(out.shape)}" for out in outputs)
