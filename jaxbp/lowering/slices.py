"""One strided slice of the input for each cell of the window, and back.

Each slice holds, for every window, the value of one cell; the adjoint puts each cell's share back
where its slice came from.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, known, vary_alike
from jaxbp.window import Window, dilated

# A window of more cells is not written out cell by cell: the program would grow with it.
UNROLLED = 64


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


def dilate(dy: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dy with zeros between its places, so that no stride is left, and bordered as (3.7) has it."""
    config = []
    for n, m, span, low, stride in zip(
        input_shape[1:-1], dy.shape[1:-1], window.span, window.low, window.stride, strict=True
    ):
        before = span - 1 - low
        config.append((before, n + span - 1 - dilated(m, stride) - before, stride - 1))
    return lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])


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
