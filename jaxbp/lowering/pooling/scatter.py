"""The adjoint of max pooling as one scattered addition: for large windows that overlap much."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.arguments import Shape, sum_dtype, vary_alike
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.pooling.tiles import overlaps
from jaxbp.lowering.slices import UNROLLED
from jaxbp.window import Window


def max_pool_grad(
    dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window
) -> jax.Array:
    """dx[N, *S, C]: each window's dy is added at its winner's place (4.4)."""
    n, *windows, c = dy.shape
    wide = dy.astype(sum_dtype(dy.dtype))
    cell = winner.astype(np.int32)
    places: list[jax.Array] = []
    for axis in reversed(range(len(windows))):
        stride, dilation, low = window.stride[axis], window.dilation[axis], window.low[axis]
        along = [1] * winner.ndim
        along[1 + axis] = -1
        first = (jnp.arange(windows[axis], dtype=np.int32) * stride - low).reshape(along)
        place = first + dilation * (cell % window.size[axis])
        cell = cell // window.size[axis]
        # A place before the input would count from its end; put it beyond, where it is dropped.
        places.insert(0, jnp.where(place < 0, input_shape[1 + axis], place))
    example = jnp.arange(n, dtype=np.int32).reshape(-1, *(1 for _ in windows), 1)
    channel = jnp.arange(c, dtype=np.int32)
    (dx,) = vary_alike(jnp.zeros(input_shape, wide.dtype), wide)[:1]
    return dx.at[example, *places, channel].add(wide, mode="drop").astype(dy.dtype)


def _wins(dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window) -> bool:
    return overlaps(window) > UNROLLED


ROWS = {"max_pool_grad": Row("scatter", max_pool_grad, always, _wins, any_size=True)}
