"""A network of another framework, as a loss of parameters, state and a batch."""

from __future__ import annotations

import math
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


def drawn(shapes: Any) -> Any:
    """Return what a Flax model's `init` would: compiling that takes longer than compiling a step.

    Args:
        shapes: what `jax.eval_shape` makes of the model's variables.
    """
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)][-1]
        if name in ("bias", "mean"):
            return np.zeros(leaf.shape, np.float32)
        if name in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        deviation = 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(deviation)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def mean_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean cross-entropy over all axes but the last."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))
