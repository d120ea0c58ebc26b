"""Convolution, bias, relu and max pooling as one rule (chapter 5).

Relu and the addition of a bias are monotone, so both can wait until after the pooling (5.5): the
pooled grid has a quarter of the places, or fewer. Backward, the mask and the bias's sum stay on
that grid too (5.6), and of the convolution's output nothing is kept but who won.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp import lowering
from jaxbp.arguments import aligned, ints, vary_alike
from jaxbp.precision import custom_vjp
from jaxbp.rules.activation import relu_grad
from jaxbp.rules.conv import conv_arguments, conv_bias_grad
from jaxbp.window import Window, make_window


def _conv_relu_max_pool(
    x: jax.Array, w: jax.Array, b: jax.Array | None, window: Window, pool: Window, groups: int
) -> jax.Array:
    y, _ = _pooled(x, w, b, window, pool, groups)
    return y


def _pooled(
    x: jax.Array, w: jax.Array, b: jax.Array | None, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, jax.Array]:
    """The block's output, and each pooling window's winner."""
    largest, winner = lowering.conv_max_pool(x, w, window, pool, groups)
    z = largest if b is None else largest + aligned(b, largest)
    return jnp.where(z <= 0, 0, z), winner


class ConvReluMaxPoolResiduals(NamedTuple):
    """What the backward pass of `conv_relu_max_pool` needs."""

    x: jax.Array  # [N, *S, C], for the kernel's cotangent (3.6)
    w: jax.Array  # the kernel, for the input's cotangent (3.7)
    b: jax.Array | None  # [O], only to know whether there is a bias
    winner: jax.Array  # [N, *S_pool, O] uint8: where each window's dy goes (4.4)
    y: jax.Array  # [N, *S_pool, O], relu's mask on the pooled grid (5.6); the next layer keeps it


def conv_relu_max_pool_fwd(
    x: jax.Array, w: jax.Array, b: jax.Array | None, window: Window, pool: Window, groups: int
) -> tuple[jax.Array, ConvReluMaxPoolResiduals]:
    """Return `conv_relu_max_pool`'s output and residuals."""
    y, winner = _pooled(x, w, b, window, pool, groups)
    return y, ConvReluMaxPoolResiduals(x, w, b, winner, y)


def conv_relu_max_pool_bwd(
    window: Window, pool: Window, groups: int, residuals: ConvReluMaxPoolResiduals, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the cotangents of `conv_relu_max_pool`'s input, kernel and bias."""
    x, w, b, winner, y = residuals
    dlargest = relu_grad(y, dy)
    db = None if b is None else conv_bias_grad(dlargest)
    z_shape = (x.shape[0], *window.output(x.shape[1:-1]), w.shape[-1])
    dz = lowering.max_pool_grad(dlargest, winner, z_shape, pool)
    dx = lowering.conv_input_grad(dz, w, x.shape, window, groups)
    return dx, lowering.conv_kernel_grad(x, dz, window, groups), db


_conv_relu_max_pool_rule = custom_vjp(
    _conv_relu_max_pool,
    conv_relu_max_pool_fwd,
    conv_relu_max_pool_bwd,
    nondiff_argnums=(3, 4, 5),
)


def conv_relu_max_pool(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    window: Any = 2,
    pool_stride: Any = None,
) -> jax.Array:
    """Convolve, add a bias, rectify and take the largest of each window, in one rule.

    ``y_njo = relu(max_m z_{n, s·j + m, o} + b_o)`` with `z` the convolution (3.5): the same value
    as ``max_pool(relu(conv(x, w, b)))``, with relu and bias on the pooled grid.

    Source: (5.5); backward (5.6), (4.4), (3.6) to (3.8)

    Args:
      x: `[N, *S, C]` the input.
      w: `[*K, C // groups, O]` the kernel, of the same dtype.
      b: `[O]` the bias, or None for none.
      stride, padding, dilation, groups: as given to `conv`.
      window: the pooling window's size, an int or one a spatial axis.
      pool_stride: how far that window moves, an int or one a spatial axis; None for its size.

    Returns:
      `[N, *S_pool, O]` in the dtype of the arguments; half precision sums in float32. Only whole
      pooling windows count.

    Conventions:
      As `max_pool` and `relu`: the first of several largest gets δ, relu′(0) = 0, NaN is the
      largest. "Largest" is said of `z`, which in half precision is rounded as `conv` rounds it;
      where only adding the bias rounds two values of a window to one, the larger before it gets δ.
      A NaN that wins passes δ on; one that `b = ±inf` would make of an infinite `z` wins only where
      that `z` does.

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> x = jnp.array([1.0, 3.0, -2.0, 5.0]).reshape(1, 4, 1)
      >>> conv_relu_max_pool(x, jnp.array([2.0]).reshape(1, 1, 1), jnp.array([-7.0]))[0, :, 0]
      Array([0., 3.], dtype=float32)

    See also:
      `conv`, `relu`, `max_pool`.
    """
    name = "conv_relu_max_pool"
    x, w, b, made, groups = conv_arguments(
        name, x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    spatial = made.output(x.shape[1:-1])
    size = ints(name, "window", window, len(spatial))
    pool = make_window(
        name,
        spatial,
        size,
        stride=size if pool_stride is None else pool_stride,
        padding="VALID",
        dilation=1,
        stride_name="pool_stride",
    )
    return _conv_relu_max_pool_rule(*vary_alike(x, w, b), made, pool, groups)
