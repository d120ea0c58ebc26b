"""How a sum's strategy is chosen, forced by name, and run on the platform that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxbp.arguments import known


class Row(NamedTuple):
    """A strategy for an operation."""

    name: str
    run: Callable[..., Any]
    can: Callable[..., bool]  # of the operation's own arguments
    wins: Callable[..., bool]  # of the same, where it can
    any_size: bool = False  # whether sizes may be unknown, as in `jax.export` of symbolic shapes


# Each operation's rows; `table` fills it. And the operations that one row serves on all platforms.
TABLE: dict[str, tuple[Row, ...]] = {}
ON_ALL_PLATFORMS: set[str] = set()


def always(*case: Any) -> bool:
    """Every case."""
    return True


def is_float32(*arrays: jax.Array) -> bool:
    """Whether all are float32, which the strategies' bounds were timed in."""
    return all(a.dtype == np.float32 for a in arrays)


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
    names = tuple(sorted({row.name for rows in TABLE.values() for row in rows}))
    if name not in names:
        raise ValueError(f"use: name must be one of {names}, got {name!r}")
    with _forced(name):
        yield


def choose(operation: str, *case: Any) -> tuple[Row, bool]:
    """Return the row for a case on a CPU, and whether it was forced by name."""
    forced = _forced.value
    rows = TABLE[operation]
    if not known(*(n for operand in case for n in getattr(operand, "shape", ()))):
        rows = tuple(row for row in rows if row.any_size)
    for row in rows:
        if row.name == forced and row.can(*case):
            return row, True
    return next(row for row in rows if row.can(*case) and row.wins(*case)), False


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def run(operation: str, static: tuple[Any, ...], *operands: jax.Array) -> Any:
    """Return the operation's result, its static arguments after its operands.

    One jitted call, so that outside jit too an operation is one program, not one a slice.
    """
    row, forced = choose(operation, *operands, *static)
    plain = TABLE[operation][-1]

    def by(row: Row) -> Callable[..., Any]:
        return lambda *operands: row.run(*operands, *static)

    if forced or row is plain or operation in ON_ALL_PLATFORMS:
        return by(row)(*operands)
    return lax.platform_dependent(*operands, cpu=by(row), default=by(plain))
