"""The kernel's gradient as one matrix product with columns, a few examples at a time.

A column matrix holds, for each cell of the kernel and each channel, that cell's value in every
window: dw[|K|·C, O] = columns[|K|·C, windows] dy[windows, O]. The long axis lies last, as a matrix
product reads it fastest, and only as many examples are laid out at once as the cache holds; fresh
memory for all of them would cost more than the product.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import sum_dtype
from jaxbp.lowering.pieces import sum_pieces
from jaxbp.lowering.slices import pad, slices
from jaxbp.window import Window

# Bytes of columns to lay out at a time: the share of the last cache that is worth it.
PIECE = 2 << 20


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """One group, and something to sum."""
    return groups == 1 and 0 not in (*x.shape, *dy.shape)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    wide = sum_dtype(x.dtype)
    c, o = x.shape[-1], dy.shape[-1]
    columns_of_one = window.cells * c * dy[0, ..., 0].size * np.dtype(wide).itemsize

    def piece(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _columns(x.astype(wide), window) @ dy.astype(wide).reshape(-1, o)

    dw: jax.Array = sum_pieces(piece, max(1, PIECE // columns_of_one), x, dy)
    return dw.reshape(*window.size, c, o).astype(x.dtype)


def _columns(x: jax.Array, window: Window) -> jax.Array:
    """[|K|·C, N·S_out]: the slice of each cell, channels before examples."""
    n, *spatial, c = x.shape
    x = jnp.moveaxis(x, -1, 0).reshape(c * n, *spatial, 1)
    # The barrier has the transposed copy made once, not read across in every slice.
    x = lax.optimization_barrier(pad(x, window, 0))
    cells = list(slices(x, window, (c * n, *spatial, 1)))
    return jnp.stack(cells).reshape(window.cells * c, -1)
