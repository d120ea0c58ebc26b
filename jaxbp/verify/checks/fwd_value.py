"""Has the function the same value while it is differentiated as in a plain call?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall
from jaxbp.verify.compare.sample import SPREADS, TRIALS, Place, Sample, compare
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.pullback import Pullback, vjp_of
from jaxbp.verify.subject.vectors import LeafFunction, Vector, eps_of, laid_out, pack
from jaxbp.verify.trial import Trial

NAME = "fwd-value"
ROUNDINGS = 64
"""So many rounding units may the two be apart, which are the same steps in the same dtype."""
ELSEWHERE = (0.0, 0.1, 0.3)
"""How far away integer outputs are compared."""


class _Asked(NamedTuple):
    """Both values, and the functions that gave them."""

    sides: tuple[Pullback, ...]
    sample: Sample


def check(trial: Trial, call: PlainCall, rng: np.random.Generator) -> Outcome:
    """Values under `jax.vjp` against those of the plain call: as given, and in float64."""
    outcome = Outcome()
    if not trial.has_rule:
        return outcome
    leaves = trial.output_leaves
    for sides, sample in _both_ways(trial, call, rng):
        wrong = [
            leaf
            for leaf in leaves
            if sample.wrong(leaf).any()
            and trial.excuse(sample, leaf, rng, _value_of, sides=sides) is None
        ]
        if wrong:
            count = sum(int(sample.wrong(leaf).sum()) for leaf in wrong)
            message = (
                "under differentiation the function returns another value than in a plain call "
                f"({count} of {trial.output_size} entries, output of shape "
                f"{list(wrong[0].shape)}, {sample.label})"
            )
            at = sample.worst(wrong[0])
            outcome.found(finding(NAME, "fwd-value", message, side="forward", at=at))
            return outcome
    _other_outputs(trial, rng, outcome)
    if not outcome.findings:
        outcome.row(NAME, True, "fwd returns the plain call's value")
    return outcome


def _both_ways(trial: Trial, call: PlainCall, rng: np.random.Generator) -> list[_Asked]:
    x, nothing = trial.subject.x, np.zeros(trial.output_size)
    plain, value = pack(call.plain), pack(call.value)
    eps = max([eps_of(v.dtype) for v in call.plain], default=0.0)
    apart = room_for(trial, plain, eps, rng, ROUNDINGS)
    asked = [_Asked((trial.given,), Sample(x, nothing, value, plain, apart, "as given"))]
    if trial.rule.wide and trial.plain.wide:
        wide = compare(
            lambda x, c: pack(trial.rule.raw(x, c)[0]),
            lambda x, _c: trial.plain.value(x),
            x,
            nothing,
            trial.output_leaves,
            trial.eps,
            rng,
            "in float64",
        )
        asked.append(_Asked((trial.rule, trial.plain), wide))
    return asked


def _value_of(fn: LeafFunction) -> Callable[..., Any]:
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[0]


def _other_outputs(trial: Trial, rng: np.random.Generator, outcome: Outcome) -> None:
    """Whether integer outputs too are those of the plain call.

    One that rounding tips over differs at one point; the output of another formula at more.
    """
    subject = trial.subject

    def outputs(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(subject.call(subject.fn, list(leaves), subject.others))

    apart: list[tuple[Any, Any]] = []
    for spread in ELSEWHERE:
        x = trial.rounded(inputs.another_point(subject, rng, spread)) if spread else subject.x
        leaves = [jnp.asarray(v) for v in subject.cast(x)]
        try:
            pairs = zip(outputs(*leaves), jax.vjp(outputs, *leaves)[0], strict=True)
            apart += [pair for pair in pairs if _are_integers_apart(*pair)]
        except Exception:  # a point that the function does not take
            continue
    if len(apart) < 2:
        return
    plain, value = (np.asarray(v) for v in apart[0])
    (leaf,) = laid_out([plain])
    place = int(np.argmax(plain != value))
    at = Place.of(leaf, place, value.reshape(-1), plain.reshape(-1), 0.0)
    message = (
        f"under differentiation an output of dtype {plain.dtype} is another than in a plain call"
    )
    outcome.found(finding(NAME, "fwd-value", message, side="forward", at=at))


def _are_integers_apart(plain: Any, value: Any) -> bool:
    dtype = jnp.result_type(plain)
    no_integers = jnp.issubdtype(dtype, jnp.inexact) or jax.dtypes.issubdtype(
        dtype, jax.dtypes.extended
    )
    return not no_integers and not np.array_equal(plain, value)


def room_for(
    trial: Trial, value: Vector, eps: float, rng: np.random.Generator, roundings: float
) -> Vector:
    """How far a value may be from this one: what last bits do to it, and a few roundings."""
    size = np.nan_to_num(np.abs(value), posinf=0.0)
    tolerance = SPREADS * _spread(trial, eps, rng) + roundings * eps * size
    for leaf in trial.output_leaves:
        tolerance[leaf.part] += 16 * eps * size[leaf.part].max(initial=0.0)
    return tolerance


def _spread(trial: Trial, eps: float, rng: np.random.Generator) -> Vector:
    """How much the value moves when the arguments change in their last bits."""
    x = trial.subject.x
    here = trial.given.value(x)
    moved = np.zeros_like(here, dtype=float)
    for _ in range(TRIALS):
        there = trial.given.value(inputs.last_bits(x, rng, 4 * eps))
        with np.errstate(invalid="ignore"):
            moved = np.fmax(moved, np.abs(there - here))
    return np.nan_to_num(moved, posinf=0.0)
