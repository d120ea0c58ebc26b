"""Pooling as an elementwise chain over one slice for each cell of the window."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.slices import add, cells_inside, pad, slices, unslice
from jaxbp.window import Window


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


ROWS = {
    "max_pool": Row("xla", max_pool, always, always, any_size=True),
    "max_pool_grad": Row("xla", max_pool_grad, always, always, any_size=True),
    "sum_pool": Row("xla", sum_pool, always, always, any_size=True),
    "sum_pool_grad": Row("xla", sum_pool_grad, always, always, any_size=True),
}
