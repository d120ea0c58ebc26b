"""Convolutions of few channels with neighbours along the last axis as channels.

A product that gives four or six features leaves most of a vector unit idle, and one that sums over
one channel reads its input number by number. With `fold` neighbouring outputs as features, and the
L = s·fold inputs that they advance by as channels,

    x′[…, q, (r, c)] = X[…, L·q + r, c],    y′[…, q, (j, o)] = y[…, fold·q + j, o],

y′ is a convolution of x′ along q with no stride and with the kernel

    w′[…, t, (r, c), (j, o)] = w[…, L·t + r − s·j, c, o]   (zero outside w),

and x′, y′ lie in memory as x, y do. w stands in w′ once for each j, so dw is the sum over j of dw′
read there.

The zeros would spread what is not finite over its neighbours: an input that holds any such number
takes the plain sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, is_float32
from jaxbp.lowering.convolution import columns, xla
from jaxbp.lowering.finite import if_finite, largest
from jaxbp.lowering.slices import add
from jaxbp.window import Window

# Features that a product is quick at, and the largest fold: beyond, w′ is mostly zeros.
FEATURES = 32
MOST = 4


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """Something to sum, one group, and a last axis without dilation that has neighbours."""
    output = window.output(x.shape[1:-1])
    return (
        groups == 1
        and window.dilation[-1] == 1
        and output[-1] > 1
        and 0 not in (*x.shape, *w.shape, *output)
    )


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return can(x, dy, window, groups) and window.cells > 0


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward, without stride."""
    return set(window.stride) == {1} and can(dy, w, window.turned, groups)


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C, O], the sum (3.5)."""
    outputs = window.output(x.shape[1:-1])[-1]
    c, o = w.shape[-2:]
    fold = _fold(outputs, o)
    wider, s = _wider(window, fold), window.stride[-1]
    advance = s * fold
    cells = wider.size[-1] * advance
    places = [_at(w, -3, s * j, cells) for j in range(fold)]
    kernel = jnp.stack(places, axis=-2).reshape(*wider.size, advance * c, fold * o)

    def folded(x: jax.Array) -> jax.Array:
        y = xla.conv(_folded(x, window, wider, fold, outputs), kernel, wider, groups)
        y = y.reshape(*y.shape[:-2], -1, o)
        return lax.slice_in_dim(y, 0, outputs, axis=-2)

    return if_finite(folded, lambda x: xla.conv(x, w, window, groups), x, factor=largest(w))


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C], the sum (3.7): without stride, a convolution with the kernel turned."""
    return conv(dy, xla.turned(w), window.turned, groups)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    wide = sum_dtype(x.dtype)
    outputs, o = dy.shape[-2:]
    fold = _fold(outputs, o)
    wider = _wider(window, fold)
    x_folded = _folded(x.astype(wide), window, wider, fold, outputs)
    dy_folded = _at(dy.astype(wide), -2, 0, -(-outputs // fold) * fold)
    dy_folded = dy_folded.reshape(*dy.shape[:-2], -1, fold * o)
    dkernel = columns.conv_kernel_grad(x_folded, dy_folded, wider, groups)
    dkernel = dkernel.reshape(*window.size[:-1], -1, x.shape[-1], fold, o)
    s, k = window.stride[-1], window.size[-1]
    return add(_shares(dkernel, s, k)).astype(x.dtype)


def _shares(dkernel: jax.Array, stride: int, k: int) -> Iterable[jax.Array]:
    """Each neighbour's share of dw[*K, C, O], where w stands in w′ for it."""
    for j in range(dkernel.shape[-2]):
        yield lax.slice_in_dim(dkernel[..., j, :], stride * j, stride * j + k, axis=-3)


def _fold(outputs: int, features: int) -> int:
    """How many outputs to fold: two or more, and none left over if half as many can do that."""
    most = max(2, min(MOST, FEATURES // features, outputs))
    return next((fold for fold in range(most, max(1, most // 2), -1) if outputs % fold == 0), most)


def _wider(window: Window, fold: int) -> Window:
    """The window of w′ over x′, which is padded already along the last axis."""
    s = window.stride[-1]
    advance = s * fold
    size = -(-(s * (fold - 1) + window.size[-1]) // advance)
    return Window(
        (*window.size[:-1], size),
        (*window.stride[:-1], 1),
        (*window.padding[:-1], (0, 0)),
        window.dilation,
    )


def _folded(x: jax.Array, window: Window, wider: Window, fold: int, outputs: int) -> jax.Array:
    """x′[N, *S, L·C], the last axis's padding put in."""
    advance = window.stride[-1] * fold
    length = advance * (-(-outputs // fold) - 1 + wider.size[-1])
    x = _at(x, -2, window.low[-1], length)
    return x.reshape(*x.shape[:-2], -1, advance * x.shape[-1])


def _at(a: jax.Array, axis: int, low: int, length: int) -> jax.Array:
    """The array behind so many zeros along an axis, filled up or cut to a length."""
    config = [(0, 0, 0)] * a.ndim
    config[axis] = (low, length - low - a.shape[axis], 0)
    return lax.pad(a, np.zeros((), a.dtype), config)


def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    return is_float32(x, w) and window.cells > 1 and _pays(x.shape[-1], w.shape[-1])


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return is_float32(dy, w) and _pays(dy.shape[-1], w.shape[-2])


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    return is_float32(x, dy) and x.shape[-1] <= 3 and dy.shape[-1] <= 16


def _pays(channels: int, features: int) -> bool:
    # The wider kernel multiplies more, by zeros: too much where the products are long already.
    return (features <= 16 and channels <= 6) or (features <= 8 and channels <= 16)


ROWS = {
    "conv": Row("folds", conv, can, _wins),
    "conv_input_grad": Row("folds", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("folds", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
