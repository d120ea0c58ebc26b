"""Which way a sum is taken: one table, read when an operation is traced.

A row names a strategy, its function, which cases it can do at all, and which of those it wins on a
CPU; the first row that wins is taken, and the last row of each operation, `xla`, can do and wins
everything. Where sizes are not known yet, only rows that do any size are asked. GPU and TPU
convolve as XLA likes: the traced program holds both ways, and lowering keeps the one of its
platform. Pooling is elementwise however it is summed, so its rows hold everywhere.

The bounds come from timings on two cores with jax 0.10.1 and 0.12.0, of single operations and of
whole steps (`experiments/benchmark.py --ops`); both versions agree on all but a few.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.arguments import Shape
from jaxbp.lowering import (
    axes,
    blocks,
    columns,
    folds,
    phases,
    pointwise,
    scatter,
    slices,
    tiles,
    windows,
    winograd,
    xla,
)
from jaxbp.lowering.choice import ON_ALL_PLATFORMS, TABLE, Row, always
from jaxbp.window import Window

# A window of more cells is not written out cell by cell: the program would grow with it.
UNROLLED = 64


def _is_float32(*arrays: jax.Array) -> bool:
    return all(a.dtype == jnp.float32 for a in arrays)


def _pointwise_wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    # With a stride, the places visited are copied out first: too much beside a short product.
    return set(window.stride) == {1} or x.shape[-1] > 64


def _folds_win(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    return _is_float32(x, w) and window.cells > 1 and _folding_pays(x.shape[-1], w.shape[-1])


def _folds_win_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return _is_float32(dy, w) and _folding_pays(dy.shape[-1], w.shape[-2])


def _folds_win_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    return _is_float32(x, dy) and x.shape[-1] <= 3 and dy.shape[-1] <= 16


def _folding_pays(channels: int, features: int) -> bool:
    # The wider kernel multiplies more, by zeros: too much where the products are long already.
    return (features <= 16 and channels <= 6) or (features <= 8 and channels <= 16)


# The share of XLA's convolution that is not products is large where windows are few and channels
# many: 85 ms for 3×3 cells over 8×2×2×512, where the products take 2.
def _few_windows(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    windows = x.shape[0] * _size(window.output(x.shape[1:-1]))
    return (
        _is_float32(x, w)
        and windows < min(w.shape[-2:])
        and min(w.shape[-2:]) >= 32
        and window.cells <= UNROLLED
    )


def _few_windows_back(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return (
        _is_float32(dy, w)
        and dy.size // dy.shape[-1] <= 2048
        and min(w.shape[-2:]) >= 32
        and window.cells <= UNROLLED
    )


def _winograd_wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    # The transforms cost as much as the products save until many channels share them.
    return _is_float32(x, w) and _filtering_pays(x.shape, w.shape, window)


def _winograd_wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return _is_float32(dy, w) and _filtering_pays(input_shape, w.shape, window)


def _winograd_wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    return _is_float32(x, dy) and _filtering_pays(x.shape, dy.shape, window)


def _filtering_pays(x: Shape, like_output: Shape, window: Window) -> bool:
    c, o = x[-1], like_output[-1]
    multiplications = x[0] * _size(window.output(x[1:-1])) * window.cells * c * o
    places = x[0] * _size(x[1:-1])
    return min(c, o) >= 64 and places >= 512 and multiplications >= 1 << 26


def _columns_win(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    # For few features the product is narrower than the vector lanes; below some millions of
    # multiplications the loop over pieces costs more than it saves. XLA lays out an image's columns
    # too, and is the quicker where they are many times as large as the image.
    work = dy.size * window.cells * x.shape[-1]
    large = len(window.size) == 2 and window.cells > 9 and window.cells * x.shape[-1] > 80
    return (
        _is_float32(x, dy)
        and 2 <= window.cells <= UNROLLED
        and dy.shape[-1] >= 32
        and work >= 1 << 24
        and not large
    )


def _phases_win(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    # Below some channels each phase's product is too narrow.
    return _is_float32(dy, w) and window.cells <= UNROLLED and w.shape[-2] >= 16


def _pieces_win(x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int) -> bool:
    # Where few channels make a large output, its fresh memory costs more than its sums.
    return x.shape[-1] <= 8 and blocks.output_bytes(x, w, window) >= 8 << 20


def _many_cells(x: jax.Array, window: Window) -> bool:
    return window.cells > UNROLLED


def _few_overlaps(dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window) -> bool:
    return tiles.overlaps(window) <= UNROLLED


def _many_overlaps(dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window) -> bool:
    return tiles.overlaps(window) > UNROLLED


def _few_sum_overlaps(dy: jax.Array, input_shape: Shape, window: Window) -> bool:
    return tiles.overlaps(window) <= UNROLLED


def _size(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


TABLE.update(
    {
        "conv": (
            Row("pointwise", pointwise.conv, pointwise.can, _pointwise_wins),
            Row("folds", folds.conv, folds.can, _folds_win),
            Row("winograd", winograd.conv, winograd.can, _winograd_wins),
            Row("columns", columns.conv, columns.can, _few_windows),
            Row("xla", xla.conv, always, always, any_size=True),
        ),
        "conv_kernel_grad": (
            Row("pointwise", pointwise.conv_kernel_grad, pointwise.can_kernel_grad, always),
            Row("folds", folds.conv_kernel_grad, folds.can_kernel_grad, _folds_win_kernel_grad),
            Row(
                "winograd",
                winograd.conv_kernel_grad,
                winograd.can_kernel_grad,
                _winograd_wins_kernel_grad,
            ),
            Row("columns", columns.conv_kernel_grad, columns.can_kernel_grad, _columns_win),
            Row("xla", xla.conv_kernel_grad, always, always, any_size=True),
        ),
        "conv_input_grad": (
            Row("pointwise", pointwise.conv_input_grad, pointwise.can_input_grad, always),
            Row("folds", folds.conv_input_grad, folds.can_input_grad, _folds_win_input_grad),
            Row(
                "winograd",
                winograd.conv_input_grad,
                winograd.can_input_grad,
                _winograd_wins_input_grad,
            ),
            Row("columns", columns.conv_input_grad, columns.can_input_grad, _few_windows_back),
            Row("phases", phases.conv_input_grad, phases.can, _phases_win),
            Row("xla", xla.conv_input_grad, always, always, any_size=True),
        ),
        "conv_max_pool": (
            Row("pieces", blocks.pieces, blocks.can_pieces, _pieces_win),
            Row("xla", blocks.whole, always, always, any_size=True),
        ),
        "max_pool": (
            Row("axes", axes.max_pool, always, _many_cells, any_size=True),
            Row("xla", slices.max_pool, always, always, any_size=True),
        ),
        "max_pool_grad": (
            Row("tiles", tiles.max_pool_grad, _few_overlaps, always, any_size=True),
            Row("scatter", scatter.max_pool_grad, always, _many_overlaps, any_size=True),
            Row("xla", slices.max_pool_grad, always, always, any_size=True),
        ),
        "sum_pool": (
            Row("windows", windows.sum_pool, always, _many_cells, any_size=True),
            Row("xla", slices.sum_pool, always, always, any_size=True),
        ),
        "sum_pool_grad": (
            Row("tiles", tiles.sum_pool_grad, _few_sum_overlaps, always, any_size=True),
            Row("windows", windows.sum_pool_grad, always, always, any_size=True),
            Row("xla", slices.sum_pool_grad, always, always, any_size=True),
        ),
    }
)
ON_ALL_PLATFORMS.update({"max_pool", "max_pool_grad", "sum_pool", "sum_pool_grad"})
