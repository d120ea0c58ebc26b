"""Which way a sum is taken: one table, read when an operation is traced.

A row names a strategy, its function, which cases it can do at all, and which of those it wins on a
CPU; the first row that wins is taken, and the last row of each operation, `xla`, can do and wins
everything. GPU and TPU convolve as XLA likes: the traced program holds both ways, and lowering
keeps the one of its platform. Pooling is elementwise however it is summed, so its rows hold
everywhere.

The bounds below were measured on two cores of an x86-64 server by `experiments/benchmark.py --ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.arguments import Shape
from jaxbp.lowering import axes, columns, phases, pointwise, scatter, slices, tiles, windows, xla
from jaxbp.window import Window

# A window of more cells is not written out cell by cell: the program would grow with it.
UNROLLED = 64


class Row(NamedTuple):
    """A strategy for an operation."""

    name: str
    run: Callable[..., Any]
    can: Callable[..., bool]  # of the operation's own arguments
    wins: Callable[..., bool]  # of the same, where it can


def always(*case: Any) -> bool:
    """Every case."""
    return True


def never(*case: Any) -> bool:
    """No case: only by name."""
    return False


def _is_float32(*arrays: jax.Array) -> bool:
    return all(a.dtype == jnp.float32 for a in arrays)


def _columns_win(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    # Below a few million multiplications the loop over pieces costs more than it saves.
    work = dy.size * window.cells * x.shape[-1]
    return _is_float32(x, dy) and 2 <= window.cells <= UNROLLED and work >= 1 << 24


def _phases_win(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return _is_float32(dy, w) and window.cells <= UNROLLED


def _few_cells(x: jax.Array, window: Window) -> bool:
    return window.cells <= UNROLLED


def _few_overlaps(dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window) -> bool:
    return tiles.overlaps(window) <= UNROLLED


def _few_sum_overlaps(dy: jax.Array, input_shape: Shape, window: Window) -> bool:
    return tiles.overlaps(window) <= UNROLLED


CONVOLUTIONS: dict[str, tuple[Row, ...]] = {
    "conv": (
        Row("pointwise", pointwise.conv, pointwise.can, always),
        Row("xla", xla.conv, always, always),
    ),
    "conv_kernel_grad": (
        Row("pointwise", pointwise.conv_kernel_grad, pointwise.can_kernel_grad, always),
        Row("columns", columns.conv_kernel_grad, columns.can_kernel_grad, _columns_win),
        Row("xla", xla.conv_kernel_grad, always, always),
    ),
    "conv_input_grad": (
        Row("pointwise", pointwise.conv_input_grad, pointwise.can_input_grad, always),
        Row("phases", phases.conv_input_grad, phases.can, _phases_win),
        Row("xla", xla.conv_input_grad, always, always),
    ),
}

POOLINGS: dict[str, tuple[Row, ...]] = {
    "max_pool": (
        Row("axes", axes.max_pool, always, lambda x, window: not _few_cells(x, window)),
        Row("xla", slices.max_pool, always, always),
    ),
    "max_pool_grad": (
        Row("tiles", tiles.max_pool_grad, _few_overlaps, always),
        Row("scatter", scatter.max_pool_grad, always, never),
        Row("xla", slices.max_pool_grad, always, always),
    ),
    "sum_pool": (
        Row("windows", windows.sum_pool, always, lambda x, window: not _few_cells(x, window)),
        Row("xla", slices.sum_pool, always, always),
    ),
    "sum_pool_grad": (
        Row("tiles", tiles.sum_pool_grad, _few_sum_overlaps, always),
        Row("windows", windows.sum_pool_grad, always, always),
        Row("xla", slices.sum_pool_grad, always, always),
    ),
}

TABLE = CONVOLUTIONS | POOLINGS
NAMES = tuple(sorted({row.name for rows in TABLE.values() for row in rows}))

# Part of the key of jit's cache, so that a function is traced anew under another strategy.
_forced = jax.make_user_context(None)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Force a strategy wherever it can be had, for everything traced inside.

    An operation that has no strategy of this name, or whose strategy cannot do the case at hand
    (`pointwise` on a 3×3 kernel), is chosen as without. `"xla"` is the plain way that every
    operation has: XLA's convolution, and one slice for each cell of a pooling window.

    Args:
      name: the strategy.

    Raises:
      ValueError: if no operation has a strategy of this name.

    Example:
      >>> import jax.numpy as jnp, jaxbp
      >>> with jaxbp.lowering.use("xla"):
      ...     jaxbp.conv(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1))).shape
      (1, 2, 2, 1)
    """
    if name not in NAMES:
        raise ValueError(f"use: name must be one of {NAMES}, got {name!r}")
    with _forced(name):
        yield


def choose(operation: str, *case: Any) -> tuple[Row, bool]:
    """Return the row for a case on a CPU, and whether it was forced by name."""
    forced = _forced.value
    for row in TABLE[operation]:
        if row.name == forced and row.can(*case):
            return row, True
    return next(row for row in TABLE[operation] if row.can(*case) and row.wins(*case)), False


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def run(operation: str, static: tuple[Any, ...], *operands: jax.Array) -> Any:
    """Return the operation's result, its static arguments after its operands.

    One jitted call, so that outside jit too an operation is one program, not one a slice.
    """
    row, forced = choose(operation, *operands, *static)
    plain = TABLE[operation][-1]

    def by(row: Row) -> Callable[..., Any]:
        return lambda *operands: row.run(*operands, *static)

    if forced or row is plain or operation in POOLINGS:
        return by(row)(*operands)
    return lax.platform_dependent(*operands, cpu=by(row), default=by(plain))
