"""A Flax linen module as a case, with whatever state it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax

from others.case import Case, drawn, mean_cross_entropy


def case(
    model: nn.Module, x: Any, targets: Any, cost: Callable[..., Any] = mean_cross_entropy
) -> Case:
    """Train `model` on `cost(model(x), targets)`; batch norm's averages are the state."""
    state, params = flax.core.pop(drawn(jax.eval_shape(model.init, jax.random.key(0), x)), "params")
    kept = list(state)

    def loss(params: Any, state: Any, x: Any, targets: Any) -> tuple[jax.Array, Any]:
        y, state = model.apply({"params": params, **state}, x, mutable=kept)
        return cost(y, targets), state

    return Case(loss, params, state, x, targets)
