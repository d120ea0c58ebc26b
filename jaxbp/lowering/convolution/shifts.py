"""Depthwise convolutions, and groups of few channels: one multiply-add a cell, channels as lanes.

A product of matrices has nothing to gain where a feature sums over one channel, or four. With the
features o as vector lanes, and x̂_q[…, o] the q-th channel of o's group,

    y_nio = Σ_mq x̂_q[n, s·i + d·m − p, o] w[m, q, o]

is one multiply-add of whole vectors for each cell m and each q; the input's cotangent is the same
sum with the kernel turned and the channels as lanes. What lies in the padding is read elsewhere and
then set to zero, so nothing is padded; for many cells a padded copy is the cheaper.

The kernel's cotangent sums over places instead: one loop over blocks of places adds each block's
products to as many accumulators as there are cells, which are summed across places once, at the
end. Long sums so lose less than one after the other, and the program does not grow with the kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, aligned, sum_dtype, vary_alike
from jaxbp.lowering.choice import Row
from jaxbp.lowering.pieces import sum_pieces
from jaxbp.lowering.slices import UNROLLED, dilate, pad, slices
from jaxbp.window import Window, dilated

# Cells beyond which a padded copy costs less than asking at each cell what lies in the padding.
MANY = 25
# Bytes of padded input to hold at a time, and of accumulators that stay in a core's own cache.
PADDED = 8 << 20
PIECE = 1 << 15
# Channels a group up to which lanes beat a product: each is one more multiply-add a cell.
FEW = 4

# Along one axis, for each of the kernel's cells: the places to read, and which of them count.
Places = list[tuple[np.ndarray, np.ndarray]]


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """Something to sum."""
    return 0 not in (*x.shape, *w.shape, *window.output(x.shape[1:-1]))


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return 0 not in (*x.shape, *dy.shape, *window.size)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return 0 not in (*dy.shape, *w.shape, *input_shape)


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C // groups, O], the sum (3.5)."""
    return _correlate(_lanes(x, groups, w.shape[-1] // groups), w, window)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C // groups, O], the sum (3.7)."""
    *size, c, o = w.shape
    # [*K, C // g, (g, O // g)] -> [*K, O // g, (g, C // g)]: the channels as lanes.
    kernel = jnp.moveaxis(w.reshape(*size, c, groups, o // groups), -3, -1)
    kernel = jnp.swapaxes(kernel, -3, -2).reshape(*size, o // groups, groups * c)
    cotangents = _lanes(dy, groups, c)
    if set(window.stride) != {1} and window.cells <= MANY:
        places = [
            _sources(n, m, axis, window)
            for axis, (n, m) in enumerate(zip(input_shape[1:-1], dy.shape[1:-1], strict=True))
        ]
        return _multiply_add([_cells(z, places) for z in cotangents], kernel, dy.dtype)
    full = window.turned
    if set(window.stride) != {1}:
        cotangents = [dilate(z, input_shape, window) for z in cotangents]
        nothing = ((0, 0),) * len(size)
        full = full._replace(stride=(1,) * len(size), padding=nothing)
    return _correlate(cotangents, lax.rev(kernel, tuple(range(len(size)))), full)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C // groups, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    lanes, wide = dy.shape[-1], np.dtype(sum_dtype(x.dtype))

    def piece(x: jax.Array, dy: jax.Array) -> jax.Array:
        inputs = _lanes(x, groups, lanes // groups)
        return jnp.stack([_kernel_grad(pad(z, window, 0), dy, window) for z in inputs], axis=1)

    example = math.prod(window.padded(x.shape[1:-1])) * lanes * wide.itemsize
    dw: jax.Array = sum_pieces(piece, max(1, PADDED // example), x, dy)
    return dw.reshape(*window.size, -1, lanes).astype(x.dtype)


def _lanes(a: jax.Array, groups: int, lanes: int) -> list[jax.Array]:
    """â_q[N, *S, groups · lanes] for each q: the q-th channel of each group, in all its lanes."""
    each = a.shape[-1] // groups
    if each == lanes == 1:
        return [a]
    grouped = a.reshape(*a.shape[:-1], groups, each)
    shape = (*grouped.shape[:-1], lanes)
    spread = [
        jnp.broadcast_to(grouped[..., q, None], shape).reshape(*a.shape[:-1], groups * lanes)
        for q in range(each)
    ]
    # A barrier, or XLA spreads anew for each cell.
    return list(lax.optimization_barrier(spread))


def _correlate(inputs: Sequence[jax.Array], kernel: jax.Array, window: Window) -> jax.Array:
    """The sum over cells m and inputs q of inputs[q] at m of each window, times kernel[m, q]."""
    shape = inputs[0].shape
    if window.cells * len(inputs) > UNROLLED:
        return _correlate_in_a_loop(inputs, kernel, window)
    if window.cells > MANY:
        cells = [slices(pad(z, window, 0), window, shape) for z in inputs]
    else:
        counts = zip(shape[1:-1], window.output(shape[1:-1]), strict=True)
        places = [_visited(n, m, axis, window) for axis, (n, m) in enumerate(counts)]
        cells = [_cells(z, places) for z in inputs]
    return _multiply_add(cells, kernel, inputs[0].dtype)


def _multiply_add(
    cells: Sequence[Iterable[jax.Array]], kernel: jax.Array, dtype: np.dtype
) -> jax.Array:
    wide = sum_dtype(dtype)
    kernel = kernel.astype(wide).reshape(-1, *kernel.shape[-2:])
    terms = (
        cell.astype(wide) * aligned(kernel[m, q], cell)
        for q, of_input in enumerate(cells)
        for m, cell in enumerate(of_input)
    )
    return _pairwise(list(terms)).astype(dtype)


def _pairwise(terms: Sequence[jax.Array]) -> jax.Array:
    """Their sum, each half on its own first: one after the other would round the sum of all."""
    middle = len(terms) // 2
    return _pairwise(terms[:middle]) + _pairwise(terms[middle:]) if middle else terms[0]


def _correlate_in_a_loop(
    inputs: Sequence[jax.Array], kernel: jax.Array, window: Window
) -> jax.Array:
    """As `_correlate`, a cell a turn, for kernels too large to write out."""
    (n, *spatial, lanes), dtype = inputs[0].shape, inputs[0].dtype
    wide = sum_dtype(dtype)
    windows = window.output(tuple(spatial))
    reach = tuple(dilated(m, s) for m, s in zip(windows, window.stride, strict=True))
    padded = [pad(z, window, 0) for z in inputs]
    offsets = jnp.asarray(list(window.offsets()), np.int32)
    kernel = kernel.astype(wide).reshape(-1, *kernel.shape[-2:])

    def turn(m: jax.Array, y: jax.Array) -> jax.Array:
        zero = jnp.zeros((), np.int32)
        start = (zero, *offsets[m], zero)
        for q, z in enumerate(padded):
            cell = lax.dynamic_slice(z, start, (n, *reach, lanes))
            cell = lax.slice(cell, (0,) * z.ndim, cell.shape, (1, *window.stride, 1))
            y = y + cell.astype(wide) * aligned(kernel[m, q], cell)
        return y

    zeros = vary_alike(jnp.zeros((n, *windows, lanes), wide), kernel, *inputs)[0]
    return lax.fori_loop(0, window.cells, turn, zeros).astype(dtype)


def _visited(n: int, windows: int, axis: int, window: Window) -> Places:
    """Where each cell of each window lies along an axis of n places."""
    first = window.stride[axis] * np.arange(windows) - window.low[axis]
    at = [first + window.dilation[axis] * cell for cell in range(window.size[axis])]
    return [(np.clip(i, 0, n - 1), (i >= 0) & (i < n)) for i in at]


def _sources(n: int, windows: int, axis: int, window: Window) -> Places:
    """Of which window each of n places is the cell, for each cell; where it is of none."""
    s = window.stride[axis]
    at = [
        np.arange(n) + window.low[axis] - window.dilation[axis] * cell
        for cell in range(window.size[axis])
    ]
    return [
        (np.clip(i // s, 0, windows - 1), (i % s == 0) & (i >= 0) & (i // s < windows)) for i in at
    ]


def _cells(a: jax.Array, places: Sequence[Places], axis: int = 1) -> Iterator[jax.Array]:
    """a[N, *S, L] read at each cell's places, in row-major order; zero where they do not count."""
    if axis > len(places):
        yield a
        return
    for at, counts in places[axis - 1]:
        yield from _cells(_read(a, at, counts, axis), places, axis + 1)


def _read(a: jax.Array, at: np.ndarray, counts: np.ndarray, axis: int) -> jax.Array:
    step = at[1] - at[0] if len(at) > 1 else 1
    if counts.all() and step > 0 and (np.diff(at) == step).all():
        return lax.slice_in_dim(a, int(at[0]), int(at[-1]) + 1, int(step), axis)
    a = jnp.take(a, at.astype(np.int32), axis=axis, mode="clip")
    along = [1] * a.ndim
    along[axis] = -1
    return a if counts.all() else jnp.where(counts.reshape(along), a, jnp.zeros((), a.dtype))


def _kernel_grad(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """dw[|K|, L] of x[N, *S, L], padded already, and dy[N, *S_out, L]."""
    lanes, wide = dy.shape[-1], np.dtype(sum_dtype(dy.dtype))
    blocks = _blocks(x.shape, dy.shape, window, wide.itemsize)
    starts, starts_dy, skipped = map(jnp.asarray, (blocks.x, blocks.dy, blocks.skipped))
    x, dy = x.reshape(-1, lanes), dy.reshape(-1, lanes)

    def turn(i: jax.Array, sums: jax.Array) -> jax.Array:
        d = lax.dynamic_slice_in_dim(dy, starts_dy[i], blocks.size).astype(wide)
        if blocks.skipped.any():
            d = jnp.where(np.arange(blocks.size, dtype=np.int32)[:, None] < skipped[i], 0, d)
        near = lax.dynamic_slice_in_dim(x, starts[i], int(blocks.reads.max()) + 1)
        cells = near.at[blocks.reads].get(mode="promise_in_bounds")
        return sums + cells.astype(wide) * d[None]

    zeros = vary_alike(jnp.zeros((*blocks.reads.shape, lanes), wide), x, dy)[0]
    return jnp.sum(lax.fori_loop(0, len(blocks.x), turn, zeros), axis=1)


class _Blocks(NamedTuple):
    """Which places of x and dy, both in one row, meet in which turn; arrays of NumPy's."""

    x: np.ndarray  # int[turns]: where a block begins in x
    dy: np.ndarray  # int[turns]: where it begins in dy
    skipped: np.ndarray  # int[turns]: how many of its first places were in the block before
    reads: np.ndarray  # int[|K|, size]: where each cell lies, from the block's beginning
    size: int  # how many places of dy a block has


def _blocks(x: Shape, dy: Shape, window: Window, itemsize: int) -> _Blocks:
    """Blocks of the last axes, as many as the cache has room for, or of a part of the last."""
    windows = dy[1:-1]
    room = max(1, PIECE // (window.cells * dy[-1] * itemsize))
    outer = len(windows) - 1
    while outer and math.prod(windows[outer - 1 :]) <= room:
        outer -= 1
    parts = -(-windows[-1] // room)
    width = -(-windows[-1] // parts)
    firsts = np.minimum(np.arange(parts) * width, windows[-1] - width)
    # How far apart neighbours lie along each axis, the examples' first.
    apart_x, apart_dy = (np.cumprod([1, *a[-2:0:-1]])[::-1] for a in (x, dy))
    along_x = apart_x * (1, *window.stride)

    def turns(along: np.ndarray) -> np.ndarray:
        axes = [np.arange(n) * a for n, a in zip(dy[: outer + 1], along, strict=False)]
        return _sums(*axes, firsts * along[-1]).astype(np.int32)

    counts = (*windows[:-1], width)
    inner = [np.arange(n) * a for n, a in zip(counts, along_x[1:], strict=True)][outer:]
    reads = _sums(np.array(list(window.offsets())) @ apart_x[1:], *inner)
    return _Blocks(
        turns(along_x),
        turns(apart_dy),
        np.tile(np.arange(parts) * width - firsts, math.prod(dy[: outer + 1])).astype(np.int32),
        reads.reshape(window.cells, -1).astype(np.int32),
        math.prod(counts[outer:]),
    )


def _sums(*arrays: np.ndarray) -> np.ndarray:
    """The sums of one entry of each array, the last array's the fastest to change."""
    return functools.reduce(lambda a, b: np.add.outer(a, b).reshape(-1), arrays)


def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    return groups > 1 and _pays(w.shape[-2], window)


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return groups > 1 and _pays(w.shape[-1] // groups, window)


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    return groups > 1 and x.shape[-1] // groups <= FEW


def _pays(each: int, window: Window) -> bool:
    # One channel a group pays in a loop over the kernel's cells, too.
    return each == 1 or (each <= FEW and each * window.cells <= UNROLLED)


ROWS = {
    "conv": Row("shifts", conv, can, _wins),
    "conv_input_grad": Row("shifts", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("shifts", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
