"""Pooling as one strided slice of the input for each cell of the window.

Each slice holds, for every window, the value of one cell, so a pooling is an elementwise chain over
|K| slices, and its adjoint puts each cell's share back where its slice came from.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, known, sum_dtype, vary_alike
from jaxbp.window import Window, dilated


def max_pool(x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """y[N, *S_out, C] and each window's winner, the sum (4.3) of one term.

    The first cell in row-major order that is the largest wins, and the first NaN before any number.
    y is chosen by selects, never by `max`, so that its derivative goes to the winner as well.
    """
    cells = list(slices(pad(x, window, -np.inf), window, x.shape))
    y = _tournament(lambda first, second: jnp.where(beats(second, first), second, first), cells)
    # Not handed on with the value: LLVM makes branches of such selects where channels are few, and
    # nobody can predict who wins.
    last = np.float32(window.cells - 1)
    numbers = [
        jnp.where((cell == y) | (cell != cell), np.float32(m), last) for m, cell in enumerate(cells)
    ]
    winner = _tournament(jnp.minimum, numbers).astype(winner_dtype(window))
    return y, not_in_padding(y, winner, window, x.shape)


def _tournament(
    play: Callable[[jax.Array, jax.Array], jax.Array], players: list[jax.Array]
) -> jax.Array:
    """Half as many steps deep as one after the other, and quicker than that on a CPU."""
    while len(players) > 1:
        pairs = itertools.zip_longest(players[::2], players[1::2])
        players = [first if second is None else play(first, second) for first, second in pairs]
    return players[0]


def beats(later: jax.Array, earlier: jax.Array) -> jax.Array:
    """Whether the later cell wins: it is larger, or a NaN and the earlier is none."""
    return ~(later <= earlier) & (earlier == earlier)


def max_pool_grad(
    dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window
) -> jax.Array:
    """dx[N, *S, C]: each window's dy goes to its winner, and overlapping windows add (4.4)."""
    wide = dy.astype(sum_dtype(dy.dtype))
    zero = jnp.zeros((), wide.dtype)
    shares = (
        jnp.where(winner == jnp.asarray(m, winner.dtype), wide, zero) for m in range(window.cells)
    )
    return unslice(shares, input_shape, window).astype(dy.dtype)


def sum_pool(x: jax.Array, window: Window) -> jax.Array:
    """y[N, *S_out, C]: the sum of each window's cells, in float32 at least."""
    x = x.astype(sum_dtype(x.dtype))
    return add(slices(pad(x, window, 0), window, x.shape))


