"""Haiku: its pooling functions by the rules."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxbp.accelerate import accelerate
from jaxbp.interop import require

__all__ = ["avg_pool", "max_pool"]


def max_pool(
    value: jax.Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str,
    channel_axis: int | None = -1,
) -> jax.Array:
    """Take the largest value of each window, as `haiku.max_pool` does, by the rules.

    Source: (4.3); backward (4.4)

    Args:
      value, and the options: as `haiku.max_pool` takes them.

    Returns:
      What `haiku.max_pool` returns.

    Raises:
      ImportError: if Haiku is not installed. Whatever `haiku.max_pool` raises.

    See also: `jaxbp.max_pool`.
    """
    haiku = require("haiku", "dm-haiku")
    pool = accelerate(haiku.max_pool)
    result: jax.Array = pool(value, window_shape, strides, padding, channel_axis)
    return result


def avg_pool(
    value: jax.Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str,
    channel_axis: int | None = -1,
) -> jax.Array:
    """Take the mean of each window, as `haiku.avg_pool` does, by the rules.

    Source: (4.1); backward (4.2)

    Args:
      value, and the options: as `haiku.avg_pool` takes them.

    Returns:
      What `haiku.avg_pool` returns.

    Raises:
      ImportError: if Haiku is not installed. Whatever `haiku.avg_pool` raises.

    See also: `jaxbp.avg_pool`.
    """
    haiku = require("haiku", "dm-haiku")
    pool = accelerate(haiku.avg_pool)
    result: jax.Array = pool(value, window_shape, strides, padding, channel_axis)
    return result
