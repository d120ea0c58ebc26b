"""A convolution over volumes as one over their planes, the first spatial axis beside the batch.

XLA has a quick convolution of images on a CPU, and none of volumes. A sum over the cells a of the
kernel's first axis is left, of planes that lie d·a apart:

    y[n, i, …] = Σ_a w[a] * X[n, s·i + d·a, …]

Few channels are better stacked, those of all the planes that a window meets side by side, so that
one convolution of images sums over a too. A convolution of images is summed as the table chooses,
a kernel gradient by columns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, choose, is_float32
from jaxbp.lowering.convolution import columns, xla
from jaxbp.lowering.finite import if_finite
from jaxbp.lowering.slices import add, unslice
from jaxbp.window import Window, dilated

# The most channels of a stack.
STACKED = 64
# The most cells of the first axis: each is written out.
MOST = 16


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """Two spatial axes or more, one group, and something to sum."""
    output = window.output(x.shape[1:-1])
    return len(output) > 1 and groups == 1 and 0 not in (*x.shape, *w.shape, *output)


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return can(x, dy, window, groups) and window.cells > 0


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return dy.ndim > 3 and groups == 1 and 0 not in (*dy.shape, *w.shape, *input_shape)


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C, O], the sum (3.5)."""
    wide = sum_dtype(x.dtype)
    outputs = window.output(x.shape[1:-1])[0]
    met, kernels = _met(x.astype(wide), window, outputs), list(w.astype(wide))
    if len(kernels) * x.shape[-1] <= STACKED:
        met, kernels = [jnp.concatenate(met, axis=-1)], [jnp.concatenate(kernels, axis=-2)]

    def one(x: jax.Array, w: jax.Array) -> jax.Array:
        case = (_images(x), w, _inner(window), groups)
        y: jax.Array = choose("conv", *case)[0].run(*case)
        return y.reshape(*x.shape[:2], *y.shape[1:])

    return add(map(one, met, kernels)).astype(x.dtype)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C, O], the sum (3.7)."""
    wide = sum_dtype(dy.dtype)
    n, *spatial, c = input_shape
    axes, k = len(spatial), window.size[0]
    # What a plane of dy gives to each of the planes that it met, stacked.
    stacked = jnp.moveaxis(w.astype(wide), 0, -3)
    stacked = stacked.reshape(*stacked.shape[:-3], k * c, stacked.shape[-1])
    shape = (n * dy.shape[1], *spatial[1:], k * c)
    case = (_images(dy.astype(wide)), stacked, shape, _inner(window), groups)
    dx = choose("conv_input_grad", *case)[0].run(*case).reshape(*dy.shape[:2], *spatial[1:], k, c)
    none = (1,) * (axes - 1)
    first = Window(
        (k, *none),
        (window.stride[0], *none),
        (window.padding[0], *((0, 0),) * (axes - 1)),
        (window.dilation[0], *none),
    )
    return unslice((dx[..., a, :] for a in range(k)), input_shape, first).astype(dy.dtype)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    k, c, o = window.size[0], x.shape[-1], dy.shape[-1]

    def images(x: jax.Array, dy: jax.Array, parts: Shape, axis: int) -> jax.Array:
        dw = columns.conv_kernel_grad(_images(x), _images(dy), _inner(window), groups)
        return jnp.moveaxis(dw.reshape(*window.size[1:], *parts), axis, 0)

    def by_input(x: jax.Array, dy: jax.Array) -> jax.Array:
        met = jnp.concatenate(_met(x, window, dy.shape[1]), axis=-1)
        return images(met, dy, (k, c, o), -3)

    def by_output(x: jax.Array, dy: jax.Array) -> jax.Array:
        # Beside a plane of x those of dy that met it, at the kernel's first cell first.
        starts = (window.low[0] - window.dilation[0] * m for m in range(k))
        met = jnp.concatenate([_planes(dy, start, 1, x.shape[1]) for start in starts], axis=-1)
        return images(x, met, (c, k, o), -2)

    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        return xla.conv_kernel_grad(x, dy, window, groups)

    wide = sum_dtype(x.dtype)
    case = (x.astype(wide), dy.astype(wide))
    # Fewer numbers to lay out a place, of x in columns and of dy. The stack of dy holds zeros that
    # the plain sum has not.
    inner = window.cells // k
    if window.stride[0] > 1 or inner * k * c + o <= inner * c + k * o:
        return by_input(*case).astype(x.dtype)
    return if_finite(by_output, plain, *case).astype(x.dtype)


def _met(x: jax.Array, window: Window, outputs: int) -> list[jax.Array]:
    """For each cell of the kernel's first axis, the planes of x that the windows have there."""
    low, stride, dilation = window.low[0], window.stride[0], window.dilation[0]
    return [_planes(x, dilation * m - low, stride, outputs) for m in range(window.size[0])]


def _planes(a: jax.Array, start: int, stride: int, count: int) -> jax.Array:
    """So many planes of a, a stride apart, from the start on; zero outside of a."""
    reach = dilated(count, stride)
    config = [(0, 0, 0), (-start, start + reach - a.shape[1], 0), *[(0, 0, 0)] * (a.ndim - 2)]
    return lax.slice_in_dim(lax.pad(a, np.zeros((), a.dtype), config), 0, reach, stride, 1)


def _images(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _inner(window: Window) -> Window:
    size, stride, padding, dilation = window
    return Window(size[1:], stride[1:], padding[1:], dilation[1:])


def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    return is_float32(x, w) and len(window.size) == 3 and window.size[0] <= MOST


def _wins_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    return _wins(dy, w, window, groups)


def _wins_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    if len(window.size) == 3:
        return _wins(x, dy, window, groups)
    # Of images the rows. Between few channels the columns of all cells are a product's longer side
    # many times over: those of a row, and dy stacked, are fewer.
    work = dy.size * window.cells * x.shape[-1]
    return (
        is_float32(x, dy)
        and 2 <= window.size[0] <= MOST
        and set(window.stride) == {1}
        and min(x.shape[-1], dy.shape[-1]) >= 8
        and max(x.shape[-1], dy.shape[-1]) >= 32
        and work >= 1 << 24
        and not columns.xla_pays(x, dy, window)
    )


ROWS = {
    "conv": Row("planes", conv, can, _wins),
    "conv_input_grad": Row("planes", conv_input_grad, can_input_grad, _wins_input_grad),
    "conv_kernel_grad": Row("planes", conv_kernel_grad, can_kernel_grad, _wins_kernel_grad),
}
