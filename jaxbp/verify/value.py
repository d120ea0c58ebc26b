"""The function's value against the explicit reference's."""

import jax
import numpy as np

from jaxbp.verify import comparison
from jaxbp.verify.outcome import Outcome
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import Leaf, Vector
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

    def values(pullback: object) -> comparison.Vjp:
        return lambda x, _c: pullback.value(x)  # type: ignore[attr-defined]

    nothing: Vector = np.zeros(1)
    sample = comparison.compare(
        values(trial.plain), values(trial.truth), x, nothing, whole, eps, rng, "value"
    )
    wrong = sample.wrong(whole[0])
    if not wrong.any():
        outcome.row("value", True, "equals the reference's")
        return outcome
    place = int(np.argmax(sample.excess()))
    at = place
    index: tuple[int, ...] = ()
    for out in mine:
        size = int(np.prod(out.shape, dtype=int))
        if at < size:
            index = tuple(int(i) for i in np.unravel_index(at, out.shape))
            break
        at -= size
    outcome.found(
        Finding(
            "value",
            None,
            "value",
            f"the forward value differs from the reference's ({int(wrong.sum())} of {wrong.size} "
            "entries); gradients are compared with the function's own plain forward instead",
            "forward",
            index,
            float(sample.got[place].real),
            float(sample.expected[place].real),
            float(sample.tolerance[place]),
        )
    )
    return outcome


def _shapes(outputs: list[jax.ShapeDtypeStruct]) -> str:
    return ", ".join(f"{out.dtype}{list(out.shape)}" for out in outputs)
