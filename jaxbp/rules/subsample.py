"""Trainable subsampling and learned combination of maps (chapter 5 of the document)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp import lowering
from jaxbp.arguments import (
    Shape,
    aligned,
    describe,
    floats,
    rank,
    reject,
    shape,
    shape_tuple,
    vary_alike,
    widen,
)
from jaxbp.precision import custom_vjp
from jaxbp.rules.activation import softmax_grad
from jaxbp.rules.conv import conv_bias_grad
from jaxbp.rules.dense import dense_input_grad, dense_weight_grad
from jaxbp.rules.pool import pool_window
from jaxbp.window import Window

# subsampling


def _subsample(
    x: jax.Array, beta: jax.Array, b: jax.Array, input_shape: Shape, window: Window
) -> jax.Array:
    return _scale(_mean(x, window), beta, b)


def subsample_input_grad(dz: Any, beta: Any, input_shape: Any, window: Any) -> jax.Array:
    """Return the cotangent of subsampling's input.

    ``dx_nkc = β_c dz_nic / |K|`` in the window `i` that holds the place `k`; the rest, which no
    window reaches, gets zero.

    Source: (5.2)

    Args:
      dz: `[N, *S_out, C]` the cotangent of the output: loss per unit of output.
      beta: `[C]` the factors, of the same dtype.
      input_shape: `(N, *S, C)`, the shape of the input.
      window: as given to `subsample`.

    Returns:
      `[N, *S, C]`, the cotangent of the input, in the same dtype.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if the shapes do not fit.

    Example:
      >>> dz = jnp.float32([1.0, 2.0]).reshape(1, 2, 1)
      >>> subsample_input_grad(dz, jnp.float32([4.0]), (1, 5, 1), 2)[0, :, 0]
      Array([2., 2., 4., 4., 0.], dtype=float32)

    See also:
      `subsample`, `subsample_beta_grad`, `conv_bias_grad`.
    """
    name = "subsample_input_grad"
    dz, beta = floats(name, dz=dz, beta=beta)
    rank(name, "dz", dz, (3, 4, 5), "[N, *S_out, C] with one to three spatial axes,")
    input_shape = shape_tuple(name, "input_shape", input_shape, (dz.ndim,), "(N, *S, C)")
    made = pool_window(name, input_shape, window, None, "VALID", 1)
    output_shape = (input_shape[0], *made.output(input_shape[1:-1]), input_shape[-1])
    shape(name, "dz", dz, output_shape, "the output's")
    shape(name, "beta", beta, dz.shape[-1:], "one a channel")
    wide, wide_beta = widen(dz, beta)
    share = wide * aligned(wide_beta, wide) / made.cells
    return lowering.sum_pool_grad(share, input_shape, made).astype(dz.dtype)


def subsample_beta_grad(mean: Any, dz: Any) -> jax.Array:
    """Return the cotangent of subsampling's factors.

    ``dβ_c = Σ_ni dz_nic mean(x)_nic``: one β serves a whole map, so a sum over its places.

    Source: (5.2)

    Args:
      mean: `[N, *S_out, C]` each window's mean.
      dz: `[N, *S_out, C]` the cotangent of the output: loss per unit of output; same dtype.

    Returns:
      `[C]`, the cotangent of β, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> mean, dz = (jnp.float32(a).reshape(1, 2, 1) for a in ([1.0, 3.0], [2.0, 4.0]))
      >>> subsample_beta_grad(mean, dz)
      Array([14.], dtype=float32)

    See also:
      `subsample`, `subsample_input_grad`, `conv_bias_grad`.
    """
    name = "subsample_beta_grad"
    mean, dz = floats(name, mean=mean, dz=dz)
    rank(name, "mean", mean, (3, 4, 5), "[N, *S_out, C] with one to three spatial axes,")
    shape(name, "dz", dz, mean.shape, "as mean is")
    wide_mean, wide = widen(mean, dz)
    return jnp.sum(wide * wide_mean, axis=tuple(range(dz.ndim - 1))).astype(dz.dtype)


class SubsampleResiduals(NamedTuple):
    """What the backward pass of `subsample` needs."""

    mean: jax.Array  # [N, *S_out, C] in float32 at least, for β's cotangent (5.2)
    beta: jax.Array  # [C], for the input's cotangent (5.2)


def subsample_fwd(
    x: jax.Array, beta: jax.Array, b: jax.Array, input_shape: Shape, window: Window
) -> tuple[jax.Array, SubsampleResiduals]:
    """Return `subsample`'s output and residuals."""
    mean = _mean(x, window)
    return _scale(mean, beta, b), SubsampleResiduals(mean, beta)


