"""The rule called as the user calls it, nothing compiled, nothing cast."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbp.verify.subject.vectors import Vector, pack
from jaxbp.verify.trial import Trial


class PlainCall(NamedTuple):
    """One call, and its derivative for one cotangent."""

    c: Vector
    plain: list[Any]
    """The value with nothing differentiated."""
    value: list[Any]
    """The value under `jax.vjp`."""
    pull: Callable[[Vector], list[Any]]
    cotangents: list[Any]

    @property
    def first(self) -> Vector:
        """The cotangents as one vector."""
        return pack(self.cotangents)


def plain_call(trial: Trial, rng: np.random.Generator) -> PlainCall | Exception:
    """Call the rule; what its derivative raises is an answer too."""
    c = trial.cotangent(rng)
    plain = plain_value(trial)
    try:
        value, pull = trial.given.eager(trial.subject.x)
        return PlainCall(c, plain, value, pull, pull(c))
    except Exception as error:  # anybody's code runs here
        return error


def plain_value(trial: Trial) -> list[Any]:
    """The value at the given arguments."""
    leaves = [jnp.asarray(v) for v in trial.subject.cast(trial.subject.x)]
    return trial.given.fn(leaves, trial.subject.others)
