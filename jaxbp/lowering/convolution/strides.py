"""A strided convolution as one without stride, over blocks of the input (space to depth).

Where the stride s divides the kernel's size along each axis, a window is so many whole blocks of s
places. With a block's places as channels,

    x′[…, q, (r, c)] = X[…, s·q + r, c],    w′[…, t, (r, c), o] = w[…, s·t + r, c, o],

y is the convolution of x′ with w′ without stride. Each sum is that of the inner convolution, as the
table chooses it: a plain product where a window is one block, as the patches of an image are. In
the input gradient this saves the zeros that a stride puts between the places of dy.
"""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
from jax import lax

from jaxbp.arguments import Shape
from jaxbp.lowering.choice import Row, choose, is_float32
from jaxbp.window import Window


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """One group, a stride that divides the kernel, no dilation where it is, and some window."""
    return _can(x.shape, w.shape, window, groups)


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return _can(x.shape, dy.shape, window, groups)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return _can(input_shape, w.shape, window, groups)


def _can(x: Shape, like_output: Shape, window: Window, groups: int) -> bool:
    return (
        groups == 1
        and max(window.stride) > 1
        and all(
            s == 1 or (d == 1 and k % s == 0)
            for k, s, d in zip(window.size, window.stride, window.dilation, strict=True)
        )
        and 0 not in (*x, *like_output, *window.output(x[1:-1]))
    )


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C, O], the sum (3.5)."""
    x = _blocks(x, window, window.output(x.shape[1:-1]))
    case = (x, _to_depth(w[None], window.stride)[0], _inner(window), groups)
    y: jax.Array = choose("conv", *case)[0].run(*case)
    return y


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C, O], the sum (3.7)."""
    n, *spatial, c = input_shape
    reach = window.reach(dy.shape[1:-1])
    blocks = (r // s for r, s in zip(reach, window.stride, strict=True))
    shape = (n, *blocks, math.prod(window.stride) * c)
    case = (dy, _to_depth(w[None], window.stride)[0], shape, _inner(window), groups)
    dx = _to_space(choose("conv_input_grad", *case)[0].run(*case), window.stride)
    config = [(-low, low + k - r, 0) for low, k, r in zip(window.low, spatial, reach, strict=True)]
    return lax.pad(dx, np.zeros((), dx.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    case = (_blocks(x, window, dy.shape[1:-1]), dy, _inner(window), groups)
    dw = choose("conv_kernel_grad", *case)[0].run(*case)
    return _to_space(dw[None], window.stride)[0]


def _inner(window: Window) -> Window:
    """The window of w′ over x′."""
    axes = len(window.size)
    size = tuple(k // s for k, s in zip(window.size, window.stride, strict=True))
    return Window(size, (1,) * axes, ((0, 0),) * axes, window.dilation)


def _blocks(x: jax.Array, window: Window, output: Shape) -> jax.Array:
    """x′[N, *S / s, s·C]: what the windows reach of the padded x."""
    config = [
        (low, r - low - k, 0)
        for low, k, r in zip(window.low, x.shape[1:-1], window.reach(output), strict=True)
    ]
    x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return _to_depth(x, window.stride)


def _to_depth(a: jax.Array, stride: Shape) -> jax.Array:
    """[N, *S, C, …] -> [N, *S / s, s·C, …], the places of a block as channels."""
    n, spatial, (c, *rest) = a.shape[0], a.shape[1 : 1 + len(stride)], a.shape[1 + len(stride) :]
    blocks = [m // s for m, s in zip(spatial, stride, strict=True)]
    # Of the last axis a block lies together already.
    *others, last = zip(blocks, stride, strict=True)
    a = a.reshape(n, *itertools.chain(*others), last[0], last[1] * c, *rest)
    axes = 2 * len(others) + 1
    a = a.transpose(0, *range(1, axes, 2), axes, *range(2, axes, 2), *range(axes + 1, a.ndim))
    return a.reshape(n, *blocks, math.prod(stride) * c, *rest)


def _to_space(a: jax.Array, stride: Shape) -> jax.Array:
    """[N, *S / s, s·C, …] -> [N, *S, C, …]: `_to_depth` backwards."""
    n, blocks, (depth, *rest) = a.shape[0], a.shape[1 : 1 + len(stride)], a.shape[1 + len(stride) :]
    c = depth // math.prod(stride)
    a = a.reshape(n, *blocks, *stride[:-1], stride[-1] * c, *rest)
    axes = len(stride)
    pairs = itertools.chain(*((1 + i, 1 + axes + i) for i in range(axes - 1)))
    a = a.transpose(0, *pairs, axes, *range(2 * axes, a.ndim))
    return a.reshape(n, *(m * s for m, s in zip(blocks, stride, strict=True)), c, *rest)


# XLA's own forward is quick for all but volumes, and so is a kernel gradient by columns of images,
# which copies as much, save where there is one product.
def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    return is_float32(x, w) and len(window.size) == 3


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return is_float32(dy, w)


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    return is_float32(x, dy) and (len(window.size) == 3 or window.size == window.stride)


ROWS = {
    "conv": Row("strides", conv, can, _wins),
    "conv_input_grad": Row("strides", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("strides", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
