"""Average and max pooling in one, two and three dimensions (chapter 4)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import lowering
from jaxbp.arguments import (
    Shape,
    choice,
    describe,
    flag,
    floats,
    ints,
    known,
    rank,
    reject,
    shape,
    shape_tuple,
    sum_dtype,
)
from jaxbp.lowering.slices import add, cells_inside, gather, pad, slices, ungather, unslice
from jaxbp.window import Window, make_window

_INPUT = "[N, *S, C] with one to three spatial axes,"
TIES = ("first", "split", "all")


def _avg_pool(
    x: jax.Array, input_shape: Shape, window: Window, count_include_pad: bool
) -> jax.Array:
    total = lowering.sum_pool(x, window)
    return (total / _count(input_shape, window, count_include_pad, total.dtype)).astype(x.dtype)


def avg_pool_grad(
    dy: Any,
    input_shape: Any,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Return the cotangent of average pooling's input: spread δ/|K| over each window's cells.

    ``dx_nkc = Σ_i dy_nic / |K|`` over the windows `i` that hold the place `k`; overlapping windows
    add.

    Source: (4.2)

    Args:
      dy: `[N, *S_out, C]` the cotangent of the output: loss per unit of output.
      input_shape: `(N, *S, C)`, the shape of the input.
      window, stride, padding, count_include_pad: as given to `avg_pool`.

    Returns:
      `[N, *S, C]`, the cotangent of the input, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> avg_pool_grad(jnp.array([2.0, 8.0]).reshape(1, 2, 1), (1, 4, 1), 2)[0, :, 0]
      Array([1., 1., 4., 4.], dtype=float32)

    See also:
      `avg_pool`, `max_pool_grad`.
    """
    name = "avg_pool_grad"
    (dy,) = floats(name, dy=dy)
    input_shape = _input_shape(name, dy, input_shape)
    made = pool_window(name, input_shape, window, stride, padding, 1)
    flag(name, "count_include_pad", count_include_pad)
    shape(name, "dy", dy, _output_shape(input_shape, made), "the output's")
    return _avg_pool_grad(dy, input_shape, made, count_include_pad)


def _avg_pool_grad(
    dy: jax.Array, input_shape: Shape, window: Window, count_include_pad: bool
) -> jax.Array:
    wide = dy.astype(sum_dtype(dy.dtype))
    share = wide / _count(input_shape, window, count_include_pad, wide.dtype)
    return lowering.sum_pool_grad(share, input_shape, window).astype(dy.dtype)


def max_pool_grad(
    dy: Any,
    winner: Any,
    input_shape: Any,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ties: str = "first",
) -> jax.Array:
    """Return the cotangent of max pooling's input: each window sends its whole δ to its winner.

    ``dx_nkc = Σ_i dy_nic [s·i + d·m*_nic − p = k]``; overlapping windows add.

    Source: (4.3), (4.4)

    Args:
      dy: `[N, *S_out, C]` the cotangent of the output: loss per unit of output.
      winner: `[N, *S_out, C]`, an integer dtype: the winning cell's number in its window,
        row-major, counting the window's cells in the padding. Or, for `ties="split"` and
        `"all"`, a bool `[N, *S_out, C, |K|]` that is True at every winner.
      input_shape: `(N, *S, C)`, the shape of the input.
      window, stride, padding, dilation, ties: as given to `max_pool`.

    Returns:
      `[N, *S, C]`, the cotangent of the input, in the dtype of `dy`; half precision sums in
      float32.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> dy = jnp.array([2.0, 8.0]).reshape(1, 2, 1)
      >>> winner = jnp.array([1, 0]).reshape(1, 2, 1)
      >>> max_pool_grad(dy, winner, (1, 4, 1), 2)[0, :, 0]
      Array([0., 2., 8., 0.], dtype=float32)

    See also:
      `max_pool`, `avg_pool_grad`.
    """
    name = "max_pool_grad"
    (dy,) = floats(name, dy=dy)
    input_shape = _input_shape(name, dy, input_shape)
    made = pool_window(name, input_shape, window, stride, padding, dilation)
    choice(name, "ties", ties, TIES)
    output_shape = _output_shape(input_shape, made)
    shape(name, "dy", dy, output_shape, "the output's")
    if not isinstance(winner, jax.Array | np.ndarray):
        raise reject(name, "winner", "an integer array", describe(winner), TypeError)
    if winner.dtype == bool and ties != "first":
        shape(name, "winner", winner, (*output_shape, made.cells), "True at every winner")
        return _tied_max_grad(dy, jnp.asarray(winner), input_shape, made, ties)
    if not jnp.issubdtype(winner.dtype, jnp.integer):
        raise reject(name, "winner", "an integer array", describe(winner), TypeError)
    shape(name, "winner", winner, output_shape, "dy's")
    winner = jnp.asarray(winner)
    # Where each cell is a slice, the winner is compared with its number, which must fit its dtype.
    if jnp.iinfo(winner.dtype).max < made.cells - 1:
        winner = winner.astype(np.int32)
    return lowering.max_pool_grad(dy, winner, input_shape, made)


