"""Convolutions of few channels with the examples innermost, where they fill the vector lanes.

A convolution of few channels has no long sum to share among the lanes of a vector unit, and a few
features fill them badly. The examples do: in x[C, *S, N] all that a cell of the kernel meets lies
in whole vectors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.slices import add, pad, slices
from jaxbp.window import Window


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """One group, and something to sum."""
    return groups == 1 and 0 not in (*x.shape, *w.shape)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return can(dy, w, window, groups) and 0 not in input_shape


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O], the sum (3.5)."""
    wide = sum_dtype(x.dtype)
    c, o = w.shape[-2:]
    turned = _turn(x.astype(wide))
    # A product, though the sum is short: XLA would fuse a sum of slices into whatever reads it.
    cells = list(slices(pad(turned, window, 0), window, turned.shape))
    columns = jnp.stack(cells).reshape(window.cells * c, -1)
    y = w.astype(wide).reshape(-1, o).T @ columns
    return _turn(y.reshape(o, *window.output(x.shape[1:-1]), x.shape[0])).astype(x.dtype)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C], the sum (3.7): over features first, then over the kernel's axes in turn."""
    wide = sum_dtype(dy.dtype)
    c, o = w.shape[-2:]
    n, *windows, _ = dy.shape
    kernel = jnp.moveaxis(w.astype(wide), -2, 0).reshape(-1, o)
    shares = (kernel @ _turn(dy.astype(wide)).reshape(o, -1)).reshape(c, *window.size, *windows, n)

    def channel(dx: jax.Array) -> jax.Array:
        for axis, size in enumerate(input_shape[1:-1]):
            dx = _spread(dx, window, axis, size)
        return dx

    # A loop, so that XLA does not fuse these sums into what reads them, in another order.
    return _turn(lax.map(channel, shares)).astype(dy.dtype)


def _turn(a: jax.Array) -> jax.Array:
    """[N, *S, C] as [C, *S, N], and back."""
    return jnp.swapaxes(a, 0, -1)


def _spread(shares: jax.Array, window: Window, axis: int, size: int) -> jax.Array:
    """The shares [K, …] of a spatial axis's cells, each put in its place, summed over K."""
    along = len(window.size) - 1  # the axis in one cell's shares, behind the kernel axes left
    m, s = shares.shape[1 + along], window.stride[axis]
    reach = s * (m - 1) + 1 if m else 0
    zero = np.zeros((), shares.dtype)

    def put(cell: int) -> jax.Array:
        start = window.dilation[axis] * cell - window.low[axis]
        config = [(0, 0, 0)] * (shares.ndim - 1)
        config[along] = (start, size - start - reach, s - 1)
        return lax.pad(shares[cell], zero, config)

    return add(put(cell) for cell in range(window.size[axis]))
