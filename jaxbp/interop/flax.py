"""Flax: linen's pooling by the rules, and `accelerate` for functions that change NNX modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax

from jaxbp.accelerate import accelerate as accelerate_pure
from jaxbp.interop import require
from jaxbp.interop.lax import conv_general_dilated
from jaxbp.jaxprs import nnx_objects

__all__ = ["accelerate", "avg_pool", "conv_general_dilated", "max_pool"]

P = ParamSpec("P")
R = TypeVar("R")
_TAG = "jaxbp"  # of the contexts in which NNX knows a module outside of a trace from its copy
Padding = str | Sequence[tuple[int, int]]


def max_pool(
    inputs: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """Take the largest value of each window, as `flax.linen.max_pool` does, by the rules.

    Source: (4.3); backward (4.4)

    Args:
      inputs, and the options: as `flax.linen.max_pool` takes them; strides are 1 by default.

    Returns:
      What `flax.linen.max_pool` returns.

    Raises:
      ImportError: if Flax is not installed. Whatever `flax.linen.max_pool` raises.

    See also: `jaxbp.max_pool`.
    """
    linen = require("flax.linen", "flax")
    result: jax.Array = accelerate_pure(linen.max_pool)(inputs, window_shape, strides, padding)
    return result


def avg_pool(
    inputs: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Take the mean of each window, as `flax.linen.avg_pool` does, by the rules.

    Source: (4.1); backward (4.2)

    Args:
      inputs, and the options: as `flax.linen.avg_pool` takes them; strides are 1 by default.

    Returns:
      What `flax.linen.avg_pool` returns.

    Raises:
      ImportError: if Flax is not installed. Whatever `flax.linen.avg_pool` raises.

    See also: `jaxbp.avg_pool`.
    """
    linen = require("flax.linen", "flax")
    pool = accelerate_pure(linen.avg_pool)
    result: jax.Array = pool(inputs, window_shape, strides, padding, count_include_pad)
    return result


def accelerate(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `jaxbp.accelerate(fn)` for a function that changes the NNX modules it is given.

    NNX modules keep state in place (batch norm's averages, counts of random numbers), and JAX lets
    nobody change an object inside a trace that was made outside. So the modules are split before,
    merged inside, and updated after.

    Args:
      fn: a function of NNX modules and arrays, a loss for `nnx.value_and_grad` for example.

    Returns:
      A function of the same arguments, which leaves the modules as `fn` would.

    Raises:
      ImportError: if Flax is not installed.

    See also: `jaxbp.accelerate`.
    """
    nnx = require("flax.nnx", "flax")

    @functools.wraps(fn)
    @nnx.update_context(_TAG)
    def accelerated(*args: P.args, **kwargs: P.kwargs) -> R:
        if not nnx_objects((args, kwargs)):  # the functional API: all state comes and goes
            return accelerate_pure(fn)(*args, **kwargs)
        with nnx.split_context(_TAG) as context:
            graph, state = context.split((args, kwargs))

        def pure(state: Any) -> Any:
            with nnx.merge_context(_TAG, inner=True) as context:
                inner_args, inner_kwargs = inner = context.merge(graph, state)
            result = fn(*inner_args, **inner_kwargs)
            with nnx.split_context(_TAG) as context:
                return context.split((inner, result))

        new_graph, new_state = accelerate_pure(pure)(state)
        with nnx.merge_context(_TAG, inner=False) as context:
            _, result = context.merge(new_graph, new_state)
        return result

    return accelerated
