"""Activations and their derivatives f′(z), by which (2.5) and (3.9) multiply what comes back.

Half precision is computed in float32 and rounded once. An infinite input has the derivative's limit
(0 or 1), and NaN gives NaN.

Each activation is a forward `_relu` and an adjoint `relu_grad`, which `_pair` makes a rule of, and
`relu`, which checks its arguments and calls the rule. The adjoints take what the rule keeps, the
output `y` or the input `x`, and `dy`, the output's cotangent: loss per unit of output, of the same
shape and dtype. They return the input's, alike, and refuse what the activations refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.arguments import axis as check_axis
from jaxbp.arguments import flag, floats, floats_alike, number, widen

# Beyond this, the derivatives of silu and gelu are 0 or 1 to the last bit in every dtype.
_FAR = 1000.0


class OutputResiduals(NamedTuple):
    """What the backward pass of an activation needs that is differentiated from its output."""

    y: jax.Array  # as x, the derivative is a formula in y


class InputResiduals(NamedTuple):
    """What the backward pass of an activation needs that is differentiated from its input."""

    x: jax.Array  # as x, where y does not tell the derivative, or only with less precision


def _pair(
    forward: Callable[..., jax.Array],
    grad: Callable[..., jax.Array],
    residuals: type[OutputResiduals] | type[InputResiduals],
    options: int = 0,
) -> tuple[Callable[..., jax.Array], Callable[..., Any], Callable[..., tuple[jax.Array]]]:
    """Return the rule that pairs a forward with its adjoint, and its halves, `fwd` and `bwd`.

    `options` is how many static options follow `x` in the forward, and `dy` in the adjoint.
    """

    def fwd(x: jax.Array, *static: Any) -> tuple[jax.Array, Any]:
        y = forward(x, *static)
        return y, residuals(y if residuals is OutputResiduals else x)

    def bwd(*static_kept_dy: Any) -> tuple[jax.Array]:
        *static, (kept,), dy = static_kept_dy
        return (grad(kept, dy, *static),)

    for half, suffix in ((fwd, "fwd"), (bwd, "bwd")):  # as errors, and pickles, call them
        half.__name__ = half.__qualname__ = f"{forward.__name__[1:]}_{suffix}"
    rule = jax.custom_vjp(forward, nondiff_argnums=tuple(range(1, 1 + options)))
    rule.defvjp(fwd, bwd)
    return rule, fwd, bwd


# sigmoid


def _sigmoid(x: jax.Array) -> jax.Array:
    return lax.logistic(x)


def sigmoid_grad(y: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i y_i (1 − y_i)``, from the sigmoid's output.

    Source: (2.5), (3.9)
    """
    y, dy = floats_alike("sigmoid_grad", y=y, dy=dy)
    y, wide = widen(y, dy)
    return (wide * y * (1 - y)).astype(dy.dtype)


_sigmoid_rule, sigmoid_fwd, sigmoid_bwd = _pair(_sigmoid, sigmoid_grad, OutputResiduals)


def sigmoid(x: Any) -> jax.Array:
    """Apply the logistic function, elementwise.

    ``y_i = 1 / (1 + exp(−x_i))``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> sigmoid(jnp.float32([-jnp.inf, 0.0, jnp.inf]))
      Array([0. , 0.5, 1. ], dtype=float32)

    See also:
      `sigmoid_grad`, `silu`, `sigmoid_cross_entropy`.
    """
    (x,) = floats("sigmoid", x=x)
    return _sigmoid_rule(x)


# tanh


def _tanh(x: jax.Array) -> jax.Array:
    return lax.tanh(x)


