"""The plain function taken apart, for all who ask what a backward with one mistake would answer.

Each tool is made when it is asked for, kept with the trial, and None where a program cannot be run
step by step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxbp.verify.compare.sample import Vjp
from jaxbp.verify.diagnose.altered_backward import Backward
from jaxbp.verify.diagnose.altered_forward import Altered
from jaxbp.verify.diagnose.parts import Parts
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import Pullback
from jaxbp.verify.subject.vectors import LeafFunction, Vector
from jaxbp.verify.trial import Trial

Made = TypeVar("Made")


class Integers(NamedTuple):
    """An array argument that is not differentiated: indices, lengths, labels."""

    name: str
    value: np.ndarray
    displaced: Callable[[int], Vjp]
    """The truth with all of it that much larger."""


class Apart(NamedTuple):
    """What a function can be taken apart with."""

    parts: Callable[[], Parts | None] = lambda: None
    """Its derivative, with a gate on every path."""
    altered: Callable[[], Altered | None] = lambda: None
    """Itself, with any one of its steps changed."""
    backward: Callable[[], Backward | None] = lambda: None
    """Its backward, with any one value replaced."""


def taken_apart(trial: Trial) -> Apart:
    """The plain function of a trial."""

    def tool(
        kind: Callable[[Subject, LeafFunction, Pullback], Made],
        unchanged: Callable[[Made, Vector, Vector], Vector],
    ) -> Callable[[], Made | None]:
        return lambda: trial.remember(kind, lambda: _made(trial, kind, unchanged))

    parts = tool(Parts, lambda made, x, c: made.answer(x, c, made.whole()))
    altered = tool(Altered, lambda made, x, c: made.answer(x, c, -1))
    backward = tool(Backward, lambda made, x, c: made.answer(x, c))
    return Apart(parts, altered, backward)


def _made(
    trial: Trial,
    kind: Callable[[Subject, LeafFunction, Pullback], Made],
    unchanged: Callable[[Made, Vector, Vector], Vector],
) -> Made | None:
    """The tool; None where with nothing changed it does not give the function's VJP."""
    fn, pullback = (
        (trial.plain_fn, trial.plain) if trial.has_rule else (trial.truth_fn, trial.truth)
    )
    x, c = trial.subject.x, np.ones(trial.output_size)
    try:
        made = kind(trial.subject, fn, pullback)
        answer, truth = unchanged(made, x, c), pullback(x, c)
    except Exception:  # a primitive that cannot be bound anew: then without this
        return None
    return made if np.allclose(answer, truth, 1e-6, equal_nan=True) else None


def integers(trial: Trial) -> list[Integers]:
    """The integer arguments, and the truth with each of them displaced."""
    subject = trial.subject
    names = [subject.argument_names[a] for a in subject.other_arguments]

    def displaced(number: int, by: int) -> Vjp:
        def vjp(x: Vector, c: Vector) -> Vector:
            others: list[Any] = subject.others
            try:
                subject.others = [*others]
                subject.others[number] = others[number] + np.asarray(by, others[number].dtype)
                return trial.truth(x, c)
            finally:
                subject.others = others

        return vjp

    return [
        Integers(names[k], np.asarray(v), functools.partial(displaced, k))
        for k, v in enumerate(subject.others)
        if jnp.issubdtype(v.dtype, jnp.signedinteger)  # unsigned ones are keys and masks
    ]
