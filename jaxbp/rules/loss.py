"""Losses, one value an example, and the first sensitivity of the backward sweep.

Whoever averages writes the mean, which puts 1/N into the first δ and nowhere else. Half precision
is computed in float32 and rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import (
    describe,
    floats,
    floats_alike,
    is_array,
    reject,
    shape,
    vary_alike,
    widen,
)

# half squared error


def _half_squared_error(y: jax.Array, t: jax.Array) -> jax.Array:
    wide_y, wide_t = widen(y, t)
    return (jnp.sum((wide_t - wide_y) ** 2, axis=-1) / 2).astype(y.dtype)


def half_squared_error_grad(y: Any, t: Any, dloss: Any) -> jax.Array:
    """Return the cotangent of the half squared error's output `y`.

    ``dy_nj = −(t_nj − y_nj) dloss_n``; the target's cotangent is its negative.

    Source: (2.4)

    Args:
      y: `[..., K]` the network's output.
      t: `[..., K]` the target, of the same dtype.
      dloss: `[...]` the loss's cotangent, of the same dtype.

    Returns:
      `[..., K]`, the cotangent of `y`, in the same dtype.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> y, t = jnp.float32([1.0, 2.0]), jnp.float32([0.0, 4.0])
      >>> half_squared_error_grad(y, t, jnp.float32(1.0))
      Array([ 1., -2.], dtype=float32)

    See also:
      `half_squared_error`.
    """
    y, t, dloss = _check_squared("half_squared_error_grad", y, t, dloss)
    wide_y, wide_t, wide = widen(y, t, dloss)
    return ((wide_y - wide_t) * wide[..., None]).astype(y.dtype)


class HalfSquaredErrorResiduals(NamedTuple):
    """What the backward pass of `half_squared_error` needs."""

    y: jax.Array  # [..., K], both for y − t (2.4): the layer before keeps y, and t is data
    t: jax.Array  # [..., K]


def half_squared_error_fwd(
    y: jax.Array, t: jax.Array
) -> tuple[jax.Array, HalfSquaredErrorResiduals]:
    """Return `half_squared_error`'s value and residuals."""
    return _half_squared_error(y, t), HalfSquaredErrorResiduals(y, t)


