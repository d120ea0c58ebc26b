"""Convolution and its adjoints as one matrix product with columns.

A column matrix holds, for each window, the value of each cell of the kernel and each channel:
y[windows, O] = columns[windows, |K|·C] w[|K|·C, O]. Backward, the product with wᵀ gives each cell's
share of dx, and the product with dy gives dw. The matrix is |K| times as large as the input, so
forward and dx pay where windows are few. For dw a few examples are laid out at a time, as many as
the cache holds: fresh memory for all of them would cost more than the product.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, is_float32
from jaxbp.lowering.pieces import sum_pieces
from jaxbp.lowering.slices import UNROLLED, pad, unslice
from jaxbp.window import Window

# Bytes of columns to hold at a time: the share of the last cache that is worth it. With more, a
# step's temporaries sooner pass the 32 MiB from which glibc maps, and faults in, fresh pages.
PIECE = 3 << 20
# How many sums a product is split into: one a core of two runs faster than both at one.
SUMS = 2


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """One group, and something to sum."""
    return groups == 1 and 0 not in (*x.shape, *w.shape, *window.output(x.shape[1:-1]))


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return can(x, dy, window, groups)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return groups == 1 and 0 not in (*dy.shape, *w.shape, *input_shape)


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C, O], the sum (3.5)."""
    wide = sum_dtype(x.dtype)
    columns = _columns(x.astype(wide), window)
    return (columns @ w.astype(wide).reshape(-1, w.shape[-1])).astype(x.dtype)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C, O], the sum (3.7)."""
    wide = sum_dtype(dy.dtype)
    c, o = w.shape[-2:]
    kernel = w.astype(wide).reshape(-1, o)
    shares = lax.dot_general(dy.astype(wide), kernel, (((dy.ndim - 1,), (1,)), ((), ())))
    shares = shares.reshape(*dy.shape[:-1], window.cells, c)
    cells = (shares[..., m, :] for m in range(window.cells))
    return unslice(cells, input_shape, window).astype(dy.dtype)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    wide = sum_dtype(x.dtype)
    c, o = x.shape[-1], dy.shape[-1]
    example = window.cells * c * dy[0, ..., 0].size * np.dtype(wide).itemsize

    def piece(x: jax.Array, dy: jax.Array) -> jax.Array:
        columns = _columns(x.astype(wide), window).reshape(-1, window.cells * c)
        dy = dy.astype(wide).reshape(-1, o)
        sums = math.gcd(SUMS, dy.shape[0])
        columns, dy = (a.reshape(sums, -1, a.shape[-1]) for a in (columns, dy))
        # The longer side last, which XLA's product on a CPU runs up to twice as fast.
        return jnp.sum(lax.dot_general(dy, columns, (((1,), (1,)), ((0,), (0,)))), axis=0)

    dw: jax.Array = sum_pieces(piece, max(1, PIECE // example), x, dy)
    return jnp.moveaxis(dw.reshape(o, *window.size, c), 0, -1).astype(x.dtype)


def _columns(x: jax.Array, window: Window) -> jax.Array:
    """[N, *S_out, |K|·C]: each window's cells side by side, in row-major order.

    Axis by axis, the last one first: XLA compiles a row of 7 slices and a column of 7 such rows in
    a third of the time that 49 slices take, and they run alike.
    """
    columns = pad(x, window, 0)
    for axis in reversed(range(len(window.size))):
        size, stride, dilation = window.size[axis], window.stride[axis], window.dilation[axis]
        reach = stride * (window.output(x.shape[1:-1])[axis] - 1) + 1
        cells = [
            lax.slice_in_dim(columns, m * dilation, m * dilation + reach, stride, 1 + axis)
            for m in range(size)
        ]
        columns = jnp.concatenate(cells, axis=-1)
    return columns


# The share of XLA's convolution that is not products is large where windows are few and channels
# many: 85 ms for 3×3 cells over 8×2×2×512, where the products take 2.
def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    windows = x.shape[0] * math.prod(window.output(x.shape[1:-1]))
    return (
        is_float32(x, w)
        and windows < min(w.shape[-2:])
        and min(w.shape[-2:]) >= 32
        and window.cells <= UNROLLED
    )


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return (
        is_float32(dy, w)
        and dy.size // dy.shape[-1] <= 2048
        and min(w.shape[-2:]) >= 32
        and window.cells <= UNROLLED
    )


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    # For few features the product is narrower than the vector lanes; below some millions of
    # multiplications the loop over pieces costs more than it saves. XLA lays out an image's columns
    # too, and is the quicker where they are many times as large as the image.
    work = dy.size * window.cells * x.shape[-1]
    large = len(window.size) == 2 and window.cells > 9 and window.cells * x.shape[-1] > 80
    return (
        is_float32(x, dy)
        and 2 <= window.cells <= UNROLLED
        and dy.shape[-1] >= 32
        and work >= 1 << 24
        and not large
        and not xla_pays(x, dy, window)
    )


def xla_pays(x: jax.Array, dy: jax.Array, window: Window) -> bool:
    """Whether XLA's kernel gradient runs at the speed of a product.

    It convolves with dy, the batch as channels. Those must fill the vector lanes, and dw both cores
    with blocks; a stride becomes a dilation of dy. Along one axis a few long sums do, too.
    """
    if len(window.size) == 1:
        return x.shape[0] <= dy.shape[1]
    entries = window.cells * x.shape[-1] * dy.shape[-1]
    return (
        len(window.size) == 2
        and set(window.stride) == {1}
        and x.shape[0] >= 8
        and entries > 1 << 15
    )


ROWS = {
    "conv": Row("columns", conv, can, _wins),
    "conv_input_grad": Row("columns", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("columns", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
