"""A convolution and the max pooling after it, in one go: the large array between is never whole."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxbp.arguments import sum_dtype
from jaxbp.lowering import choice, slices
from jaxbp.lowering.pieces import each_piece, sum_pieces
from jaxbp.lowering.slices import pad
from jaxbp.window import Window

# Bytes of the convolution's output to hold at a time.
PIECE = 4 << 20


def whole(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """One after the other: the largest y[N, *S_pool, O] of each window, and its winner."""
    z = choice.run("conv", (window, groups), x, w)
    return choice.run("max_pool", (pool,), z)


def whole_grads(
    x: jax.Array,
    w: jax.Array,
    dy: jax.Array,
    winner: jax.Array,
    window: Window,
    pool: Window,
    groups: int,
) -> tuple[jax.Array, jax.Array]:
    """One after the other: dx[N, *S, C] and dw[*K, C // groups, O]."""
    z_shape = (x.shape[0], *window.output(x.shape[1:-1]), w.shape[-1])
    dz = choice.run("max_pool_grad", (z_shape, pool), dy, winner)
    dx = choice.run("conv_input_grad", (x.shape, window, groups), dz, w)
    return dx, choice.run("conv_kernel_grad", (window, groups), x, dz)


def can_pieces(x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int) -> bool:
    """Whether there is something to compute, and more than one piece to do it in."""
    return 0 not in (*x.shape, *w.shape) and _examples(x, w, window) < x.shape[0]


def can_pieces_grads(
    x: jax.Array,
    w: jax.Array,
    dy: jax.Array,
    winner: jax.Array,
    window: Window,
    pool: Window,
    groups: int,
) -> bool:
    """As forward."""
    return can_pieces(x, w, window, pool, groups)


def pieces(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """As `whole`, a few examples at a time."""

    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = choice.on_cpu("conv", x, w, window, groups)
        return choice.on_cpu("max_pool", z, pool)

    y: tuple[jax.Array, jax.Array] = each_piece(run, _examples(x, w, window), x)
    return y


def pieces_grads(
    x: jax.Array,
    w: jax.Array,
    dy: jax.Array,
    winner: jax.Array,
    window: Window,
    pool: Window,
    groups: int,
) -> tuple[jax.Array, jax.Array]:
    """As `whole_grads`, a few examples at a time."""
    examples = _examples(x, w, window)
    z_shape = window.output(x.shape[1:-1])

    def spread(dy: jax.Array, winner: jax.Array) -> jax.Array:
        shape = (dy.shape[0], *z_shape, w.shape[-1])
        return choice.on_cpu("max_pool_grad", dy, winner, shape, pool)

    # Two loops, each spreading dy anew, which is cheap: where nobody asks for dx (the first layer),
    # its loop falls away.
    def input_grad(x: jax.Array, dy: jax.Array, winner: jax.Array) -> jax.Array:
        return choice.on_cpu("conv_input_grad", spread(dy, winner), w, x.shape, window, groups)

    def kernel_grad(x: jax.Array, dy: jax.Array, winner: jax.Array) -> jax.Array:
        dz = spread(dy, winner)
        wide = sum_dtype(x.dtype)
        return choice.on_cpu("conv_kernel_grad", x.astype(wide), dz.astype(wide), window, groups)

    dx: jax.Array = each_piece(input_grad, examples, x, dy, winner)
    dw: jax.Array = sum_pieces(kernel_grad, examples, x, dy, winner)
    return dx, dw.astype(w.dtype)


def can_lanes(x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int) -> bool:
    """One group."""
    return groups == 1 and 0 not in (*x.shape, *w.shape)


def lanes(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """As `whole`, with the examples innermost: z[*S_out, O, N] is a sum over cells and channels."""
    wide = sum_dtype(x.dtype)
    (n, *spatial, c), o = x.shape, w.shape[-1]
    turned = pad(jnp.moveaxis(x, 0, -1).reshape(1, *spatial, c * n).astype(wide), window, 0)
    terms = []
    cells = slices.slices(turned, window, (1, *spatial, c * n))
    for cell, kernel in zip(cells, w.astype(wide).reshape(-1, c, o), strict=True):
        values = cell.reshape(*cell.shape[:-1], c, 1, n)
        terms += [values[..., j, :, :] * kernel[j][:, None] for j in range(c)]
    z = slices.add(terms).astype(x.dtype)
    z = z.reshape(*z.shape[:-2], o * n)

    def back(a: jax.Array) -> jax.Array:
        return jnp.moveaxis(a.reshape(*a.shape[1:-1], o, n), -1, 0)

    y, winner = slices.max_pool(z, pool)
    return back(y), back(winner)


def _examples(x: jax.Array, w: jax.Array, window: Window) -> int:
    """How many examples a piece has."""
    output = math.prod(window.output(x.shape[1:-1])) * w.shape[-1]
    return max(1, PIECE // max(1, output * x.dtype.itemsize))
