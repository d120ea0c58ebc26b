"""A few examples at a time, so that what is computed in between stays in the cache.

Fresh memory is dear on a CPU: every page of a large intermediate array is mapped anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.arguments import vary_alike


def each_piece(run: Callable[..., Any], examples: int, *batches: jax.Array) -> Any:
    """run(*batches), so many examples at a time: arrays [N, …] in, a tree of arrays [N, …] out."""
    n = batches[0].shape[0]
    pieces, rest = divmod(n, min(n, examples))
    whole = n - rest
    if pieces == 1 and not rest:
        return run(*batches)
    stacked = [a[:whole].reshape(pieces, -1, *a.shape[1:]) for a in batches]
    out = lax.map(lambda piece: run(*piece), stacked)
    out = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), out)
    if not rest:
        return out
    tail = run(*(a[whole:] for a in batches))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, tail)


def sum_pieces(run: Callable[..., Any], examples: int, *batches: jax.Array) -> Any:
    """run(*batches), so many examples at a time, where run sums over examples."""
    n = batches[0].shape[0]
    pieces, rest = divmod(n, min(n, examples))
    whole = n - rest
    if pieces == 1 and not rest:
        return run(*batches)

    def step(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, run(*piece)), None

    tail = [a[whole:] for a in batches] if rest else None
    stacked = [a[:whole].reshape(pieces, -1, *a.shape[1:]) for a in batches]
    shapes = jax.eval_shape(run, *(a[0] for a in stacked))
    zeros = jax.tree.map(lambda s: vary_alike(jnp.zeros(s.shape, s.dtype), *batches)[0], shapes)
    start = zeros if tail is None else run(*tail)
    return lax.scan(step, start, tuple(stacked))[0]
