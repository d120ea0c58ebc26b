"""Groups of some channels: a few dense convolutions, each of several groups, with zeros between.

A product over the eight or thirty channels of one group is too narrow to be quick, and XLA's
grouped convolution on a CPU is a plain loop. With the kernels of neighbouring groups along the
diagonal of one wider kernel, a convolution of that width takes them all; as it multiplies by zeros
too, no more groups are merged than make it wide. Of a kernel gradient the diagonal is kept.

The zeros would spread what is not finite from one group to its neighbours: an input that holds any
such number takes the plain sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from jaxbp.arguments import Shape
from jaxbp.lowering import choice
from jaxbp.lowering.choice import Row
from jaxbp.lowering.convolution import shifts, xla
from jaxbp.lowering.finite import if_finite
from jaxbp.window import Window

# Channels and features at which a product is quick, and into how many convolutions to fall at most.
WIDE = 64
MOST = 4


def can(x: jax.Array, w: jax.Array, window: Window, groups: int) -> bool:
    """Several groups, and something to sum."""
    return groups > 1 and shifts.can(x, w, window, groups)


def can_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> bool:
    """As forward."""
    return groups > 1 and shifts.can_kernel_grad(x, dy, window, groups)


def can_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> bool:
    """As forward."""
    return groups > 1 and shifts.can_input_grad(dy, w, input_shape, window, groups)


def conv(x: jax.Array, w: jax.Array, window: Window, groups: int) -> jax.Array:
    """y[N, *S_out, O] of x[N, *S, C] and w[*K, C // groups, O], the sum (3.5)."""
    each, features = w.shape[-2], w.shape[-1] // groups
    merged = _merged(groups, each, features)

    def quick(x: jax.Array) -> jax.Array:
        parts = zip(_parts(x, groups // merged), _parts(w, groups // merged), strict=True)
        static = (window, 1)
        return _join(choice.run("conv", static, a, _diagonal(k, merged)) for a, k in parts)

    return if_finite(quick, lambda x: xla.conv(x, w, window, groups), x)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C] of dy[N, *S_out, O] and w[*K, C // groups, O], the sum (3.7)."""
    each, features = w.shape[-2], w.shape[-1] // groups
    merged = _merged(groups, each, features)

    def quick(dy: jax.Array) -> jax.Array:
        parts = zip(_parts(dy, groups // merged), _parts(w, groups // merged), strict=True)
        static = ((*input_shape[:-1], merged * each), window, 1)
        return _join(
            choice.run("conv_input_grad", static, a, _diagonal(k, merged)) for a, k in parts
        )

    def plain(dy: jax.Array) -> jax.Array:
        return xla.conv_input_grad(dy, w, input_shape, window, groups)

    return if_finite(quick, plain, dy)


def conv_kernel_grad(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """dw[*K, C // groups, O] of x[N, *S, C] and dy[N, *S_out, O], the sum (3.6)."""
    each, features = x.shape[-1] // groups, dy.shape[-1] // groups
    merged = _merged(groups, each, features)

    def of_diagonal(dw: jax.Array) -> jax.Array:
        *size, _, _ = dw.shape
        dw = dw.reshape(*size, merged, each, merged, features)
        dw = jnp.moveaxis(jnp.diagonal(dw, axis1=-4, axis2=-2), -1, -2)
        return dw.reshape(*size, each, merged * features)

    parts = zip(_parts(x, groups // merged), _parts(dy, groups // merged), strict=True)
    return _join(of_diagonal(choice.run("conv_kernel_grad", (window, 1), a, d)) for a, d in parts)


def _merged(groups: int, each: int, features: int) -> int:
    """How many groups to merge: the fewest that are wide enough, and of which there are few."""
    return next(
        m
        for m in range(1, groups + 1)
        if groups % m == 0
        and (m == groups or (m * min(each, features) >= WIDE and groups // m <= MOST))
    )


def _parts(a: jax.Array, parts: int) -> list[jax.Array]:
    return jnp.split(a, parts, axis=-1)


def _join(parts: Iterable[jax.Array]) -> jax.Array:
    return jnp.concatenate(list(parts), axis=-1)


def _diagonal(w: jax.Array, groups: int) -> jax.Array:
    """[*K, C, O] with w[*K, C // groups, O] along its diagonal of groups, and zeros elsewhere."""
    *size, each, o = w.shape
    spread = w.reshape(*size, 1, each, groups, o // groups)
    own = jnp.eye(groups, dtype=bool).reshape(*(1 for _ in size), groups, 1, groups, 1)
    return jnp.where(own, spread, jnp.zeros((), w.dtype)).reshape(*size, groups * each, o)


ROWS = {
    "conv": Row("merged", conv, can, choice.always),
    "conv_input_grad": Row("merged", conv_input_grad, can_input_grad, choice.always),
    "conv_kernel_grad": Row("merged", conv_kernel_grad, can_kernel_grad, choice.always),
}
