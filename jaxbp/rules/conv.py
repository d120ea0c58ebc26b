"""Convolution and transposed convolution in one, two and three dimensions (chapter 3).

From a formula to its function here, to the sum that it is, to the loop that judges it:

    formula       function            sum                           loop
    (3.1) (3.5)   conv                lowering.conv                 oracles.conv
    (3.2) (3.6)   conv_kernel_grad    lowering.conv_kernel_grad     oracles.conv_kernel_grad
    (3.3) (3.7)   conv_input_grad     lowering.conv_input_grad      oracles.conv_input_grad
    (3.8)         conv_bias_grad      jnp.sum                       oracles.conv_bias_grad
    (3.7)         conv_transpose      lowering.conv_input_grad      oracles.conv_transpose

A public function checks its arguments, makes a `Window` of its options and calls the sum; the
rules, whose arguments are checked by then, call the same sums. A sum is taken by one of several
strategies: the row of its name in `jaxbp/lowering/table.py` lists them and says when each is
chosen, and each is a file of `jaxbp/lowering`. `tests/lowering` holds them against each other,
and `tests/rules/test_conv.py` the functions against the loops of `tests/oracles.py`.
"""

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
    positive,
    rank,
    reject,
    shape,
    shape_tuple,
    sum_dtype,
    vary_alike,
)
from jaxbp.precision import custom_vjp
from jaxbp.window import Window, make_transposed_window, make_window

_INPUT = "[N, *S, C] with one to three spatial axes,"
_KERNEL = "[*K, C // groups, O] with x's spatial axes,"


def _conv(
    x: jax.Array, w: jax.Array, b: jax.Array | None, window: Window, groups: int
) -> jax.Array:
    z = lowering.conv(x, w, window, groups)
    return z if b is None else z + aligned(b, z)