def avg_pool_fwd(
    x: jax.Array, input_shape: Shape, window: Window, count_include_pad: bool
) -> tuple[jax.Array, None]:
    """Return `avg_pool`'s output; the backward pass needs nothing but shapes."""
    return _avg_pool(x, input_shape, window, count_include_pad), None


def avg_pool_bwd(
    input_shape: Shape, window: Window, count_include_pad: bool, residuals: None, dy: jax.Array
) -> tuple[jax.Array]:
    """Return the cotangent of `avg_pool`'s input."""
    return (_avg_pool_grad(dy, input_shape, window, count_include_pad),)


_avg_pool_rule = jax.custom_vjp(_avg_pool, nondiff_argnums=(1, 2, 3))
_avg_pool_rule.defvjp(avg_pool_fwd, avg_pool_bwd)


def avg_pool(
    x: Any,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Take the mean of each window, channel by channel.

    ``y_nic = Σ_m x_{n, s·i + m − p, c} / |K|``

    Source: (4.1); backward (4.2)

    Args:
      x: `[N, *S, C]` the input.
      window: the window's size, an int or one a spatial axis.
      stride: how far the window moves, an int or one a spatial axis; None for the window's size.
      padding: `"VALID"`, `"SAME"`, an int, or one `(low, high)` pair a spatial axis; a negative pad
        crops.
      count_include_pad: whether the padding's zeros count; if not, each window divides by the
        number of its cells that lie in the input.

    Returns:
      `[N, *S_out, C]` in the dtype of `x`; half precision sums in float32.

    Conventions:
      A window that lies in the padding altogether gives zero.
      Where `jax.export` does not know a spatial size yet, its constraints must say that a window
      fits in: `"h >= 2"`.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> avg_pool(jnp.array([1.0, 3.0, 5.0, 9.0]).reshape(1, 4, 1), 2)[0, :, 0]
      Array([2., 7.], dtype=float32)

    See also:
      `avg_pool_grad`, `max_pool`, `global_avg_pool`.
    """
    return _avg_pool_rule(*avg_pool_arguments(x, window, stride, padding, count_include_pad))


def avg_pool_arguments(
    x: Any, window: Any, stride: Any, padding: Any, count_include_pad: Any
) -> tuple[jax.Array, Shape, Window, bool]:
    """Return `avg_pool`'s arguments, checked: x, its shape, window and what to divide by."""
    (x,) = floats("avg_pool", x=x)
    rank("avg_pool", "x", x, (3, 4, 5), _INPUT)
    made = pool_window("avg_pool", x.shape, window, stride, padding, 1)
    return x, x.shape, made, flag("avg_pool", "count_include_pad", count_include_pad)


def sum_pool_fwd(x: jax.Array, input_shape: Shape, window: Window) -> tuple[jax.Array, None]:
    """Return `sum_pool`'s output; the backward pass needs nothing but shapes."""
    return _sum_pool(x, input_shape, window), None


def sum_pool_bwd(
    input_shape: Shape, window: Window, residuals: None, dy: jax.Array
) -> tuple[jax.Array]:
    """Return the cotangent of `sum_pool`'s input."""
    wide = dy.astype(sum_dtype(dy.dtype))
    return (lowering.sum_pool_grad(wide, input_shape, window).astype(dy.dtype),)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum_pool(x: jax.Array, input_shape: Shape, window: Window) -> jax.Array:
    return lowering.sum_pool(x, window).astype(x.dtype)


_sum_pool.defvjp(sum_pool_fwd, sum_pool_bwd)


def sum_pool(x: jax.Array, window: Any, *, stride: Any = None, padding: Any = "VALID") -> jax.Array:
    """Take the sum of each window, channel by channel: `avg_pool` times |K|, without its rounding.

    ``y_nic = Σ_m x_{n, s·i + m − p, c}``

    Source: (4.1); backward (4.2)
    """
    made = pool_window("sum_pool", x.shape, window, stride, padding, 1)
    return _sum_pool(x, x.shape, made)


def _max_pool(x: jax.Array, input_shape: Shape, window: Window, ties: str) -> jax.Array:
    return lowering.max_pool(x, window)[0]


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _tied_max(x: jax.Array, window: Window, ties: str) -> tuple[jax.Array, jax.Array]:
    """y[N, *S_out, C] and the winners, bool[N, *S_out, C, |K|]: every cell that is the largest."""
    y, _ = lowering.max_pool(x, window)
    inside = cells_inside(window, x.shape[1:-1])[:, None, ..., None]
    if _gathers(window, x.shape):
        cells = gather(x, window, -np.inf)
        return y, jnp.moveaxis(((cells == y) | jnp.isnan(cells)) & inside, 0, -1)
    winners = [
        ((cell == y) | jnp.isnan(cell)) & inside[m]
        for m, cell in enumerate(slices(pad(x, window, -np.inf), window, x.shape))
    ]
    return y, jnp.stack(winners, axis=-1)


@_tied_max.defjvp
def _tied_max_jvp(window: Window, ties: str, primals: Any, tangents: Any) -> Any:
    # The tangent of y is the transpose of the rule's own cotangent, so that the second order agrees
    # with the first.
    (x,), (dx,) = primals, tangents
    y, winners = _tied_max(x, window, ties)
    shares = _shares(winners, ties, dx.dtype)
    if _gathers(window, x.shape):
        by_cell = jnp.where(jnp.moveaxis(winners, -1, 0), gather(dx, window, 0), 0)
        dy = jnp.sum(by_cell, axis=0)
    else:
        cells = slices(pad(dx, window, 0), window, x.shape)
        dy = add(jnp.where(winners[..., m], cell, 0) for m, cell in enumerate(cells))
    return (y, winners), ((dy * shares).astype(y.dtype), np.zeros(winners.shape, jax.dtypes.float0))


def _tied_max_grad(
    dy: jax.Array, winners: jax.Array, input_shape: Shape, window: Window, ties: str
) -> jax.Array:
    wide = dy.astype(sum_dtype(dy.dtype))
    share = wide * _shares(winners, ties, wide.dtype)
    zero = jnp.zeros((), wide.dtype)
    if _gathers(window, input_shape):
        by_cell = jnp.where(jnp.moveaxis(winners, -1, 0), share, zero)
        return ungather(by_cell, input_shape, window).astype(dy.dtype)
    shares = (jnp.where(winners[..., m], share, zero) for m in range(window.cells))
    return unslice(shares, input_shape, window).astype(dy.dtype)


def _gathers(window: Window, input_shape: Shape) -> bool:
    """Whether cells are gathered rather than sliced: too many, of places that are known."""
    return window.cells > lowering.UNROLLED and known(*input_shape[1:-1])


def _shares(winners: jax.Array, ties: str, dtype: Any) -> jax.Array:
    """The part of δ that each winner gets, [N, *S_out, C]."""
    count = jnp.sum(winners, axis=-1).astype(dtype)
    return 1 / jnp.maximum(count, 1) if ties == "split" else jnp.ones_like(count)


class MaxPoolResiduals(NamedTuple):
    """What the backward pass of `max_pool` needs."""

    winner: jax.Array  # [N, *S_out, C] uint8, or bool[N, *S_out, C, |K|]: where dy goes (4.4)


def max_pool_fwd(
    x: jax.Array, input_shape: Shape, window: Window, ties: str
) -> tuple[jax.Array, MaxPoolResiduals]:
    """Return `max_pool`'s output and residuals."""
    if ties == "first":
        y, winner = lowering.max_pool(x, window)
    else:
        y, winner = _tied_max(x, window, ties)
    return y, MaxPoolResiduals(winner)


def max_pool_bwd(
    input_shape: Shape, window: Window, ties: str, residuals: MaxPoolResiduals, dy: jax.Array
) -> tuple[jax.Array]:
    """Return the cotangent of `max_pool`'s input."""
    if ties == "first":
        return (lowering.max_pool_grad(dy, residuals.winner, input_shape, window),)
    return (_tied_max_grad(dy, residuals.winner, input_shape, window, ties),)


_max_pool_rule = jax.custom_vjp(_max_pool, nondiff_argnums=(1, 2, 3))
_max_pool_rule.defvjp(max_pool_fwd, max_pool_bwd)


def max_pool(
    x: Any,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ties: str = "first",
) -> jax.Array:
    """Take the largest value of each window, channel by channel.

    ``y_nic = max_m x_{n, s·i + d·m − p, c}``

    Source: (4.3); backward (4.4)

    Args:
      x: `[N, *S, C]` the input.
      window: the window's size, an int or one a spatial axis.
      stride: how far the window moves, an int or one a spatial axis; None for the window's size.
      padding: `"VALID"`, `"SAME"`, an int, or one `(low, high)` pair a spatial axis; a negative pad
        crops. The padding never wins: it is −inf, not zero.
      dilation: the distance of the window's cells, an int or one a spatial axis.
      ties: who gets δ where several cells are the largest: the `"first"` in row-major order, as in
        XLA; every one an equal part (`"split"`); every one the whole (`"all"`).

    Returns:
      `[N, *S_out, C]` in the dtype of `x`.

    Conventions:
      NaN is the largest. In a window of −inf only, the input's cells tie, the padding's do not
      count. A window that lies in the padding altogether gives −inf and sends nothing back.
      Where `jax.export` does not know a spatial size yet, its constraints must say that a window
      fits in: `"h >= 2"`.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> max_pool(jnp.array([1.0, 3.0, 9.0, 5.0]).reshape(1, 4, 1), 2)[0, :, 0]
      Array([3., 9.], dtype=float32)

    See also:
      `max_pool_grad`, `avg_pool`, `global_max_pool`.
    """
    return _max_pool_rule(*max_pool_arguments(x, window, stride, padding, dilation, ties))


def max_pool_arguments(
    x: Any, window: Any, stride: Any, padding: Any, dilation: Any, ties: Any
) -> tuple[jax.Array, Shape, Window, str]:
    """Return `max_pool`'s arguments, checked: x, its shape, window and tie rule."""
    (x,) = floats("max_pool", x=x)
    rank("max_pool", "x", x, (3, 4, 5), _INPUT)
    made = pool_window("max_pool", x.shape, window, stride, padding, dilation)
    return x, x.shape, made, choice("max_pool", "ties", ties, TIES)


def global_avg_pool(x: Any) -> jax.Array:
    """Take the mean over all places, channel by channel.

    ``y_nc = Σ_k x_nkc / |S|``: average pooling with one window as large as the input.

    Source: (4.1); backward (4.2)

    Args:
      x: `[N, *S, C]` the input.

    Returns:
      `[N, C]` in the dtype of `x`; half precision sums in float32.

    Raises:
      TypeError: if `x` is no real floating array.
      ValueError: if its rank is not 3, 4 or 5, or it has no places, or not yet a known number of
        them (in `jax.export`).

    Example:
      >>> global_avg_pool(jnp.array([1.0, 3.0, 5.0, 9.0]).reshape(1, 4, 1))
      Array([[4.5]], dtype=float32)

    See also:
      `avg_pool`, `global_max_pool`.
    """
    x = with_places("global_avg_pool", x)
    return avg_pool(x, x.shape[1:-1]).reshape(x.shape[0], x.shape[-1])


def global_max_pool(x: Any) -> jax.Array:
    """Take the largest value over all places, channel by channel.

    ``y_nc = max_k x_nkc``: max pooling with one window as large as the input.

    Source: (4.3); backward (4.4)

    Args:
      x: `[N, *S, C]` the input.

    Returns:
      `[N, C]` in the dtype of `x`.

    Conventions:
      As `max_pool`: the first of several largest gets δ, and NaN is the largest.

    Raises:
      TypeError: if `x` is no real floating array.
      ValueError: if its rank is not 3, 4 or 5, or it has no places, or not yet a known number of
        them (in `jax.export`).

    Example:
      >>> global_max_pool(jnp.array([1.0, 3.0, 9.0, 5.0]).reshape(1, 4, 1))
      Array([[9.]], dtype=float32)

    See also:
      `max_pool`, `global_avg_pool`.
    """
    x = with_places("global_max_pool", x)
    return max_pool(x, x.shape[1:-1]).reshape(x.shape[0], x.shape[-1])


def with_places(function: str, x: Any) -> jax.Array:
    """Return the argument of a pooling over all places, checked."""
    (x,) = floats(function, x=x)
    rank(function, "x", x, (3, 4, 5), _INPUT)
    if 0 in x.shape[1:-1] or not known(*x.shape[1:-1]):
        raise reject(function, "x", "[N, *S, C] with each S known and not zero", describe(x))
    return x


def pool_window(
    function: str, input_shape: Shape, window: Any, stride: Any, padding: Any, dilation: Any
) -> Window:
    """Return the window of a pooling: its stride is its size unless given."""
    spatial = input_shape[1:-1]
    size = ints(function, "window", window, len(spatial))
    stride = size if stride is None else stride
    return make_window(function, spatial, size, stride=stride, padding=padding, dilation=dilation)


def _input_shape(function: str, dy: jax.Array, input_shape: Any) -> Shape:
    rank(function, "dy", dy, (3, 4, 5), "[N, *S_out, C] with one to three spatial axes,")
    return shape_tuple(function, "input_shape", input_shape, (dy.ndim,), "(N, *S, C)")


def _output_shape(input_shape: Shape, window: Window) -> Shape:
    return (input_shape[0], *window.output(input_shape[1:-1]), input_shape[-1])


def _count(input_shape: Shape, window: Window, count_include_pad: bool, dtype: Any) -> Any:
    """How many cells each window divides by: a number, or [1, *S_out, 1]."""
    if count_include_pad or not window.pads:
        return window.cells
    inside = cells_inside(window, input_shape[1:-1]).sum(axis=0)
    return jnp.asarray(inside.clip(1)[None, ..., None], dtype)
