"""Convolution and its two adjoints as XLA's own convolution: right and good on every device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, known, sum_dtype, vary_alike
from jaxbp.lowering.choice import Row, always
from jaxbp.window import Window, dilated

# The axes in lax's letters, by the number of spatial axes: arrays [N, *S, C], kernels [*K, C, O].
_SPATIAL = {1: "X", 2: "YX", 3: "ZYX"}


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C // groups, O], the sum (3.5)."""
    s = _SPATIAL[len(window.size)]
    return _convolve(
        x,
        w,
        (x.shape[0], *window.output(x.shape[1:-1]), w.shape[-1]),
        window_strides=window.stride,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        feature_group_count=groups,
    )


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C // groups, O], the sum (3.6).

    The channels of x play the batch, the batch is summed over, and dy is the kernel; stride and
    dilation change places.
    """
    s = _SPATIAL[len(window.size)]
    reach = [dilated(m, stride) for m, stride in zip(dy.shape[1:-1], window.stride, strict=True)]
    padding = [
        (low, span - 1 + r - n - low)
        for n, low, span, r in zip(x.shape[1:-1], window.low, window.span, reach, strict=True)
    ]
    return _convolve(
        x,
        dy,
        (*window.size, x.shape[-1] // groups, dy.shape[-1]),
        window_strides=window.dilation,
        padding=padding,
        rhs_dilation=window.stride,
        dimension_numbers=(f"C{s}N", f"I{s}O", f"{s}NC"),
        batch_group_count=groups,
    )


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C], the sum (3.7): dy, dilated by the stride, with the kernel turned by 180°."""
    s = _SPATIAL[len(window.size)]
    axes = tuple(range(len(window.size)))
    padding = []
    for n, m, span, low, stride in zip(
        input_shape[1:-1], dy.shape[1:-1], window.span, window.low, window.stride, strict=True
    ):
        before = span - 1 - low
        padding.append((before, n + span - 1 - dilated(m, stride) - before))
    if groups > 1:
        # [*K, C/g, O] -> [*K, C, O/g]: the group's place moves from the outputs to the inputs.
        *k, c, o = w.shape
        w = w.reshape(*k, c, groups, o // groups)
        w = jnp.moveaxis(w, -2, -3).reshape(*k, groups * c, o // groups)
    return _convolve(
        dy,
        lax.rev(w, axes),
        input_shape,
        window_strides=(1,) * len(axes),
        padding=padding,
        lhs_dilation=window.stride,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{s}C", f"{s}OI", f"N{s}C"),
        feature_group_count=groups,
    )


def turned(w: jax.Array) -> jax.Array:
    """The kernel [*K, O, C] of the convolution that is the input gradient without stride (3.7)."""
    return jnp.swapaxes(lax.rev(w, tuple(range(w.ndim - 2))), -1, -2)


def _convolve(
    x: jax.Array, w: jax.Array, shape: Shape, *, padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    if not all(known(*pair) for pair in padding):  # which lax refuses as pairs
        x = _pad(x, padding, options)
        padding = [(0, 0)] * len(padding)
        options = {**options, "lhs_dilation": None}
    elif any(low < 0 < high for low, high in padding):
        # A crop on its own: on a CPU, XLA of jax 0.10.1 reads beyond the input where one axis is
        # cropped before and padded after, and no other is padded.
        x = _pad(x, [(min(low, 0), min(high, 0)) for low, high in padding], options)
        padding = [(max(low, 0), max(high, 0)) for low, high in padding]
        options = {**options, "lhs_dilation": None}
    if 0 in (*x.shape, *w.shape, *shape):  # XLA refuses a window of no cells
        return vary_alike(jnp.zeros(shape, x.dtype), x, w)[0]
    # Half precision sums in float32, and rounds once.
    wide = sum_dtype(x.dtype)
    y = lax.conv_general_dilated(x, w, padding=padding, **options, preferred_element_type=wide)
    return y.astype(x.dtype)


def _pad(x: jax.Array, padding: Sequence[tuple[int, int]], options: dict[str, Any]) -> jax.Array:
    """x dilated, and padded, or cropped where padding is negative."""
    spatial = [
        axis for axis, letter in enumerate(options["dimension_numbers"][0]) if letter in "XYZ"
    ]
    dilation = options.get("lhs_dilation") or (1,) * len(spatial)
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high), d in zip(spatial, padding, dilation, strict=True):
        length = dilated(x.shape[axis], d)
        low, high = (jax.core.max_dim(p, -length) for p in (low, high))
        config[axis] = (low, high, d - 1)
    return lax.pad(x, np.zeros((), x.dtype), config)


ROWS = {
    "conv": Row("xla", conv, always, always, any_size=True),
    "conv_input_grad": Row("xla", conv_input_grad, always, always, any_size=True),
    "conv_kernel_grad": Row("xla", conv_kernel_grad, always, always, any_size=True),
}