def tanh_grad(y: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i (1 − y_i²)``, from the hyperbolic tangent's output.

    Source: (2.5), (3.9)
    """
    y, dy = floats_alike("tanh_grad", y=y, dy=dy)
    y, wide = widen(y, dy)
    # (1 + y) (1 − y) loses no digits where y is near ±1, as 1 − y² does.
    return (wide * ((1 + y) * (1 - y))).astype(dy.dtype)


_tanh_rule, tanh_fwd, tanh_bwd = _pair(_tanh, tanh_grad, OutputResiduals)


def tanh(x: Any) -> jax.Array:
    """Apply the hyperbolic tangent, elementwise.

    ``y_i = tanh(x_i)``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> tanh(jnp.float32([-jnp.inf, 0.0, jnp.inf]))
      Array([-1.,  0.,  1.], dtype=float32)

    See also:
      `tanh_grad`, `sigmoid`.
    """
    (x,) = floats("tanh", x=x)
    return _tanh_rule(x)


# relu


def _relu(x: jax.Array) -> jax.Array:
    return jnp.where(x <= 0, 0, x)  # not `maximum`, whose derivative at 0 is 1/2


def relu_grad(y: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i if y_i > 0 else 0``, from the rectifier's output, or its input.

    At 0 the derivative is 0. At NaN `dy` passes.

    Source: (2.5), (3.9)
    """
    y, dy = floats_alike("relu_grad", y=y, dy=dy)
    return jnp.where(y <= 0, 0, dy)


# y rather than a mask: the next layer keeps y anyway.
_relu_rule, relu_fwd, relu_bwd = _pair(_relu, relu_grad, OutputResiduals)


def relu(x: Any) -> jax.Array:
    """Apply the rectifier, elementwise.

    ``y_i = max(x_i, 0)``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Conventions:
      The derivative at 0 is 0.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> relu(jnp.float32([-1.0, 0.0, 2.0]))
      Array([0., 0., 2.], dtype=float32)
      >>> jax.vmap(jax.grad(relu))(jnp.float32([-1.0, 0.0, 2.0]))
      Array([0., 0., 1.], dtype=float32)

    See also:
      `relu_grad`, `leaky_relu`.
    """
    (x,) = floats("relu", x=x)
    return _relu_rule(x)


# leaky relu


def _leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    (wide,) = widen(x)
    return jnp.where(wide >= 0, wide, slope * wide).astype(x.dtype)


def leaky_relu_grad(x: Any, dy: Any, slope: float = 0.01) -> jax.Array:
    """Return ``dx_i = dy_i if x_i ≥ 0 else slope dy_i``, from the leaky rectifier's input.

    At 0 the derivative is 1, as in `jax.nn`.

    Source: (2.5), (3.9)
    """
    x, dy = floats_alike("leaky_relu_grad", x=x, dy=dy)
    slope = number("leaky_relu_grad", "slope", slope)
    (wide,) = widen(dy)
    return jnp.where(x >= 0, wide, slope * wide).astype(dy.dtype)


# With a slope below 0, y hides x's sign.
_leaky_relu_rule, leaky_relu_fwd, leaky_relu_bwd = _pair(
    _leaky_relu, leaky_relu_grad, InputResiduals, options=1
)


def leaky_relu(x: Any, slope: float = 0.01) -> jax.Array:
    """Apply the leaky rectifier, elementwise.

    ``y_i = x_i if x_i ≥ 0 else slope x_i``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.
      slope: a Python number, the slope below 0; it is static and has no gradient.

    Returns:
      `[...]` in the dtype of `x`.

    Conventions:
      The derivative at 0 is 1, as in `jax.nn`.

    Raises:
      TypeError: if `x` is no real floating array, or `slope` no Python number.
      ValueError: if `slope` is not finite.

    Example:
      >>> leaky_relu(jnp.float32([-1.0, 0.0, 2.0]), slope=0.5)
      Array([-0.5,  0. ,  2. ], dtype=float32)

    See also:
      `leaky_relu_grad`, `relu`.
    """
    return _leaky_relu_rule(*leaky_relu_arguments(x, slope))


def leaky_relu_arguments(x: Any, slope: Any) -> tuple[jax.Array, float]:
    """Return `leaky_relu`'s arguments, checked."""
    (x,) = floats("leaky_relu", x=x)
    return x, number("leaky_relu", "slope", slope)


# elu


def _elu(x: jax.Array) -> jax.Array:
    (wide,) = widen(x)
    # The inner select keeps what is not chosen finite, and its derivative with it.
    return jnp.where(wide > 0, wide, jnp.expm1(jnp.where(wide > 0, 0, wide))).astype(x.dtype)


def elu_grad(x: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i if x_i > 0 else exp(x_i) dy_i``, from the unit's input.

    Source: (2.5), (3.9)
    """
    x, dy = floats_alike("elu_grad", x=x, dy=dy)
    x, wide = widen(x, dy)
    return (wide * jnp.exp(jnp.where(x > 0, 0, x))).astype(dy.dtype)


# exp(x) = y + 1 would lose the digits of a small exp(x).
_elu_rule, elu_fwd, elu_bwd = _pair(_elu, elu_grad, InputResiduals)


def elu(x: Any) -> jax.Array:
    """Apply the exponential linear unit, elementwise.

    ``y_i = x_i if x_i > 0 else exp(x_i) − 1``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> elu(jnp.float32([-jnp.inf, 0.0, 2.0]))
      Array([-1.,  0.,  2.], dtype=float32)

    See also:
      `elu_grad`, `softplus`.
    """
    (x,) = floats("elu", x=x)
    return _elu_rule(x)


# gelu


def _gelu(x: jax.Array, approximate: bool) -> jax.Array:
    (wide,) = widen(x)
    return (wide * _normal_cdf(wide, approximate)).astype(x.dtype)


def gelu_grad(x: Any, dy: Any, approximate: bool = True) -> jax.Array:
    """Return ``dx_i = dy_i (Φ(x_i) + x_i Φ′(x_i))``, from the input; `gelu` says what Φ is.

    Source: (2.5), (3.9)
    """
    x, dy = floats_alike("gelu_grad", x=x, dy=dy)
    approximate = flag("gelu_grad", "approximate", approximate)
    x, wide = widen(x, dy)
    x = jnp.clip(x, -_FAR, _FAR)
    slope = _normal_cdf(x, approximate) + x * _normal_density(x, approximate)
    return (wide * slope).astype(dy.dtype)


_gelu_rule, gelu_fwd, gelu_bwd = _pair(_gelu, gelu_grad, InputResiduals, options=1)


def gelu(x: Any, approximate: bool = True) -> jax.Array:
    """Apply the Gaussian error linear unit, elementwise.

    ``y_i = x_i Φ(x_i)``, Φ being the standard normal distribution's cumulative function, or
    ``Φ(x) ≈ ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.
      approximate: whether to take the approximation of Φ, as `jax.nn.gelu` does by default.

    Returns:
      `[...]` in the dtype of `x`.

    Conventions:
      The value at −inf is NaN, as in `jax.nn`: −inf · 0.

    Raises:
      TypeError: if `x` is no real floating array, or `approximate` no bool.

    Example:
      >>> gelu(jnp.float32([-100.0, 0.0, 100.0]))
      Array([ -0.,   0., 100.], dtype=float32)

    See also:
      `gelu_grad`, `silu`.
    """
    return _gelu_rule(*gelu_arguments(x, approximate))


def gelu_arguments(x: Any, approximate: Any) -> tuple[jax.Array, bool]:
    """Return `gelu`'s arguments, checked."""
    (x,) = floats("gelu", x=x)
    return x, flag("gelu", "approximate", approximate)


def _normal_cdf(x: jax.Array, approximate: bool) -> jax.Array:
    if not approximate:
        return lax.erfc(x * -math.sqrt(0.5)) / 2
    # ½ (1 + tanh(u)) = sigmoid(2u), which keeps its digits where tanh(u) is near −1.
    return lax.logistic(_normal_logit(x))


def _normal_density(x: jax.Array, approximate: bool) -> jax.Array:
    """The derivative of `_normal_cdf`."""
    if not approximate:
        return jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    cdf = _normal_cdf(x, approximate)
    return cdf * (1 - cdf) * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x)


def _normal_logit(x: jax.Array) -> jax.Array:
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)


