"""A convolution and the max pooling after it, in one go: the large array between is never whole."""

from __future__ import annotations

import math

import jax

from jaxbp.lowering import choice
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.pieces import each_piece
from jaxbp.window import Window

# Bytes of the convolution's output to hold at a time.
PIECE = 4 << 20


def whole(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """One after the other: the largest y[N, *S_pool, O] of each window, and its winner."""
    z = choice.run("conv", (window, groups), x, w)
    y: tuple[jax.Array, jax.Array] = choice.run("max_pool", (pool,), z)
    return y


def can_pieces(x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int) -> bool:
    """Whether there is something to compute, and more than one piece to do it in."""
    return 0 not in (*x.shape, *w.shape) and _examples(x, w, window) < x.shape[0]


def pieces(
    x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """As `whole`, a few examples at a time."""

    def piece(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return whole(x, w, window, pool, groups)

    y: tuple[jax.Array, jax.Array] = each_piece(piece, _examples(x, w, window), x)
    return y


def _output_bytes(x: jax.Array, w: jax.Array, window: Window) -> int:
    """The size of the convolution's output."""
    places = x.shape[0] * math.prod(window.output(x.shape[1:-1]))
    return places * w.shape[-1] * x.dtype.itemsize


def _examples(x: jax.Array, w: jax.Array, window: Window) -> int:
    """How many examples a piece has."""
    return max(1, PIECE * x.shape[0] // max(1, _output_bytes(x, w, window)))


def _pieces_win(x: jax.Array, w: jax.Array, window: Window, pool: Window, groups: int) -> bool:
    # Where few channels make a large output, its fresh memory costs more than its sums.
    return x.shape[-1] <= 8 and _output_bytes(x, w, window) >= 8 << 20


ROWS = {
    "conv_max_pool": (
        Row("pieces", pieces, can_pieces, _pieces_win),
        Row("xla", whole, always, always, any_size=True),
    )
}