def half_squared_error_bwd(
    residuals: HalfSquaredErrorResiduals, dloss: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the cotangents of `half_squared_error`'s output and target."""
    dy = half_squared_error_grad(residuals.y, residuals.t, dloss)
    return dy, -dy


_half_squared_error_rule = jax.custom_vjp(_half_squared_error)
_half_squared_error_rule.defvjp(half_squared_error_fwd, half_squared_error_bwd)


def half_squared_error(y: Any, t: Any) -> jax.Array:
    """Take half the squared distance of output and target, example by example.

    ``loss_n = Σ_j ½ (t_nj − y_nj)²``

    Source: (2.2); backward (2.4)

    Args:
      y: `[..., K]` the network's output.
      t: `[..., K]` the target, of the same shape and dtype; it has its gradient too.

    Returns:
      `[...]` in the dtype of the arguments; half precision sums in float32.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if their shapes differ, or they have no axis.

    Example:
      >>> half_squared_error(jnp.float32([[1.0, 2.0], [3.0, 3.0]]), jnp.float32([[0.0, 4.0]] * 2))
      Array([2.5, 5. ], dtype=float32)

    See also:
      `half_squared_error_grad`, `softmax_cross_entropy`.
    """
    y, t = _check_squared("half_squared_error", y, t)
    return _half_squared_error_rule(*vary_alike(y, t))


def _check_squared(function: str, y: Any, t: Any, dloss: Any = None) -> tuple[jax.Array, ...]:
    arrays = floats(function, **{"y": y, "t": t} | ({} if dloss is None else {"dloss": dloss}))
    y, t, *rest = arrays
    if y.ndim == 0:
        raise reject(function, "y", "at least of rank 1, [..., K]", describe(y))
    shape(function, "t", t, y.shape, "as y is")
    for dloss in rest:
        shape(function, "dloss", dloss, y.shape[:-1], "the leading axes of y")
    return arrays


# softmax and cross-entropy


def _softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    z, _, total = _exponents(logits)
    return _negative_log(z, total, labels).astype(logits.dtype)


def softmax_cross_entropy_grad(p: Any, labels: Any, dloss: Any) -> jax.Array:
    """Return the cotangent of the logits under softmax and cross-entropy.

    ``dlogits_nk = (p_nk Σ_j t_nj − t_nk) dloss_n``; `t` is 1 at an integer label, 0 elsewhere.

    Source: (5.4), with ``∂L/∂p_k = −t_k / p_k``

    Args:
      p: `[..., K]` the softmax of the logits.
      labels: `int[...]` or `[..., K]` of the dtype of `p`, as given to `softmax_cross_entropy`.
      dloss: `[...]` the loss's cotangent, of the dtype of `p`.

    Returns:
      `[..., K]`, the cotangent of the logits, in the dtype of `p`; half precision sums in float32.

    Conventions:
      A label outside of 0 to K − 1 makes its row NaN.

    Raises:
      TypeError: if an argument has a wrong type, or the floating ones' dtypes differ.
      ValueError: if the shapes do not fit.

    Example:
      >>> p = jnp.float32([[0.25, 0.75]])
      >>> softmax_cross_entropy_grad(p, jnp.array([1]), jnp.float32([2.0]))
      Array([[ 0.5, -0.5]], dtype=float32)

    See also:
      `softmax_cross_entropy`.
    """
    name = "softmax_cross_entropy_grad"
    p, dloss = floats(name, p=p, dloss=dloss)
    labels = _check_labels(name, "p", p, labels)
    shape(name, "dloss", dloss, p.shape[:-1], "the leading axes of p")
    wide_p, scale = widen(p, dloss)
    if _are_integers(labels):
        scale = jnp.where(_exist(labels, p.shape[-1]), scale, jnp.nan)
        difference = wide_p - jax.nn.one_hot(labels, p.shape[-1], dtype=wide_p.dtype)
    else:
        (t,) = widen(labels)
        difference = wide_p * jnp.sum(t, axis=-1, keepdims=True) - t
    return (difference * scale[..., None]).astype(p.dtype)


class SoftmaxCrossEntropyResiduals(NamedTuple):
    """What the backward pass of `softmax_cross_entropy` needs."""

    logits: jax.Array  # [..., K], for p: the layer before hands them over, p would be an array more
    labels: jax.Array  # int[...] or [..., K], for t
    top: jax.Array  # [..., 1], the row's largest logit
    total: jax.Array  # [..., 1], the sum of exp(logits − top)


def softmax_cross_entropy_fwd(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, SoftmaxCrossEntropyResiduals]:
    """Return `softmax_cross_entropy`'s value and residuals."""
    z, top, total = _exponents(logits)
    loss = _negative_log(z, total, labels).astype(logits.dtype)
    return loss, SoftmaxCrossEntropyResiduals(logits, labels, top, total)


def softmax_cross_entropy_bwd(
    residuals: SoftmaxCrossEntropyResiduals, dloss: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Return the cotangents of `softmax_cross_entropy`'s logits and labels, None for integers."""
    logits, labels, top, total = residuals
    z = _below(logits, top)
    (scale,) = widen(dloss)
    if _are_integers(labels):
        dlogits = softmax_cross_entropy_grad(jnp.exp(z) / total, labels, scale)
        return dlogits.astype(logits.dtype), None
    (t,) = widen(labels)
    dlogits = softmax_cross_entropy_grad(jnp.exp(z) / total, t, scale)
    dlabels = _cost(t, jnp.log(total) - z) * scale[..., None]
    return dlogits.astype(logits.dtype), dlabels.astype(labels.dtype)


_softmax_cross_entropy_rule = jax.custom_vjp(_softmax_cross_entropy)
_softmax_cross_entropy_rule.defvjp(softmax_cross_entropy_fwd, softmax_cross_entropy_bwd)


def softmax_cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Take the cross-entropy of labels and the softmax of logits, example by example.

    ``loss_n = −Σ_k t_nk log p_nk`` with ``p_nk = exp(logits_nk) / Σ_j exp(logits_nj)``; an integer
    label stands for the `t` that is 1 there and 0 elsewhere.

    Source: the softmax of (5.3); backward (5.4)

    Args:
      logits: `[..., K]` the pre-activations of the K classes.
      labels: `int[...]` the classes, from 0 to K − 1, or `[..., K]` of the dtype of the logits, the
        probabilities `t`, which need not sum to one.

    Returns:
      `[...]` in the dtype of the logits; half precision sums in float32.

    Conventions:
      Integer labels have no gradient, probabilities have theirs. A class whose logit is −inf and
      whose label is 0 takes no part: ``0 log 0 = 0``. A logit of +inf takes all the probability.
      NaN, or nothing but −inf, among the logits makes their row NaN, and no other. An integer label
      out of range is a ValueError where its value is known; under `jit` or `vmap`, where it is not,
      it makes its loss and gradient NaN.

    Raises:
      TypeError: if an argument has a wrong type, or the floating ones' dtypes differ.
      ValueError: if the shapes do not fit, or an integer label is out of range.

    Example:
      >>> logits = jnp.float32([[0.0, 0.0], [1e4, -1e4]])
      >>> softmax_cross_entropy(logits, jnp.array([0, 1]))
      Array([6.931472e-01, 2.000000e+04], dtype=float32)
      >>> softmax_cross_entropy(logits, jnp.float32([[0.5, 0.5], [1.0, 0.0]]))
      Array([0.6931472, 0.       ], dtype=float32)

    See also:
      `softmax_cross_entropy_grad`, `log_softmax`, `sigmoid_cross_entropy`.
    """
    (logits,) = floats("softmax_cross_entropy", logits=logits)
    values = labels  # before the conversion to an array can wrap them
    labels = _check_labels("softmax_cross_entropy", "logits", logits, labels)
    if _are_integers(labels):
        _check_range("softmax_cross_entropy", values, logits.shape[-1])
    return _softmax_cross_entropy_rule(*vary_alike(logits, labels))


def _exponents(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What exp is taken of, the largest logit that it lacks, and the sum of exp along the row."""
    # Softmax does not change when all logits move together, so the largest may count as a constant.
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    z = _below(logits, top)
    return z, top, jnp.sum(jnp.exp(z), axis=-1, keepdims=True)


def _below(logits: jax.Array, top: jax.Array) -> jax.Array:
    wide, wide_top = widen(logits, top)
    return jnp.where(wide == jnp.inf, 0, wide - wide_top)  # not inf − inf


def _negative_log(z: jax.Array, total: jax.Array, labels: jax.Array) -> jax.Array:
    """−Σ_k t_k log p_k, log p being z − log total."""
    if not _are_integers(labels):
        (t,) = widen(labels)
        return jnp.sum(t * _cost(t, jnp.log(total) - z), axis=-1)
    # The one term that is not 0, read alone: t, if written out, takes longer than all the rest.
    at_label = jnp.take_along_axis(z, labels[..., None], axis=-1, mode="clip")
    loss = (jnp.log(total) - at_label)[..., 0]
    return jnp.where(_exist(labels, z.shape[-1]), loss, jnp.nan)


def _exist(labels: jax.Array, classes: int) -> jax.Array:
    return (labels >= 0) & (labels < classes)


def _cost(t: jax.Array, cost: jax.Array) -> jax.Array:
    """The cost of what t asks for; an infinite one that it asks nothing of costs 0, not 0 · inf."""
    return jnp.where((t == 0) & (cost == jnp.inf), 0, cost)


def _are_integers(labels: Any) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.integer)


def _check_labels(function: str, argument: str, logits: jax.Array, labels: Any) -> jax.Array:
    if logits.ndim == 0 or logits.shape[-1] == 0:
        expected = "[..., K] with at least one class"
        raise reject(function, argument, expected, describe(logits))
    kind = jnp.result_type(labels) if is_array(labels) else np.dtype(object)
    if jnp.issubdtype(kind, jnp.integer):
        labels = jnp.asarray(labels)
        shape(function, "labels", labels, logits.shape[:-1], f"classes, one a row of {argument}")
        # So that the number of classes can be told in their dtype.
        return labels.astype(jnp.int32) if kind.itemsize < 4 else labels
    if not jnp.issubdtype(kind, jnp.floating):
        expected = "an integer array of classes or a real floating one of probabilities"
        raise reject(function, "labels", expected, describe(labels), TypeError)
    _, labels = floats(function, **{argument: logits, "labels": labels})
    shape(function, "labels", labels, logits.shape, f"probabilities, as {argument}")
    return labels


def _check_range(function: str, labels: Any, classes: int) -> None:
    if isinstance(labels, jax.core.Tracer):
        return
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        return  # other processes hold some of them
    values = np.asarray(labels)
    bad = values[(values < 0) | (values >= classes)]
    if bad.size:
        raise reject(function, "labels", f"from 0 to {classes - 1}", bad.flat[0])


# sigmoid and cross-entropy


def _sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    x, t = widen(logits, labels)
    # −log σ(x) = softplus(−x). The two terms are never of opposite signs, so no digits cancel.
    yes, no = jnp.logaddexp(-x, 0.0), jnp.logaddexp(x, 0.0)
    return (t * _cost(t, yes) + (1 - t) * _cost(1 - t, no)).astype(logits.dtype)


def sigmoid_cross_entropy_grad(logits: Any, labels: Any, dloss: Any) -> jax.Array:
    """Return the cotangent of the logits under sigmoid and cross-entropy.

    ``dlogits_i = ((1 − t_i) σ(x_i) − t_i σ(−x_i)) dloss_i``, which is ``(σ(x_i) − t_i) dloss_i``
    without its cancellation where the answer is nearly right.

    Source: (2.5), with ``∂L/∂y = (1 − t)/(1 − y) − t/y``

    Args:
      logits: `[...]` the logits x.
      labels: `[...]` the probabilities t, of the same shape and dtype.
      dloss: `[...]` the loss's cotangent, of the same shape and dtype.

    Returns:
      `[...]`, the cotangent of the logits, in the same dtype.

    Raises:
      TypeError: if an argument is no real floating array, or their dtypes differ.
      ValueError: if their shapes differ.

    Example:
      >>> x, t = jnp.float32([0.0, 1e4]), jnp.float32([1.0, 0.0])
      >>> sigmoid_cross_entropy_grad(x, t, jnp.float32([2.0, 2.0]))
      Array([-1.,  2.], dtype=float32)

    See also:
      `sigmoid_cross_entropy`.
    """
    x, t, dloss = floats_alike(
        "sigmoid_cross_entropy_grad", logits=logits, labels=labels, dloss=dloss
    )
    x, t, scale = widen(x, t, dloss)
    return (((1 - t) * lax.logistic(x) - t * lax.logistic(-x)) * scale).astype(dloss.dtype)


class SigmoidCrossEntropyResiduals(NamedTuple):
    """What the backward pass of `sigmoid_cross_entropy` needs."""

    logits: jax.Array  # [...], for σ and for the labels' cotangent
    labels: jax.Array  # [...], for the logits' cotangent


def sigmoid_cross_entropy_fwd(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, SigmoidCrossEntropyResiduals]:
    """Return `sigmoid_cross_entropy`'s value and residuals."""
    residuals = SigmoidCrossEntropyResiduals(logits, labels)
    return _sigmoid_cross_entropy(logits, labels), residuals


def sigmoid_cross_entropy_bwd(
    residuals: SigmoidCrossEntropyResiduals, dloss: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the cotangents of `sigmoid_cross_entropy`'s logits and labels."""
    logits, labels = residuals
    # softplus(−x) − softplus(x) = −x
    return sigmoid_cross_entropy_grad(logits, labels, dloss), -logits * dloss


_sigmoid_cross_entropy_rule = jax.custom_vjp(_sigmoid_cross_entropy)
_sigmoid_cross_entropy_rule.defvjp(sigmoid_cross_entropy_fwd, sigmoid_cross_entropy_bwd)


def sigmoid_cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Take the cross-entropy of labels and the sigmoid of logits, elementwise.

    ``loss_i = −t_i log σ(x_i) − (1 − t_i) log(1 − σ(x_i))``

    Source: the sigmoid of (2.5); backward (2.5)

    Args:
      logits: `[...]` the logits x.
      labels: `[...]` the probabilities t, of the same shape and dtype, or integers or bools, 0 or
        1.

    Returns:
      `[...]` in the dtype of the logits.

    Conventions:
      The slope at logit 0 is ``½ − t``. Integers and bools have no gradient, probabilities have
      theirs. A logit of ±inf that agrees with its label costs 0. An integer label other than 0 and
      1 is a ValueError where its value is known; under `jit` or `vmap`, where it is not, it makes
      its loss and gradient NaN.

    Raises:
      TypeError: if an argument has a wrong type, or the floating ones' dtypes differ.
      ValueError: if the shapes differ, or an integer label is not 0 or 1.

    Example:
      >>> sigmoid_cross_entropy(jnp.float32([0.0, 1e4, 1e4]), jnp.array([1, 0, 1]))
      Array([6.931472e-01, 1.000000e+04, 0.000000e+00], dtype=float32)

    See also:
      `sigmoid_cross_entropy_grad`, `sigmoid`, `softmax_cross_entropy`.
    """
    name = "sigmoid_cross_entropy"
    (logits,) = floats(name, logits=logits)
    if is_array(labels) and not jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        _check_range(name, labels, 2)
        labels = jnp.asarray(labels)
        labels = labels.astype(jnp.int32) if labels.dtype == bool else labels
        valid = (labels == 0) | (labels == 1)
        labels = jnp.where(valid, labels.astype(logits.dtype), jnp.nan)
    logits, labels = floats_alike(name, logits=logits, labels=labels)
    return _sigmoid_cross_entropy_rule(*vary_alike(logits, labels))
