"""Fully connected layers (chapter 2 of the document)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.arguments import aligned, describe, floats, rank, reject, shape, sum_dtype, vary_alike
from jaxbp.precision import custom_vjp


def _dense(x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
    z = _matmul(x, w)
    return z if b is None else z + aligned(b, z)


def dense_input_grad(dy: jax.Array, w: jax.Array) -> jax.Array:
    """Return the cotangent of a dense layer's input.

    ``dx_i = Σ_j w_ij dy_j``: every node that `x_i` feeds sends its share back.

    Source: (2.10)

    Args:
      dy: `[..., O]` the cotangent of the output: loss per unit of output.
      w: `[I, O]` the weights, of the same dtype.

    Returns:
      `[..., I]`, the cotangent of the input, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> dense_input_grad(jnp.array([1.0, -1.0]), jnp.array([[1.0, 2.0], [3.0, 5.0]]))
      Array([-1., -2.], dtype=float32)

    See also:
      `dense`, `dense_weight_grad`, `dense_bias_grad`.
    """
    dy, w = floats("dense_input_grad", dy=dy, w=w)
    _check_weights("dense_input_grad", "dy", dy, w, axis=1)
    return _matmul(dy, w.T)


def dense_weight_grad(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the cotangent of a dense layer's weights.

    ``dw_ij = Σ_n x_ni dy_nj``: output of the node before × sensitivity of the node after, summed
    over examples.

    Source: (2.3), (2.6), (2.9), (2.12)

    Args:
      x: `[..., I]` the layer's input.
      dy: `[..., O]` the cotangent of the output: loss per unit of output; same dtype.

    Returns:
      `[I, O]`, the cotangent of the weights, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the leading axes of `x` and `dy` differ.

    Example:
      >>> dense_weight_grad(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]]))
      Array([[ 3.,  5.],
             [ 6., 10.]], dtype=float32)

    See also:
      `dense`, `dense_input_grad`, `dense_bias_grad`.
    """
    x, dy = floats("dense_weight_grad", x=x, dy=dy)
    _check_features("dense_weight_grad", "x", x)
    shape("dense_weight_grad", "dy", dy, (*x.shape[:-1], *dy.shape[-1:]), "the leading axes of x")
    examples = math.prod(x.shape[:-1])
    x, dy = (a.reshape(examples, a.shape[-1]) for a in (x, dy))
    return _matmul(x.T, dy)


def dense_bias_grad(dy: jax.Array) -> jax.Array:
    """Return the cotangent of a dense layer's bias.

    ``db_j = Σ_n dy_nj``: a sum over examples, not a mean.

    Source: (2.9), (2.12)

    Args:
      dy: `[..., O]` the cotangent of the output: loss per unit of output.

    Returns:
      `[O]`, the cotangent of the bias, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if `dy` is no real floating array.
      ValueError: if `dy` has no axis.

    Example:
      >>> dense_bias_grad(jnp.array([[1.0, 2.0], [3.0, 5.0]]))
      Array([4., 7.], dtype=float32)

    See also:
      `dense`, `dense_input_grad`, `dense_weight_grad`.
    """
    (dy,) = floats("dense_bias_grad", dy=dy)
    _check_features("dense_bias_grad", "dy", dy)
    wide = sum_dtype(dy.dtype)
    return jnp.sum(dy, axis=tuple(range(dy.ndim - 1)), dtype=wide).astype(dy.dtype)


class DenseResiduals(NamedTuple):
    """What the backward pass of `dense` needs."""

    x: jax.Array  # [..., I], for the weights' cotangent (2.9)
    w: jax.Array  # [I, O], for the input's cotangent (2.10)
    b: jax.Array | None  # [O], only to know whether there is a bias


def dense_fwd(x: jax.Array, w: jax.Array, b: jax.Array | None) -> tuple[jax.Array, DenseResiduals]:
    """Return `dense`'s output and residuals."""
    return _dense(x, w, b), DenseResiduals(x, w, b)


def dense_bwd(
    residuals: DenseResiduals, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the cotangents of `dense`'s input, weights and bias."""
    x, w, b = residuals
    db = None if b is None else dense_bias_grad(dy)
    return dense_input_grad(dy, w), dense_weight_grad(x, dy), db


_dense_rule = custom_vjp(_dense, dense_fwd, dense_bwd)


def dense(x: Any, w: Any, b: Any = None) -> jax.Array:
    """Apply a fully connected layer, without its activation.

    ``y_j = Σ_i x_i w_ij + b_j``

    Source: (2.1); backward (2.3), (2.6), (2.9) to (2.12)

    Args:
      x: `[..., I]` the input, any leading axes.
      w: `[I, O]` the weights, of the same dtype.
      b: `[O]` the bias, or None for none.

    Returns:
      `[..., O]` in the dtype of the arguments; half precision sums in float32 and rounds once.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> dense(jnp.array([1.0, 2.0]), jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([0.5, 0.0]))
      Array([ 7.5, 12. ], dtype=float32)

    See also:
      `dense_input_grad`, `dense_weight_grad`, `dense_bias_grad`.
    """
    return _dense_rule(*vary_alike(*dense_arguments(x, w, b)))


def dense_arguments(x: Any, w: Any, b: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return `dense`'s arguments, checked."""
    named = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    x, w, *bias = floats("dense", **named)
    _check_weights("dense", "x", x, w, axis=0)
    if bias:
        shape("dense", "b", bias[0], w.shape[1:], "one a column of w")
    return x, w, bias[0] if bias else None


def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    # Half precision sums in float32, and rounds once.
    wide = sum_dtype(x.dtype)
    return jnp.matmul(x, w, preferred_element_type=wide).astype(x.dtype)


def _check_features(function: str, argument: str, x: jax.Array) -> None:
    if x.ndim == 0:
        raise reject(function, argument, "at least of rank 1, features last", describe(x))


def _check_weights(function: str, argument: str, x: jax.Array, w: jax.Array, axis: int) -> None:
    _check_features(function, argument, x)
    rank(function, "w", w, (2,), "weights [I, O]")
    if x.shape[-1] != w.shape[axis]:
        expected = f"of shape [..., {w.shape[axis]}] as w is {describe(w)}"
        raise reject(function, argument, expected, describe(x))
