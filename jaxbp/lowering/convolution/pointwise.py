"""Convolution with a kernel of one cell: a plain matrix product over channels."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import lax

from jaxbp.arguments import Shape, sum_dtype
from jaxbp.lowering.choice import Row, always
from jaxbp.lowering.slices import pad, slices, unslice
from jaxbp.window import Window


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """One cell, one group."""
    return window.cells == 1 and groups == 1


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """One cell, one group."""
    return window.cells == 1 and groups == 1


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """One cell, one group."""
    return window.cells == 1 and groups == 1


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] = x w, at the places that the stride visits."""
    return _product(_visited(x, window), w.reshape(w.shape[-2:]), ((-1,), (0,)))


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C, O] = xᵀ dy over all places that the stride visits."""
    places = math.prod(dy.shape[:-1])
    x, dy = (a.reshape(places, a.shape[-1]) for a in (_visited(x, window), dy))
    dw = _product(x, dy, ((0,), (0,)))
    return dw.reshape(*window.size, *dw.shape)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] = dy wᵀ at the places that the stride visits, zero elsewhere."""
    return unslice([_product(dy, w.reshape(w.shape[-2:]), ((-1,), (1,)))], input_shape, window)


def _visited(x: jax.Array, window: Window) -> jax.Array:
    (cell,) = slices(pad(x, window, 0), window, x.shape)
    return cell


def _product(a: jax.Array, b: jax.Array, contract: Any) -> jax.Array:
    contract = tuple(
        tuple(i % m.ndim for i in axes) for axes, m in zip(contract, (a, b), strict=True)
    )
    wide = sum_dtype(a.dtype)
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=wide).astype(a.dtype)


def _wins(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    # With a stride, the places visited are copied out first: too much beside a short product.
    return set(window.stride) == {1} or x.shape[-1] > 64


ROWS = {
    "conv": Row("pointwise", conv, can, _wins),
    "conv_input_grad": Row("pointwise", conv_input_grad, can_input_grad, always),
    "conv_kernel_grad": Row("pointwise", conv_kernel_grad, can_kernel_grad, always),
}