def subsample_bwd(
    input_shape: Shape, window: Window, residuals: SubsampleResiduals, dz: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the cotangents of `subsample`'s input, β and bias."""
    mean, beta = residuals
    (wide,) = widen(dz)
    return (
        subsample_input_grad(dz, beta, input_shape, window.size),
        subsample_beta_grad(mean, wide).astype(dz.dtype),
        conv_bias_grad(dz),
    )


_subsample_rule = jax.custom_vjp(_subsample, nondiff_argnums=(3, 4))
_subsample_rule.defvjp(subsample_fwd, subsample_bwd)


def subsample(x: Any, beta: Any, b: Any, window: Any) -> jax.Array:
    """Take the mean of each window, times a trainable factor and plus a bias, one of each a map.

    ``z_nic = β_c Σ_m x_{n, s·i + m, c} / |K| + b_c``, the stride `s` being the window's size; the
    activation `f` of (5.1) is whatever follows.

    Source: (5.1); backward (5.2)

    Args:
      x: `[N, *S, C]` the input.
      beta: `[C]` the factors β, of the same dtype.
      b: `[C]` the biases, of the same dtype.
      window: the window's size, an int or one a spatial axis.

    Returns:
      `[N, *S_out, C]` in the dtype of the arguments; half precision sums in float32.

    Conventions:
      Windows do not overlap, and places left over at the end of an axis belong to none.

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> x = jnp.float32([1.0, 3.0, 5.0, 9.0]).reshape(1, 4, 1)
      >>> subsample(x, jnp.float32([2.0]), jnp.float32([0.5]), 2)[0, :, 0]
      Array([ 4.5, 14.5], dtype=float32)

    See also:
      `subsample_input_grad`, `subsample_beta_grad`, `conv_bias_grad`, `avg_pool`.
    """
    arguments = subsample_arguments(x, beta, b, window)
    return _subsample_rule(*vary_alike(*arguments[:3]), *arguments[3:])


def subsample_arguments(
    x: Any, beta: Any, b: Any, window: Any
) -> tuple[jax.Array, jax.Array, jax.Array, Shape, Window]:
    """Return `subsample`'s arguments, checked: arrays, the shape of x and the window."""
    x, beta, b = floats("subsample", x=x, beta=beta, b=b)
    rank("subsample", "x", x, (3, 4, 5), "[N, *S, C] with one to three spatial axes,")
    shape("subsample", "beta", beta, x.shape[-1:], "one a channel of x")
    shape("subsample", "b", b, x.shape[-1:], "one a channel of x")
    return x, beta, b, x.shape, pool_window("subsample", x.shape, window, None, "VALID", 1)


def _mean(x: jax.Array, window: Window) -> jax.Array:
    return lowering.sum_pool(x, window) / window.cells


def _scale(mean: jax.Array, beta: jax.Array, b: jax.Array) -> jax.Array:
    wide_beta, wide_b = widen(beta, b)
    return (aligned(wide_beta, mean) * mean + aligned(wide_b, mean)).astype(beta.dtype)


# combination of maps


def _combine_maps(x: jax.Array, c: jax.Array) -> jax.Array:
    return _mix(x, _shares(c))


def combine_maps_coefficient_grad(x: Any, alpha: Any, dz: Any) -> jax.Array:
    """Return the cotangent of the coefficients whose softmax mixes maps.

    ``dα_co = Σ_ni dz_nio x_nic`` and ``dc_co = α_co (dα_co − Σ_k α_ko dα_ko)``

    Source: (5.4)

    Args:
      x: `[N, *S, C]` the maps.
      alpha: `[C, O]` the shares, ``softmax(c, axis=0)``, of the same dtype.
      dz: `[N, *S, O]` the cotangent of the mixed maps: loss per unit of output; same dtype.

    Returns:
      `[C, O]`, the cotangent of the coefficients, in the same dtype; half precision sums in
      float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> x, dz = jnp.float32([[[3.0, 1.0]]]), jnp.float32([[[2.0]]])
      >>> combine_maps_coefficient_grad(x, jnp.float32([[0.5], [0.5]]), dz)
      Array([[ 1.],
             [-1.]], dtype=float32)

    See also:
      `combine_maps`, `softmax_grad`, `dense_input_grad`.
    """
    name = "combine_maps_coefficient_grad"
    x, alpha, dz = floats(name, x=x, alpha=alpha, dz=dz)
    rank(name, "x", x, (3, 4, 5), "[N, *S, C] with one to three spatial axes,")
    rank(name, "alpha", alpha, (2,), "shares [C, O]")
    shape(name, "alpha", alpha, (x.shape[-1], alpha.shape[1]), "one row a channel of x")
    shape(name, "dz", dz, (*x.shape[:-1], alpha.shape[1]), "the mixed maps'")
    wide_x, wide_alpha, wide = widen(x, alpha, dz)
    dalpha = dense_weight_grad(wide_x, wide)
    return softmax_grad(wide_alpha, dalpha, axis=0).astype(dz.dtype)


class CombineMapsResiduals(NamedTuple):
    """What the backward pass of `combine_maps` needs."""

    x: jax.Array  # [N, *S, C], for the coefficients' cotangent (5.4)
    alpha: jax.Array  # [C, O] in float32 at least, for both cotangents


def combine_maps_fwd(x: jax.Array, c: jax.Array) -> tuple[jax.Array, CombineMapsResiduals]:
    """Return `combine_maps`'s output and residuals."""
    alpha = _shares(c)
    return _mix(x, alpha), CombineMapsResiduals(x, alpha)


def combine_maps_bwd(residuals: CombineMapsResiduals, dz: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the cotangents of `combine_maps`'s maps and coefficients."""
    x, alpha = residuals
    # (5.3) is a dense layer over the channels, α its weights, so dx is (2.10).
    dx = dense_input_grad(dz, alpha.astype(dz.dtype))
    wide_x, wide = widen(x, dz)
    dc = combine_maps_coefficient_grad(wide_x, alpha, wide)
    return dx, dc.astype(dz.dtype)


_combine_maps_rule = custom_vjp(_combine_maps, combine_maps_fwd, combine_maps_bwd)


def combine_maps(x: Any, c: Any) -> jax.Array:
    """Mix maps, each new one a weighted mean of the old ones whose weights are learned.

    ``z_nio = Σ_c α_co x_nic`` with ``α_co = exp(c_co) / Σ_k exp(c_ko)``

    Source: (5.3); backward (5.4)

    Args:
      x: `[N, *S, C]` the maps.
      c: `[C, O]` the coefficients, of the same dtype: column `o` is turned into the shares of the
        new map `o`.

    Returns:
      `[N, *S, O]` in the dtype of the arguments; half precision sums in float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> combine_maps(jnp.float32([[[3.0, 1.0]]]), jnp.float32([[0.0, 1e4], [0.0, 0.0]]))
      Array([[[2., 3.]]], dtype=float32)

    See also:
      `combine_maps_coefficient_grad`, `softmax`, `dense`.
    """
    return _combine_maps_rule(*vary_alike(*combine_maps_arguments(x, c)))


def combine_maps_arguments(x: Any, c: Any) -> tuple[jax.Array, jax.Array]:
    """Return `combine_maps`'s arguments, checked."""
    x, c = floats("combine_maps", x=x, c=c)
    rank("combine_maps", "x", x, (3, 4, 5), "[N, *S, C] with one to three spatial axes,")
    rank("combine_maps", "c", c, (2,), "coefficients [C, O]")
    if c.shape[0] != x.shape[-1]:
        raise reject("combine_maps", "c", f"[C, O] with C {x.shape[-1]} as x has", describe(c))
    return x, c


def _shares(c: jax.Array) -> jax.Array:
    (wide,) = widen(c)
    return jax.nn.softmax(wide, axis=0)


def _mix(x: jax.Array, alpha: jax.Array) -> jax.Array:
    wide = alpha.dtype
    return jnp.matmul(x, alpha.astype(x.dtype), preferred_element_type=wide).astype(x.dtype)
