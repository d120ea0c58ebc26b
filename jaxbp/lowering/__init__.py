"""The sums of the rules, each in the order that the device likes.

A rule names a sum, `lowering.conv_kernel_grad(x, dy, window, groups)`; how it is summed is chosen
in `table`, when it is traced, by platform, shape and dtype. `use` forces a strategy by name.
"""

from __future__ import annotations

import jax

from jaxbp.arguments import Shape
from jaxbp.lowering import table
from jaxbp.lowering.choice import run, use
from jaxbp.lowering.slices import UNROLLED
from jaxbp.window import Window

__all__ = [
    "UNROLLED",
    "conv",
    "conv_input_grad",
    "conv_kernel_grad",
    "conv_max_pool",
    "max_pool",
    "max_pool_grad",
    "sum_pool",
    "sum_pool_grad",
    "table",
    "use",
]


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C // groups, O], the sum (3.5)."""
    return run("conv", (window, groups), x, w)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C // groups, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    return run("conv_kernel_grad", (window, groups), x, dy)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C // groups, O], the sum (3.7)."""
    return run("conv_input_grad", (input_shape, window, groups), dy, w)


def conv_max_pool(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """The largest of each window of the convolution, and the winner: (3.5) and (4.3)."""
    return run("conv_max_pool", (window, pool, groups), x, w)


def max_pool(x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """y[N, *S_out, C] and each window's winner, the number of its first largest cell (4.3)."""
    return run("max_pool", (window,), x)


def max_pool_grad(
    dy: jax.Array, winner: jax.Array, input_shape: Shape, window: Window
) -> jax.Array:
    """dx[N, *S, C]: each window's dy goes to its winner, and overlapping windows add (4.4)."""
    return run("max_pool_grad", (input_shape, window), dy, winner)


def sum_pool(x: jax.Array, window: Window) -> jax.Array:
    """y[N, *S_out, C]: the sum of each window's cells, in float32 at least."""
    return run("sum_pool", (window,), x)


def sum_pool_grad(dy: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    """dx[N, *S, C]: each window gives dy to each of its cells, and overlapping windows add."""
    return run("sum_pool_grad", (input_shape, window), dy)