def sum_pool_grad(dy: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: each window gives dy to each of its cells, and overlapping windows add."""
    wide = dy.astype(sum_dtype(dy.dtype))
    return unslice((wide for _ in range(window.cells)), input_shape, window).astype(dy.dtype)


def winner_dtype(window: Window) -> np.dtype:
    """The smallest unsigned integer that counts the window's cells."""
    return np.min_scalar_type(max(window.cells - 1, 0))


def not_in_padding(y: jax.Array, winner: jax.Array, window: Window, shape: Shape) -> jax.Array:
    """The winner, moved from the padding to the window's first cell in the input, if it has one."""
    # Padding is -inf, so it can only win in a window whose input cells are -inf too; the first of
    # those is the winner then.
    if not window.pads:
        return winner
    first = cells_inside(window, shape[1:-1]).argmax(axis=0).astype(winner.dtype)
    return jnp.where(y == -jnp.inf, first[None, ..., None], winner)


def cells_inside(window: Window, spatial: Shape) -> Any:
    """bool[|K|, *S_out]: whether the cell of the window lies in the input, not in the padding.

    A NumPy array, if the sizes are known.
    """
    numpy: Any = np if known(*spatial) else jnp
    windows = window.output(spatial)
    offsets = np.array(list(window.offsets()), np.int32).reshape(window.cells, -1)
    inside = np.ones((), bool)
    for axis, (n, m, low) in enumerate(zip(spatial, windows, window.low, strict=True)):
        first = numpy.arange(m, dtype=np.int32) * window.stride[axis] - low
        place = offsets[:, axis, None] + first
        along = [window.cells] + [1] * len(spatial)
        along[1 + axis] = m
        inside = inside & ((place >= 0) & (place < n)).reshape(along)
    return inside


def pad(x: jax.Array, window: Window, value: float) -> jax.Array:
    """x[N, *S, C] padded with the value, or cropped, as the window says."""
    if not any(low or high for low, high in window.padding):
        return x
    config = [(0, 0, 0), *((low, high, 0) for low, high in window.padding), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def slices(padded: jax.Array, window: Window, shape: Shape) -> Iterator[jax.Array]:
    """[N, *S_out, C] for each cell of the window, row-major, of an input of `shape`, padded."""
    n, *spatial, c = shape
    windows = window.output(tuple(spatial))
    for offset in window.offsets():
        if 0 in windows:
            yield jnp.zeros((n, *windows, c), padded.dtype)
            continue
        limit = [
            o + s * (m - 1) + 1 for o, s, m in zip(offset, window.stride, windows, strict=True)
        ]
        yield lax.slice(padded, (0, *offset, 0), (n, *limit, c), (1, *window.stride, 1))


def unslice(shares: Iterable[jax.Array], input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: the sum over cells of their shares [N, *S_out, C], each put in its place."""

    def put(share: jax.Array, offset: Shape) -> jax.Array:
        config = [(0, 0, 0)]
        for n, m, o, s, low in zip(
            input_shape[1:-1], share.shape[1:-1], offset, window.stride, window.low, strict=True
        ):
            config.append((o - low, n - (o - low) - dilated(m, s), s - 1))
        return lax.pad(share, jnp.zeros((), share.dtype), [*config, (0, 0, 0)])

    return add(put(share, o) for share, o in zip(shares, window.offsets(), strict=True))


def gather(x: jax.Array, window: Window, value: float) -> jax.Array:
    """[|K|, N, *S_out, C]: all the slices at once, of x padded with the value, by one gather.

    For windows of so many cells that a slice for each would make a long program.
    """
    n, *spatial, c = x.shape
    places = _places(window, tuple(spatial))
    flat = x.reshape(n, math.prod(spatial), c)
    # The place |S| is one more, of the value, and not left to JAX to fill: it refuses, or gives
    # another shape, where |S| is 0.
    flat = lax.pad(flat, jnp.asarray(value, x.dtype), [(0, 0, 0), (0, 1, 0), (0, 0, 0)])
    return jnp.moveaxis(jnp.take(flat, places, axis=1, mode="clip"), 1, 0)


def ungather(shares: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: the sum of the shares [|K|, N, *S_out, C], each put in its place."""
    n, *spatial, c = input_shape
    places = _places(window, tuple(spatial))
    (dx,) = vary_alike(jnp.zeros((n, math.prod(spatial), c), shares.dtype), shares)[:1]
    return dx.at[:, places].add(jnp.moveaxis(shares, 0, 1), mode="drop").reshape(input_shape)


def _places(window: Window, spatial: Shape) -> np.ndarray:
    """int[|K|, *S_out]: the cell's place in the flat input; |S|, which is none, in the padding."""
    inside = cells_inside(window, spatial)
    offsets = np.array(list(window.offsets())).T - np.array(window.low)[:, None]
    starts = np.indices(inside.shape[1:]) * np.reshape(window.stride, (-1, *(1,) * len(spatial)))
    at = starts[:, None] + offsets.reshape(*offsets.shape, *(1,) * len(spatial))
    flat = np.ravel_multi_index(tuple(at), spatial, mode="clip") if inside.any() else inside
    return np.where(inside, flat, math.prod(spatial)).astype(np.int32)


def add(terms: Iterable[jax.Array]) -> jax.Array:
    """The sum of the terms, of which there is at least one."""
    return functools.reduce(lax.add, terms)