# silu


def _silu(x: jax.Array) -> jax.Array:
    (wide,) = widen(x)
    return (wide * lax.logistic(wide)).astype(x.dtype)


def silu_grad(x: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i σ(x_i) (1 + x_i (1 − σ(x_i)))``, σ being the sigmoid, from the input.

    Source: (2.5), (3.9)
    """
    x, dy = floats_alike("silu_grad", x=x, dy=dy)
    x, wide = widen(x, dy)
    x = jnp.clip(x, -_FAR, _FAR)
    gate = lax.logistic(x)
    return (wide * (gate * (1 + x * (1 - gate)))).astype(dy.dtype)


_silu_rule, silu_fwd, silu_bwd = _pair(_silu, silu_grad, InputResiduals)


def silu(x: Any) -> jax.Array:
    """Apply the sigmoid linear unit, also called swish, elementwise.

    ``y_i = x_i / (1 + exp(−x_i))``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Conventions:
      The value at −inf is NaN, as in `jax.nn`: −inf · 0.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> silu(jnp.float32([-200.0, 0.0, 200.0]))
      Array([ -0.,   0., 200.], dtype=float32)

    See also:
      `silu_grad`, `sigmoid`, `gelu`.
    """
    (x,) = floats("silu", x=x)
    return _silu_rule(x)


# softplus


def _softplus(x: jax.Array) -> jax.Array:
    (wide,) = widen(x)
    return jnp.logaddexp(wide, 0.0).astype(x.dtype)


def softplus_grad(x: Any, dy: Any) -> jax.Array:
    """Return ``dx_i = dy_i / (1 + exp(−x_i))``, from softplus's input.

    Source: (2.5), (3.9)
    """
    x, dy = floats_alike("softplus_grad", x=x, dy=dy)
    x, wide = widen(x, dy)
    return (wide * lax.logistic(x)).astype(dy.dtype)


_softplus_rule, softplus_fwd, softplus_bwd = _pair(_softplus, softplus_grad, InputResiduals)


def softplus(x: Any) -> jax.Array:
    """Apply the smooth rectifier, elementwise.

    ``y_i = log(1 + exp(x_i))``

    Source: (2.1); backward (2.5)

    Args:
      x: `[...]` the pre-activation.

    Returns:
      `[...]` in the dtype of `x`.

    Raises:
      TypeError: if `x` is no real floating array.

    Example:
      >>> softplus(jnp.float32([-1e4, 1e4]))
      Array([    0., 10000.], dtype=float32)

    See also:
      `softplus_grad`, `relu`.
    """
    (x,) = floats("softplus", x=x)
    return _softplus_rule(x)


# softmax


def _softmax(x: jax.Array, axis: int) -> jax.Array:
    return _probabilities(x, axis).astype(x.dtype)


def softmax_grad(y: Any, dy: Any, axis: int = -1) -> jax.Array:
    """Return ``dx_i = y_i (dy_i − Σ_k y_k dy_k)``, from softmax's output along `axis`.

    Source: (5.4)
    """
    y, dy = floats_alike("softmax_grad", y=y, dy=dy)
    axis = check_axis("softmax_grad", "axis", axis, y.ndim)
    y, wide = widen(y, dy)
    return (y * (wide - jnp.sum(y * wide, axis, keepdims=True))).astype(dy.dtype)


def softmax_fwd(x: jax.Array, axis: int) -> tuple[jax.Array, OutputResiduals]:
    """Return `softmax`'s output and residuals."""
    # Kept in float32 for half precision, where a rounded y no longer sums to one.
    y = _probabilities(x, axis)
    return y.astype(x.dtype), OutputResiduals(y)


def softmax_bwd(axis: int, residuals: OutputResiduals, dy: jax.Array) -> tuple[jax.Array]:
    """Return the cotangent of `softmax`'s input."""
    (wide,) = widen(dy)
    return (softmax_grad(residuals.y, wide, axis).astype(dy.dtype),)


_softmax_rule = jax.custom_vjp(_softmax, nondiff_argnums=(1,))
_softmax_rule.defvjp(softmax_fwd, softmax_bwd)


def softmax(x: Any, axis: int = -1) -> jax.Array:
    """Turn logits into probabilities along an axis.

    ``y_i = exp(x_i) / Σ_k exp(x_k)``

    Source: (5.3); backward (5.4)

    Args:
      x: `[...]` the logits.
      axis: the axis along which `y` sums to one.

    Returns:
      `[...]` in the dtype of `x`; half precision sums in float32.

    Conventions:
      NaN, +inf, or nothing but −inf among the logits makes their row NaN, and no other, as in
      `jax.nn`.

    Raises:
      TypeError: if `x` is no real floating array, or `axis` no int.
      ValueError: if there is no such axis.

    Example:
      >>> softmax(jnp.float32([1e4, 1e4, -1e4]))
      Array([0.5, 0.5, 0. ], dtype=float32)

    See also:
      `softmax_grad`, `log_softmax`, `softmax_cross_entropy`.
    """
    return _softmax_rule(*softmax_arguments("softmax", x, axis))


def softmax_arguments(function: str, x: Any, axis: Any) -> tuple[jax.Array, int]:
    """Return the arguments of `softmax` or `log_softmax`, checked."""
    (x,) = floats(function, x=x)
    return x, check_axis(function, "axis", axis, x.ndim)


def _probabilities(x: jax.Array, axis: int) -> jax.Array:
    e = jnp.exp(_below_largest(x, axis))
    return e / jnp.sum(e, axis, keepdims=True)


def _below_largest(x: jax.Array, axis: int) -> jax.Array:
    # Softmax does not change when all logits move together, so the largest may count as a constant.
    (wide,) = widen(x)
    return wide - lax.stop_gradient(jnp.max(wide, axis, keepdims=True, initial=-jnp.inf))


# log softmax


def _log_softmax(x: jax.Array, axis: int) -> jax.Array:
    z = _below_largest(x, axis)
    return (z - jnp.log(jnp.sum(jnp.exp(z), axis, keepdims=True))).astype(x.dtype)


def log_softmax_grad(p: Any, dy: Any, axis: int = -1) -> jax.Array:
    """Return ``dx_i = dy_i − p_i Σ_k dy_k``, from `p = exp(y)`, softmax along `axis`.

    Source: the logarithm of (5.3), differentiated
    """
    p, dy = floats_alike("log_softmax_grad", p=p, dy=dy)
    axis = check_axis("log_softmax_grad", "axis", axis, p.ndim)
    p, wide = widen(p, dy)
    return (wide - p * jnp.sum(wide, axis, keepdims=True)).astype(dy.dtype)


class LogSoftmaxResiduals(NamedTuple):
    """What the backward pass of `log_softmax` needs."""

    p: jax.Array  # as x, in float32 at least; exp(y) would lose the digits of a small p


def log_softmax_fwd(x: jax.Array, axis: int) -> tuple[jax.Array, LogSoftmaxResiduals]:
    """Return `log_softmax`'s output and residuals."""
    return _log_softmax(x, axis), LogSoftmaxResiduals(_probabilities(x, axis))


def log_softmax_bwd(axis: int, residuals: LogSoftmaxResiduals, dy: jax.Array) -> tuple[jax.Array]:
    """Return the cotangent of `log_softmax`'s input."""
    (wide,) = widen(dy)
    return (log_softmax_grad(residuals.p, wide, axis).astype(dy.dtype),)


_log_softmax_rule = jax.custom_vjp(_log_softmax, nondiff_argnums=(1,))
_log_softmax_rule.defvjp(log_softmax_fwd, log_softmax_bwd)


def log_softmax(x: Any, axis: int = -1) -> jax.Array:
    """Take the logarithm of softmax along an axis, without losing small probabilities.

    ``y_i = x_i − log Σ_k exp(x_k)``

    Source: the logarithm of (5.3)

    Args:
      x: `[...]` the logits.
      axis: the axis along which `exp(y)` sums to one.

    Returns:
      `[...]` in the dtype of `x`; half precision sums in float32.

    Conventions:
      NaN, +inf, or nothing but −inf among the logits makes their row NaN, and no other, as in
      `jax.nn`.

    Raises:
      TypeError: if `x` is no real floating array, or `axis` no int.
      ValueError: if there is no such axis.

    Example:
      >>> log_softmax(jnp.float32([1e4, -1e4]))
      Array([     0., -20000.], dtype=float32)

    See also:
      `log_softmax_grad`, `softmax`, `softmax_cross_entropy`.
    """
    return _log_softmax_rule(*softmax_arguments("log_softmax", x, axis))
