"""The guard of strategies that multiply by more numbers than the sum has: finite inputs only.

Zeros, and terms that cancel, leave a finite sum as it is; an infinity or a NaN times them is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap


def if_finite(
    quick: Callable[..., jax.Array], plain: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    """quick(*arrays) if every number in them is finite, plain(*arrays) if not."""
    finite = jnp.stack([_all_finite(lax.stop_gradient(a)) for a in arrays]).all()
    return lax.cond(finite, quick, plain, *arrays)


@custom_vmap
def _all_finite(a: jax.Array) -> jax.Array:
    # By their bits, of which those of infinity and NaN are the largest: XLA's maximum of floats
    # loses a NaN on a CPU.
    unsigned = np.dtype(f"uint{8 * a.dtype.itemsize}")
    bits = lax.bitcast_convert_type(jnp.abs(a), unsigned)
    return jnp.max(bits) < lax.bitcast_convert_type(jnp.array(jnp.inf, a.dtype), unsigned)


# One answer for a whole batch, so that under vmap a choice stays a choice.
@_all_finite.def_vmap
def _(axis_size: int, in_batched: list[bool], a: jax.Array) -> tuple[jax.Array, bool]:
    return _all_finite(a), False
