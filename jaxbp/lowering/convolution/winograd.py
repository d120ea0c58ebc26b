"""Minimal filtering: 3-cell kernels without stride, with fewer multiplications than plain sums.

Along one axis two outputs y of a 3-cell kernel g need four inputs d and, in Winograd's F(2, 3),
four products instead of six: with

    v = (d₀ − d₂, d₁ + d₂, d₂ − d₁, d₁ − d₃),   u = (g₀, (g₀+g₁+g₂)/2, (g₀−g₁+g₂)/2, g₂)

it is y₀ = u₀v₀ + u₁v₁ + u₂v₂ and y₁ = u₁v₁ − u₂v₂ − u₃v₃. Axis by axis, an image of C channels
needs 16 products of matrices [tiles, C] [C, O] where the plain sum needs 36; the adjoints are the
same steps backwards. The transforms only add, so rounding errs about as much as in the plain sum:
0.7 times as much for 64 channels, 1.3 times for 256, 1.8 times for 512, and 0.7 to 0.9 times in a
kernel gradient (root mean square, of normally distributed float32 beside XLA's own on a CPU).

Two things differ. What is not finite would spread over its tile, so pieces that hold any such
number take the plain sum. And an output errs by the rounding of the largest term of its tile, not
of its window. (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, is_float32
from jaxbp.lowering.convolution import xla
from jaxbp.lowering.finite import if_finite, largest
from jaxbp.lowering.pieces import each_piece, sum_pieces
from jaxbp.lowering.slices import pad
from jaxbp.window import Window

# Bytes of transformed input to hold at a time: what the cores' own caches keep.
PIECE = 2 << 20
# What an axis's transforms sum, at most: two inputs, three cells of the kernel, three products.
GROWTH = 2 * 3 * 3


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """Three cells, no stride, no dilation, one group."""
    return (
        set(window.size) == {3}
        and set(window.stride) == set(window.dilation) == {1}
        and groups == 1
        and 0 not in (*x.shape, *w.shape, *window.output(x.shape[1:-1]))
    )


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return can(x, dy, window, groups)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return can(dy, w, window.turned, groups) and 0 not in input_shape


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C, O], the sum (3.5)."""
    axes = len(window.size)
    wide = sum_dtype(x.dtype)
    output = window.output(x.shape[1:-1])
    tiles = _tiles(output)
    kernel = w.astype(wide)
    for i in range(axes):
        g = [lax.index_in_dim(kernel, j, i, keepdims=False) for j in range(3)]
        kernel = jnp.stack([g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]])
    kernel = kernel.reshape(-1, *w.shape[-2:])

    def fast(x: jax.Array) -> jax.Array:
        v = _transformed(x.astype(wide), window, tiles)
        products = v.reshape(4**axes, -1, v.shape[-1]) @ kernel
        y = _outputs(products.reshape(*(4,) * axes, x.shape[0], *tiles, -1), axes)
        y = y[tuple(slice(0, n) for n in (x.shape[0], *output))]
        return y.astype(x.dtype)

    size, growth = largest(w), GROWTH**axes * x.shape[-1]

    def piece(x: jax.Array) -> jax.Array:
        plain = partial(xla.conv, w=w, window=window, groups=groups)
        return if_finite(fast, plain, x, factor=size, growth=growth)

    return each_piece(piece, _examples(x.shape, tiles), x)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C], the sum (3.7): without stride, a convolution with the kernel turned."""
    return conv(dy, xla.turned(w), window.turned, groups)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    axes = len(window.size)
    wide = sum_dtype(x.dtype)
    *output, o = dy.shape[1:]
    tiles = _tiles(output)

    def fast(x: jax.Array, dy: jax.Array) -> jax.Array:
        v = _transformed(x.astype(wide), window, tiles)
        v = v.reshape(4**axes, -1, v.shape[-1])
        m = _cotangents(dy.astype(wide), tiles)
        m = m.reshape(4**axes, -1, m.shape[-1])
        dkernel = lax.dot_general(v, m, (((1,), (1,)), ((0,), (0,))))  # vᵀ m
        dkernel = dkernel.reshape(*(4,) * axes, *dkernel.shape[1:])
        for i in reversed(range(axes)):
            u = [dkernel[k] for k in range(4)]
            half = (u[1] + u[2]) / 2
            dkernel = jnp.stack([u[0] + half, (u[1] - u[2]) / 2, half + u[3]], axis=i)
        return dkernel

    def piece(x: jax.Array, dy: jax.Array) -> jax.Array:
        def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
            return xla.conv_kernel_grad(x.astype(wide), dy.astype(wide), window, groups)

        return if_finite(fast, plain, x, dy, growth=GROWTH**axes * (dy.size // o))

    return sum_pieces(piece, _examples(x.shape, tiles), x, dy).astype(x.dtype)


def _tiles(output: Sequence[int]) -> Shape:
    return tuple(-(-n // 2) for n in output)


def _examples(shape: Shape, tiles: Shape) -> int:
    """How many examples a piece has."""
    transformed = 4 * int(np.prod([4 * t for t in tiles])) * shape[-1]
    return max(1, PIECE // transformed)


def _transformed(x: jax.Array, window: Window, tiles: Shape) -> jax.Array:
    """v[4, …, N, *tiles, C], the last axis's four first."""
    need = [2 * t + 2 for t in tiles]
    high = (k - low - n for k, low, n in zip(need, window.low, x.shape[1:-1], strict=True))
    v = pad(x, window._replace(padding=tuple(zip(window.low, high, strict=True))), 0)
    for i, t in enumerate(tiles):
        d = [lax.slice_in_dim(v, j, j + 2 * t - 1, 2, 1 + 2 * i) for j in range(4)]
        v = jnp.stack([d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]])
    return v