def conv_kernel_grad(
    x: Any,
    dy: Any,
    kernel_shape: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """Return the cotangent of a convolution's kernel: convolve the input with δ.

    ``dw_mco = Σ_ni x_{n, s·i + d·m − p, c} dy_nio``: the stride of the forward dilates δ.

    Source: (3.2), (3.6)

    Args:
      x: `[N, *S, C]` the layer's input.
      dy: `[N, *S_out, O]` the cotangent of the output: loss per unit of output; same dtype.
      kernel_shape: `(*K, C // groups, O)`, the shape of the kernel.
      stride, padding, dilation, groups: as given to `conv`.

    Returns:
      `[*K, C // groups, O]`, the cotangent of the kernel, in the same dtype, summed over examples;
      half precision sums in float32.

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
      >>> dy = jnp.array([[1.0, -1.0], [2.0, 0.5]]).reshape(1, 2, 2, 1)
      >>> conv_kernel_grad(x, dy, (2, 2, 1, 1), padding="VALID")[..., 0, 0]
      Array([[ 9.5, 12. ],
             [17. , 19.5]], dtype=float32)

    See also:
      `conv`, `conv_input_grad`, `conv_bias_grad`.
    """
    name = "conv_kernel_grad"
    x, dy = floats(name, x=x, dy=dy)
    rank(name, "x", x, (3, 4, 5), _INPUT)
    kernel_shape = shape_tuple(name, "kernel_shape", kernel_shape, (x.ndim,), "(*K, C//groups, O)")
    groups = check_kernel(name, "kernel_shape", kernel_shape, groups, x.shape[-1])
    window = make_window(
        name, x.shape[1:-1], kernel_shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    _check_output(name, dy, x.shape, kernel_shape[-1], window)
    return lowering.conv_kernel_grad(x, dy, window, groups)


def conv_input_grad(
    dy: Any,
    w: Any,
    input_shape: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """Return the cotangent of a convolution's input: full convolution of δ with w turned by 180°.

    ``dx_nkc = Σ_om dy_nio w_mco`` over the `i` with ``s·i = k − d·m + p``. It is what the layer
    before receives (3.4); places that no window reached get zero.

    Source: (3.3), (3.4), (3.7)

    Args:
      dy: `[N, *S_out, O]` the cotangent of the output: loss per unit of output.
      w: `[*K, C // groups, O]` the kernel, of the same dtype.
      input_shape: `(N, *S, C)`, the shape of the input.
      stride, padding, dilation, groups: as given to `conv`.

    Returns:
      `[N, *S, C]`, the cotangent of the input, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> dy = jnp.array([[1.0, -1.0], [2.0, 0.5]]).reshape(1, 2, 2, 1)
      >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
      >>> conv_input_grad(dy, w, (1, 3, 3, 1), padding="VALID")[0, ..., 0]
      Array([[ 1. ,  1. , -2. ],
             [ 5. ,  5.5, -3. ],
             [ 6. ,  9.5,  2. ]], dtype=float32)

    See also:
      `conv`, `conv_kernel_grad`, `conv_bias_grad`, `conv_transpose`.
    """
    name = "conv_input_grad"
    dy, w = floats(name, dy=dy, w=w)
    rank(name, "dy", dy, (3, 4, 5), "[N, *S_out, O] with one to three spatial axes,")
    rank(name, "w", w, (dy.ndim,), "[*K, C // groups, O] with dy's spatial axes,")
    input_shape = shape_tuple(name, "input_shape", input_shape, (dy.ndim,), "(N, *S, C)")
    groups = check_kernel(name, "w", w.shape, groups, input_shape[-1])
    window = make_window(
        name, input_shape[1:-1], w.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    _check_output(name, dy, input_shape, w.shape[-1], window)
    return lowering.conv_input_grad(dy, w, input_shape, window, groups)


def conv_bias_grad(dy: Any) -> jax.Array:
    """Return the cotangent of a convolution's bias.

    ``db_o = Σ_ni dy_nio``: one bias is used at every place, so a sum, not a mean.

    Source: (3.8)

    Args:
      dy: `[N, *S_out, O]` the cotangent of the output: loss per unit of output.

    Returns:
      `[O]`, the cotangent of the bias, in the same dtype; half precision sums in float32.

    Raises:
      TypeError: if `dy` is no real floating array.
      ValueError: if its rank is not 3, 4 or 5.

    Example:
      >>> conv_bias_grad(jnp.ones((2, 3, 3, 1)))
      Array([18.], dtype=float32)

    See also:
      `conv`, `conv_input_grad`, `conv_kernel_grad`.
    """
    (dy,) = floats("conv_bias_grad", dy=dy)
    rank("conv_bias_grad", "dy", dy, (3, 4, 5), "[N, *S_out, O] with one to three spatial axes,")
    wide = sum_dtype(dy.dtype)
    return jnp.sum(dy, axis=tuple(range(dy.ndim - 1)), dtype=wide).astype(dy.dtype)


class ConvResiduals(NamedTuple):
    """What the backward pass of `conv` and `conv_transpose` needs."""

    x: jax.Array  # [N, *S, C], for the kernel's cotangent (3.6)
    w: jax.Array  # the kernel, for the input's cotangent (3.7)
    b: jax.Array | None  # [O], only to know whether there is a bias


def conv_fwd(
    x: jax.Array, w: jax.Array, b: jax.Array | None, window: Window, groups: int
) -> tuple[jax.Array, ConvResiduals]:
    """Return `conv`'s output and residuals."""
    return _conv(x, w, b, window, groups), ConvResiduals(x, w, b)


def conv_bwd(
    window: Window, groups: int, residuals: ConvResiduals, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the cotangents of `conv`'s input, kernel and bias."""
    x, w, b = residuals
    dx = lowering.conv_input_grad(dy, w, x.shape, window, groups)
    dw = lowering.conv_kernel_grad(x, dy, window, groups)
    return dx, dw, None if b is None else conv_bias_grad(dy)


_conv_rule = custom_vjp(_conv, conv_fwd, conv_bwd, nondiff_argnums=(3, 4))


def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolve channels-last arrays in one, two or three dimensions, by the rank of `x`.

    ``y_nio = Σ_cm x_{n, s·i + d·m − p, c} w_mco + b_o``, a cross-correlation as in every framework.

    Source: (3.1), (3.5); backward (3.2), (3.3), (3.6) to (3.8)

    Args:
      x: `[N, *S, C]` the input.
      w: `[*K, C // groups, O]` the kernel, of the same dtype.
      b: `[O]` the bias, or None for none.
      stride: how far the window moves, an int or one a spatial axis.
      padding: `"SAME"` (`ceil(S / stride)` places), `"VALID"` (none), an int for both sides of each
        axis, or one `(low, high)` pair a spatial axis; a negative pad crops.
      dilation: the distance of the kernel's cells, an int or one a spatial axis.
      groups: how many groups the channels fall into; `groups=C` is a depthwise convolution.

    Returns:
      `[N, *S_out, O]` in the dtype of the arguments; half precision sums in float32.

    Conventions:
      The padding is zero. A window larger than the padded input gives an output of no places.
      Products have the `jax.default_matmul_precision` of the call, those of the backward pass too.
      On a CPU, float32 sums of 3-cell kernels over 64 channels or more err by the rounding of the
      largest number in or beside the window, even where the kernel is zero: numbers a hundred times
      as large as their neighbours cost their neighbours 1.5 digits; `lowering.use("xla")` does not.
      Under `vmap` over `x` alone, JAX batches the backward pass and sums the kernel's cotangents
      afterwards: the right value, in 1.5 to 2.8 times the time of one call with the examples in N
      (3×3 kernels, 16 to 64 features, on two CPU cores).

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
      >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
      >>> conv(x, w, padding="VALID")[0, ..., 0]
      Array([[37., 47.],
             [67., 77.]], dtype=float32)

    See also:
      `conv_input_grad`, `conv_kernel_grad`, `conv_bias_grad`, `conv_transpose`.
    """
    x, w, b, window, groups = conv_arguments(
        "conv", x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return _conv_rule(*vary_alike(x, w, b), window, groups)


def _conv_transpose(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    output_shape: Shape,
    window: Window,
    groups: int,
) -> jax.Array:
    # The adjoint of the convolution with this window, which goes from the output to the input.
    z = lowering.conv_input_grad(x, w, output_shape, window, groups)
    return z if b is None else z + aligned(b, z)


def conv_transpose_fwd(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    output_shape: Shape,
    window: Window,
    groups: int,
) -> tuple[jax.Array, ConvResiduals]:
    """Return `conv_transpose`'s output and residuals."""
    return _conv_transpose(x, w, b, output_shape, window, groups), ConvResiduals(x, w, b)


def conv_transpose_bwd(
    output_shape: Shape, window: Window, groups: int, residuals: ConvResiduals, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the cotangents of `conv_transpose`'s input, kernel and bias."""
    x, w, b = residuals
    dx = lowering.conv(dy, w, window, groups)
    dw = lowering.conv_kernel_grad(dy, x, window, groups)
    return dx, dw, None if b is None else conv_bias_grad(dy)


_conv_transpose_rule = custom_vjp(
    _conv_transpose, conv_transpose_fwd, conv_transpose_bwd, nondiff_argnums=(3, 4, 5)
)


def conv_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """Apply a transposed convolution: the input gradient of a convolution, used as a layer.

    ``y_nko = Σ_cm x_nic w_moc + b_o`` over the `i` with ``s·i = k − d·m + p``, where `p` is the low
    padding of the convolution that it is the adjoint of. Its own input gradient is that
    convolution (3.5), its kernel gradient (3.6) with input and δ exchanged.

    Source: (3.7); backward (3.5), (3.6), (3.8)

    Args:
      x: `[N, *S, C]` the input.
      w: `[*K, O // groups, C]` the kernel, of the same dtype.
      b: `[O]` the bias, or None for none.
      stride: how far apart the input's places lie in the output, an int or one a spatial axis.
      padding: `"SAME"` (`S * stride` places), `"VALID"` (every place that is reached), an int `p`
        for the pair `(p, p)`, or one `(low, high)` pair a spatial axis: the padding of the dilated
        input, as `lax.conv_transpose` reads it.
      dilation: the distance of the kernel's cells, an int or one a spatial axis.
      groups: how many groups the channels fall into.

    Returns:
      `[N, *S_out, O]` in the dtype of the arguments, equal to
      `lax.conv_transpose(…, transpose_kernel=True)`; half precision sums in float32.

    Raises:
      TypeError: if an argument has a wrong type, or the arrays' dtypes differ.
      ValueError: if a value or a shape does not fit.

    Example:
      >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
      >>> w = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
      >>> conv_transpose(x, w, stride=2, padding="VALID")[0, :, 0]
      Array([  1.,  10., 102.,  20., 200.], dtype=float32)

    See also:
      `conv`, `conv_input_grad`.
    """
    arguments = conv_transpose_arguments(
        x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return _conv_transpose_rule(*vary_alike(*arguments[:3]), *arguments[3:])


def conv_arguments(
    function: str, x: Any, w: Any, b: Any, *, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None, Window, int]:
    """Return a convolution's arguments, checked: arrays, window and groups."""
    x, w, b = _floats(function, x, w, b)
    rank(function, "x", x, (3, 4, 5), _INPUT)
    rank(function, "w", w, (x.ndim,), _KERNEL)
    groups = check_kernel(function, "w", w.shape, groups, x.shape[-1])
    if b is not None:
        shape(function, "b", b, w.shape[-1:], "one an output channel of w")
    window = make_window(
        function, x.shape[1:-1], w.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    return x, w, b, window, groups


def conv_transpose_arguments(
    x: Any, w: Any, b: Any, *, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None, Shape, Window, int]:
    """Return `conv_transpose`'s arguments, checked: arrays, output shape, window and groups."""
    name = "conv_transpose"
    x, w, b = _floats(name, x, w, b)
    rank(name, "x", x, (3, 4, 5), _INPUT)
    rank(name, "w", w, (x.ndim,), "[*K, O // groups, C] with x's spatial axes,")
    features = w.shape[-2] * positive(name, "groups", groups)
    if w.shape[-1] != x.shape[-1]:
        expected = f"[*K, O // groups, C] with C = {x.shape[-1]} as x is {describe(x)}"
        raise reject(name, "w", expected, describe(w))
    groups = check_kernel(name, "w", w.shape, groups, features)
    if b is not None:
        shape(name, "b", b, (features,), "one an output channel")
    window, spatial = make_transposed_window(
        name, x.shape[1:-1], w.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    return x, w, b, (x.shape[0], *spatial, features), window, groups


def _floats(function: str, x: Any, w: Any, b: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, w, *bias = floats(function, x=x, w=w, **({} if b is None else {"b": b}))
    return x, w, bias[0] if bias else None


def check_kernel(function: str, argument: str, kernel: Shape, groups: Any, channels: int) -> int:
    """Return the groups if a kernel `[*K, channels // groups, O]` can have them, and is one."""
    groups = positive(function, "groups", groups)
    if channels % groups or kernel[-1] % groups:
        expected = f"a divisor of the channels {channels} and {kernel[-1]}"
        raise reject(function, "groups", expected, groups)
    if kernel[-2] * groups != channels or min(kernel[:-2]) < 1:
        expected = f"(*K, {channels // groups}, O) with {groups} groups and {channels} channels"
        raise reject(function, argument, f"of shape {expected}", kernel)
    return groups


def _check_output(function: str, dy: jax.Array, x_shape: Shape, features: int, w: Window) -> None:
    n, *spatial, _ = x_shape
    expected = (n, *w.output(tuple(spatial)), features)
    shape(function, "dy", dy, expected, "the output's")
