"""A network of another framework, as a loss of parameters, state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Case(NamedTuple):
    """A network and what it is trained on."""

    loss: Callable[..., Any]  # (params, state, x, labels) -> (scalar, new state)
    params: Any
    state: Any
    x: np.ndarray
    labels: np.ndarray


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Random inputs of this shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(*shape: int, classes: int = 10) -> np.ndarray:
    """Random labels of this shape."""
    return np.random.default_rng(1).integers(0, classes, shape).astype(np.int32)


def mean_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean cross-entropy over all axes but the last."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))
