"""Max pooling one axis after the other, in a loop: for windows too large to write out.

The largest of a box is the largest of its rows' largest, and the first of them in row-major order
is the first row's first: a window of a·b cells takes a + b steps.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import vary_alike
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.pooling.cells import beats, not_in_padding, winner_dtype
from jaxbp.lowering.slices import UNROLLED, pad
from jaxbp.window import Window, dilated


def max_pool(x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """y[N, *S_out, C] and each window's winner, as `cells.max_pool`."""
    y = pad(x, window, -np.inf)
    winner = jnp.zeros(y.shape, np.int32)
    windows = window.output(x.shape[1:-1])
    for axis in reversed(range(len(windows))):
        y, winner = _along(y, winner, axis, windows[axis], window)
    winner = winner.astype(winner_dtype(window))
    return y, not_in_padding(y, winner, window, x.shape)


def _along(
    y: jax.Array, winner: jax.Array, axis: int, windows: int, window: Window
) -> tuple[jax.Array, jax.Array]:
    stride, dilation = window.stride[axis], window.dilation[axis]
    inner = math.prod(window.size[axis + 1 :])
    reach = dilated(windows, stride)

    def cell(m: jax.Array) -> tuple[jax.Array, jax.Array]:
        y_m, winner_m = (
            lax.slice_in_dim(
                lax.dynamic_slice_in_dim(a, m * dilation, reach, 1 + axis),
                0,
                reach,
                stride,
                1 + axis,
            )
            for a in (y, winner)
        )
        return y_m, winner_m + m * inner

    def step(best: tuple[jax.Array, jax.Array], m: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        (old, old_winner), (new, new_winner) = best, cell(m)
        better = beats(new, old)
        return (jnp.where(better, new, old), jnp.where(better, new_winner, old_winner)), None

    first = vary_alike(*cell(jnp.asarray(0, np.int32)), y)[:2]
    return lax.scan(step, first, jnp.arange(1, window.size[axis], dtype=np.int32))[0]


def _wins(x: jax.Array, window: Window) -> bool:
    return window.cells > UNROLLED


ROWS = {"max_pool": Row("axes", max_pool, always, _wins, any_size=True)}
