"""`jax.lax`'s convolution by the rules, with its signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxbp.accelerate import accelerate


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Convolve as `jax.lax.conv_general_dilated` does, differentiated by the rules.

    ``y_nio = Σ_cm x_{n, s·i + d·m − p, c} w_mco``, in whatever layout; what no rule can keep (a
    result of another dtype, complex numbers) stays lax's own. It fits
    `flax.linen.Conv(conv_general_dilated=…)` and `flax.nnx.Conv(conv_general_dilated=…)`.

    Source: (3.5); backward (3.6), (3.7)

    Args:
      lhs, rhs, and the options: as `jax.lax.conv_general_dilated` takes them.

    Returns:
      What `jax.lax.conv_general_dilated` returns.

    Raises:
      Whatever `jax.lax.conv_general_dilated` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.arange(9.0).reshape(1, 1, 3, 3), jnp.ones((1, 1, 2, 2))
      >>> conv_general_dilated(x, w, (1, 1), "VALID")[0, 0]
      Array([[ 8., 12.],
             [20., 24.]], dtype=float32)

    See also: `jaxbp.conv`, `jaxbp.accelerate`.
    """
    convolution = accelerate(lax.conv_general_dilated)
    return convolution(
        lhs,
        rhs,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
