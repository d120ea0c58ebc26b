"""A few examples at a time, so that what is computed in between stays in the cache.

Fresh memory is dear on a CPU: every page of a large intermediate array is mapped anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.arguments import known, vary_alike


def each_piece(run: Callable[..., Any], examples: int, *batches: jax.Array) -> Any:
    """run(*batches), so many examples at a time: arrays [N, …] in, a tree of arrays [N, …] out."""
    n = batches[0].shape[0]
    if not known(n):
        return run(*batches)
    size = _even(n, examples)
    pieces, rest = divmod(n, size)
    if pieces == 1 and not rest:
        return run(*batches)

    def put(out: Any, i: Any, piece: Any) -> Any:
        return jax.tree.map(
            lambda a, b: lax.dynamic_update_slice_in_dim(a, b, i * size, 0), out, piece
        )

    def step(i: jax.Array, out: Any) -> Any:
        return put(out, i, run(*_piece(batches, i, size)))

    # Every entry is overwritten. What they are at first comes from the batch and not, as `lax.map`
    # has it, from a constant: equal constants of two loops become one array, which lives from the
    # first loop to the last and is copied for all but one of them.
    some = batches[0].ravel()[0]
    shapes = jax.eval_shape(run, *(a[:size] for a in batches))
    start = jax.tree.map(lambda s: jnp.full((n, *s.shape[1:]), some.astype(s.dtype)), shapes)
    out = lax.fori_loop(0, pieces, step, start)
    return put(out, pieces, run(*_rest(batches, rest))) if rest else out


def sum_pieces(run: Callable[..., Any], examples: int, *batches: jax.Array) -> Any:
    """run(*batches), so many examples at a time, where run sums over examples."""
    n = batches[0].shape[0]
    if not known(n):
        return run(*batches)
    size = _even(n, examples)
    pieces, rest = divmod(n, size)
    if pieces == 1 and not rest:
        return run(*batches)

    def step(total: Any, i: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, run(*_piece(batches, i, size))), None

    shapes = jax.eval_shape(run, *(a[:size] for a in batches))
    zeros = jax.tree.map(lambda s: vary_alike(jnp.zeros(s.shape, s.dtype), *batches)[0], shapes)
    start = run(*_rest(batches, rest)) if rest else zeros
    return lax.scan(step, start, jnp.arange(pieces))[0]


def _piece(batches: tuple[jax.Array, ...], i: jax.Array, size: int) -> list[jax.Array]:
    # Cut in the loop: as the loop's own inputs [pieces, size, …] the batches would be computed a
    # second time in that shape, beside the one that others read.
    return [lax.dynamic_slice_in_dim(a, i * size, size) for a in batches]


def _rest(batches: tuple[jax.Array, ...], rest: int) -> list[jax.Array]:
    return [a[-rest:] for a in batches]


def _even(n: int, examples: int) -> int:
    """So many examples of n or fewer, down to half: without a rest, which would be copied out."""
    most = min(n, examples)
    return next((k for k in range(most, most // 2, -1) if n % k == 0), most)
