"""The adjoints of pooling, asked from the input's side: which windows hold this place?

The input falls into tiles of the size of the stride, one tile a window's first cell. The places of
a tile lie in the same windows: the tile's own and, where windows overlap, `overlaps` more of those
before it. So the input's cotangent, [N, tiles, stride, C], is an elementwise sum over these few
windows, broadcast over the tile; nothing is scattered, and nothing dilated with zeros is built.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, not_negative, sum_dtype
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.pieces import each_piece
from jaxbp.lowering.slices import UNROLLED, add
from jaxbp.window import Window


def max_pool_grad(
    dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window
) -> jax.Array:
    """dx[N, *S, C]: each window's dy goes to its winner, and overlapping windows add (4.4)."""
    wide = dy.astype(sum_dtype(dy.dtype))
    if overlaps(window) == 1:
        winner = _floats(winner)
    else:
        winner = lax.platform_dependent(winner, cpu=_floats_in_a_loop, default=_floats)
    zero = jnp.zeros((), wide.dtype)
    # LLVM unrolls a short loop over so many channels in full, and hardly vectorises what is left,
    # which takes twice the time. A longer question keeps the loop.
    ask = _equal_by_axes if overlaps(window) == 1 and 16 <= dy.shape[-1] <= 32 else _equal

    def share(back: Shape) -> jax.Array:
        ours = ask(_at(winner, back, input_shape, window), _cells(window, back), window)
        return jnp.where(ours, _at(wide, back, input_shape, window), zero)

    return _untile(add(map(share, _backs(window))), input_shape, window).astype(dy.dtype)


def _equal(winner: jax.Array, cell: np.ndarray, window: Window) -> jax.Array:
    return winner == jnp.asarray(cell, winner.dtype)


def _equal_by_axes(winner: jax.Array, cell: np.ndarray, window: Window) -> jax.Array:
    """As `_equal`: both numbers are one digit an axis, the last axis's lowest."""
    same = []
    for size in window.size[:0:-1]:
        # Half a cell more, so that whatever division rounds is not near a whole number.
        rest = jnp.floor((winner + 0.5) / size)
        same.append(jnp.abs(winner - rest * size - jnp.asarray(cell % size, winner.dtype)) < 0.5)
        winner, cell = rest, cell // size
    return functools.reduce(
        jnp.logical_and, same, jnp.abs(winner - jnp.asarray(cell, winner.dtype)) < 0.5
    )


def _floats(winner: jax.Array) -> jax.Array:
    # As wide as dy, so that both fill the same vector lanes; with a sign, so that a number that no
    # cell has can stand where a place is in no window's cell. Exact up to 2²⁴ cells.
    return winner.astype(np.float32)


def _floats_in_a_loop(winner: jax.Array) -> jax.Array:
    # XLA does not fuse across a loop: otherwise it converts anew for each of the windows compared.
    n = winner.shape[0]
    return each_piece(_floats, (n + 1) // 2, winner) if winner.size else _floats(winner)


def sum_pool_grad(dy: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: each window gives dy to each of its cells, and overlapping windows add."""
    wide = dy.astype(sum_dtype(dy.dtype))
    zero = jnp.zeros((), wide.dtype)

    def share(back: Shape) -> jax.Array:
        ours = _at(wide, back, input_shape, window)
        inside = _cells(window, back) >= 0
        return (
            jnp.broadcast_to(ours, _tiled(ours, window))
            if inside.all()
            else jnp.where(inside, ours, zero)
        )

    return _untile(add(map(share, _backs(window))), input_shape, window).astype(dy.dtype)


def overlaps(window: Window) -> int:
    """How many windows a tile lies in, at most."""
    return math.prod(_reach(window))


def _reach(window: Window) -> Shape:
    return tuple(-(-span // s) for span, s in zip(window.span, window.stride, strict=True))


def _backs(window: Window) -> Iterator[Shape]:
    """How many tiles before a tile its windows start, a number an axis."""
    return itertools.product(*map(range, _reach(window)))


def _cells(window: Window, back: Shape) -> np.ndarray:
    """int[1, 1, s, …, 1]: which cell of the window `back` tiles before each place of a tile is.

    Minus one where the place lies between the window's cells (dilation) or beyond them.
    """
    number = np.zeros((), np.int64)
    for size, s, d, b in zip(window.size, window.stride, window.dilation, back, strict=True):
        place = np.arange(s) + s * b
        cell = np.where((place % d == 0) & (place // d < size), place // d, -1)
        number = np.where((number[..., None] < 0) | (cell < 0), -1, number[..., None] * size + cell)
    axes = len(window.size)
    return (
        number.reshape((1, *itertools.chain(*((1, s) for s in window.stride)), 1))
        if axes
        else number
    )


def _tiles(input_shape: Shape, window: Window) -> Shape:
    """How many tiles cover the input and the padding before it."""
    return tuple(
        not_negative(-(-(n + low) // s))
        for n, low, s in zip(input_shape[1:-1], window.low, window.stride, strict=True)
    )


def _at(a: jax.Array, back: Shape, input_shape: Shape, window: Window) -> jax.Array:
    """[N, tiles, 1, …, C]: for each tile, a's entry of the window that starts `back` before it."""
    n, *windows, c = a.shape
    tiles = _tiles(input_shape, window)
    config = [(b, t - b - m, 0) for b, t, m in zip(back, tiles, windows, strict=True)]
    # Windows that are not there have no cotangent, whoever wins them.
    a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return a.reshape(n, *itertools.chain(*((t, 1) for t in tiles)), c)


def _tiled(a: jax.Array, window: Window) -> Shape:
    n, *places, c = a.shape
    return (n, *itertools.chain(*zip(places[::2], window.stride, strict=True)), c)


def _untile(a: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """[N, tiles, stride, …, C] as the input's [N, *S, C]: the padding before it is cut off."""
    n, *spatial, c = input_shape
    covered = [t * s for t, s in zip(_tiles(input_shape, window), window.stride, strict=True)]
    a = a.reshape(n, *covered, c)
    config = [
        (-low, m + low - k, 0) for m, low, k in zip(spatial, window.low, covered, strict=True)
    ]
    return lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _can(dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window) -> bool:
    return overlaps(window) <= UNROLLED


def _can_sum(dy: jax.Array, input_shape: Shape, window: Window) -> bool:
    return overlaps(window) <= UNROLLED


ROWS = {
    "max_pool_grad": Row("tiles", max_pool_grad, _can, always, any_size=True),
    "sum_pool_grad": Row("tiles", sum_pool_grad, _can_sum, always, any_size=True),
}
