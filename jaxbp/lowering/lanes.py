"""Convolutions of few channels with the examples innermost, where they fill the vector lanes.

A convolution of one channel has no long sum to share among the lanes of a vector unit, and a few
features fill them badly. The examples do: with x[C, *S, N], each cell of the kernel is one number
times whole vectors.
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


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return can(x, dy, window, groups)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return can(dy, w, window, groups) and 0 not in input_shape


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O], the sum (3.5)."""
    wide = sum_dtype(x.dtype)
    o = w.shape[-1]
    kernel = w.astype(wide).reshape(-1, o)
    y = kernel.T @ _columns(x.astype(wide), window)
    y = y.reshape(o, *window.output(x.shape[1:-1]), x.shape[0])
    return _turn(y).astype(x.dtype)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O], the sum (3.6)."""
    wide = sum_dtype(x.dtype)
    c, o = x.shape[-1], dy.shape[-1]
    flat = _turn(dy.astype(wide)).reshape(o, -1)
    dw = _columns(x.astype(wide), window) @ flat.T
    return dw.reshape(*window.size, c, o).astype(x.dtype)


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


def _columns(x: jax.Array, window: Window) -> jax.Array:
    """[|K|·C, S_out·N]: for each cell and channel its value in every window."""
    turned = _turn(x)
    cells = slices(pad(turned, window, 0), window, turned.shape)
    return jnp.stack(list(cells)).reshape(window.cells * x.shape[-1], -1)


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
