"""The guard of strategies that multiply by more numbers than the sum has: finite numbers only.

Zeros, and terms that cancel, leave a finite sum as it is; an infinity or a NaN times them is NaN,
and so is what overflows on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from jaxbp.arguments import sum_dtype


def if_finite(
    quick: Callable[..., jax.Array],
    plain: Callable[..., jax.Array],
    *arrays: jax.Array,
    factor: jax.Array | None = None,
    growth: float = 1,
) -> jax.Array:
    """quick(*arrays) if nothing in it can be infinite or NaN, plain(*arrays) if something may be.

    Args:
      quick, plain: two ways to the same sum.
      arrays: what they read.
      factor: the `largest` of what they multiply it by and is no argument of theirs.
      growth: how many times the product of all these the largest number can be on the way.
    """
    sizes = [largest(a) for a in arrays]
    if factor is not None:
        sizes.append(factor)
    bounds = jnp.stack([functools.reduce(lax.mul, sizes), *sizes])
    return lax.cond(jnp.isfinite(bounds * growth).all(), quick, plain, *arrays)


def largest(a: jax.Array) -> jax.Array:
    """The largest of |a|, in the dtype of its sums; NaN if there is one, and 0 of no numbers."""
    return _largest(lax.stop_gradient(a))


@custom_vmap
def _largest(a: jax.Array) -> jax.Array:
    # By their bits, of which those of NaN are the largest: XLA's maximum of floats loses a NaN on
    # a CPU.
    unsigned = np.dtype(f"uint{8 * a.dtype.itemsize}")
    bits = jnp.max(lax.bitcast_convert_type(jnp.abs(a), unsigned), initial=0)
    return lax.bitcast_convert_type(bits, a.dtype).astype(sum_dtype(a.dtype))


# One answer for a whole batch, so that under vmap a choice stays a choice.
@_largest.def_vmap
def _(axis_size: int, in_batched: list[bool], a: jax.Array) -> tuple[jax.Array, bool]:
    return _largest(a), False