def _outputs(m: jax.Array, axes: int) -> jax.Array:
    """y[N, *2·tiles, O] of the products [4, …, N, *tiles, O]."""
    for i in reversed(range(axes)):
        pair = [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
        m = jnp.stack(pair, axis=2 * i + 2)
        m = m.reshape(*m.shape[: 2 * i + 1], -1, *m.shape[2 * i + 3 :])
    return m


def _cotangents(dy: jax.Array, tiles: Shape) -> jax.Array:
    """The products' cotangents [4, …, N, *tiles, O] of dy[N, *S_out, O]: `_outputs` backwards."""
    config: list[Any] = [(0, 2 * t - n, 0) for t, n in zip(tiles, dy.shape[1:-1], strict=True)]
    m = lax.pad(dy, np.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    for i, t in enumerate(tiles):
        first, second = (lax.slice_in_dim(m, j, j + 2 * t - 1, 2, 1 + 2 * i) for j in range(2))
        m = jnp.stack([first, first + second, first - second, -second])
    return m


def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    # The transforms cost as much as the products save until many channels share them.
    return is_float32(x, w) and _pays(x.shape, w.shape, window)


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return is_float32(dy, w) and _pays(input_shape, w.shape, window)


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    # Of volumes the planes do better.
    return is_float32(x, dy) and len(window.size) == 2 and _pays(x.shape, dy.shape, window)


def _pays(x: Shape, like_output: Shape, window: Window) -> bool:
    c, o = x[-1], like_output[-1]
    multiplications = x[0] * math.prod(window.output(x[1:-1])) * window.cells * c * o
    places = x[0] * math.prod(x[1:-1])
    # Along one axis they save a third, which copying the transforms costs.
    axes = len(window.size)
    return axes > 1 and min(c, o) >= 64 and places >= 512 and multiplications >= 1 << 26


ROWS = {
    "conv": Row("winograd", conv, can, _wins),
    "conv_input_grad": Row("winograd", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("winograd", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
