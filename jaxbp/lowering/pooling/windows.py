"""Sums over windows as XLA's windowed reduction: for windows too large to write out."""

from __future__ import annotations

import jax
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.slices import UNROLLED, dilate, pad
from jaxbp.window import Window


def sum_pool(x: jax.Array, window: Window) -> jax.Array:
    """y[N, *S_out, C]: the sum of each window's cells, in float32 at least."""
    x = pad(x.astype(sum_dtype(x.dtype)), window, 0)
    return _sum(x, window.size, window.stride, window.dilation)


def sum_pool_grad(dy: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: each place gets the sum of dy over the windows that it is in."""
    wide = dy.astype(sum_dtype(dy.dtype))
    wide = dilate(wide, input_shape, window)
    return _sum(wide, window.size, (1,) * len(window.size), window.dilation).astype(dy.dtype)


def _sum(x: jax.Array, size: Shape, stride: Shape, dilation: Shape) -> jax.Array:
    return lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        (1, *size, 1),
        (1, *stride, 1),
        "VALID",
        window_dilation=(1, *dilation, 1),
    )


def _wins(x: jax.Array, window: Window) -> bool:
    return window.cells > UNROLLED


ROWS = {
    "sum_pool": Row("windows", sum_pool, always, _wins, any_size=True),
    "sum_pool_grad": Row("windows", sum_pool_grad, always, always, any_size=True),
}
