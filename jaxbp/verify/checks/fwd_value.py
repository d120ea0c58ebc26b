"""The value that a function has while it is differentiated, against that of a plain call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.sample import SPREADS, TRIALS, Sample, compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.subject import LeafFunction, Pullback, Vector, pack, vjp_of
from jaxbp.verify.trial import Trial


def check(
    trial: Trial,
    plain: list[Any],
    value: list[Any],
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    """Values under `jax.vjp` against those of the plain call: as given, and in float64."""
    if not trial.has_rule:
        return
    x, nothing = trial.subject.x, np.zeros(trial.output_size)
    a, b = pack(plain), pack(value)
    eps = max([float(jnp.finfo(v.dtype).eps) for v in plain], default=0.0)
    apart = room(trial, a, x, eps, rng, 64)
    asked: list[tuple[tuple[Pullback, ...], Sample]]
    asked = [((trial.given,), Sample(x, nothing, b, a, apart, "as given"))]
    leaves = trial.output_leaves
    if trial.wide and trial.plain.wide:
        wide = compare(
            lambda x, c: pack(trial.rule.raw(x, c)[0]),
            lambda x, _c: trial.plain.value(x),
            x,
            nothing,
            leaves,
            trial.eps,
            rng,
            "in float64",
        )
        asked.append(((trial.rule, trial.plain), wide))
    for sides, sample in asked:
        wrong = [
            leaf
            for leaf in leaves
            if sample.wrong(leaf).any()
            and trial.excuse(sample, leaf, rng, _value_of, sides=sides) is None
        ]
        if not wrong:
            continue
        count = sum(int(sample.wrong(leaf).sum()) for leaf in wrong)
        outcome.found(
            Finding(
                "fwd-value",
                None,
                "fwd-value",
                "under differentiation the function returns another value than in a plain call "
                f"({count} of {a.size} entries, output of shape {list(wrong[0].shape)}, "
                f"{sample.label})",
                "forward",
                **numbers(sample, wrong[0]),  # type: ignore[arg-type]
            )
        )
        return
    if _other_outputs_alike(trial, rng, outcome):
        outcome.row("fwd-value", True, "fwd returns the plain call's value")


def _value_of(fn: LeafFunction) -> Callable[..., Any]:
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[0]


def _other_outputs_alike(trial: Trial, rng: np.random.Generator, outcome: Outcome) -> bool:
    """Whether integer outputs too are those of the plain call.

    One that rounding tips over differs at one point; the output of another formula at more.
    """
    subject = trial.subject

    def outputs(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(subject.call(subject.fn, list(leaves), subject.others))

    apart: list[tuple[Any, Any]] = []
    for spread in (0.0, 0.1, 0.3):
        x = trial.rounded(inputs.another_point(subject, rng, spread)) if spread else subject.x
        leaves = [jnp.asarray(v) for v in subject.cast(x)]
        try:
            pairs = zip(outputs(*leaves), jax.vjp(outputs, *leaves)[0], strict=True)
            apart += [
                (plain, value)
                for plain, value in pairs
                if not jnp.issubdtype(jnp.result_type(plain), jnp.inexact)
                and not jax.dtypes.issubdtype(jnp.result_type(plain), jax.dtypes.extended)
                and not np.array_equal(plain, value)
            ]
        except Exception:  # a point that the function does not take
            continue
    if len(apart) < 2:
        return True
    plain, value = (np.asarray(v) for v in apart[0])
    place = int(np.argmax(plain != value))
    outcome.found(
        Finding(
            "fwd-value",
            None,
            "fwd-value",
            f"under differentiation an output of dtype {plain.dtype} is another than in a plain "
            "call",
            "forward",
            tuple(int(i) for i in np.unravel_index(place, plain.shape)),
            float(value.flat[place]),
            float(plain.flat[place]),
            0.0,
        )
    )
    return False


def room(
    trial: Trial, value: Vector, x: Vector, eps: float, rng: np.random.Generator, roundings: int
) -> Vector:
    """How far a value may be from this one: what last bits do to it, and a few roundings."""
    size = np.nan_to_num(np.abs(value), posinf=0.0)
    tolerance = SPREADS * _spread(trial, x, eps, rng) + roundings * eps * size
    for leaf in trial.output_leaves:
        tolerance[leaf.part] += 16 * eps * size[leaf.part].max(initial=0.0)
    return tolerance


def _spread(trial: Trial, x: Vector, eps: float, rng: np.random.Generator) -> Vector:
    """How much the value moves when the arguments change in their last bits."""
    here = trial.given.value(x)
    moved = np.zeros_like(here, dtype=float)
    for _ in range(TRIALS):
        with np.errstate(invalid="ignore"):
            moved = np.fmax(
                moved, np.abs(trial.given.value(inputs.last_bits(x, rng, 4 * eps)) - here)
            )
    return np.nan_to_num(moved, posinf=0.0)
