"""A Flax linen module as a case, with whatever state it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np

from others.case import Case, mean_cross_entropy


def case(
    model: nn.Module, x: Any, targets: Any, cost: Callable[..., Any] = mean_cross_entropy
) -> Case:
    """Train `model` on `cost(model(x), targets)`; batch norm's averages are the state."""
    state, params = flax.core.pop(_variables(model, x), "params")
    kept = list(state)

    def loss(params: Any, state: Any, x: Any, targets: Any) -> tuple[jax.Array, Any]:
        y, state = model.apply({"params": params, **state}, x, mutable=kept)
        return cost(y, targets), state

    return Case(loss, params, state, x, targets)


def _variables(model: nn.Module, x: Any) -> Any:
    """Draw a module's variables: `jax.jit(model.init)` takes longer to compile than its step."""
    rng = np.random.default_rng(0)

    def draw(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("bias", "mean"):
            return np.zeros(shape.shape, np.float32)
        if name in ("scale", "var"):
            return np.ones(shape.shape, np.float32)
        scale = 1 / math.sqrt(math.prod(shape.shape[:-1]))
        return scale * rng.standard_normal(shape.shape, np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, shapes)
