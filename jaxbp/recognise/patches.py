"""Recognise `conv_general_dilated_patches`: windows copied out, not convolved.

JAX writes it as a depthwise convolution with one feature a cell, whose kernel is 1 in that cell and
0 in the others. This kernel is a constant, so it has no gradient, and there is nothing to multiply:
an infinity stays in its own cell, where 0 times it makes NaN of the others.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var
from jax.extend.core.primitives import conv_general_dilated_p

from jaxbp.arguments import Shape, is_float
from jaxbp.jaxprs import Atom
from jaxbp.recognise import conv
from jaxbp.recognise.block import Reader
from jaxbp.recognise.finding import Finding, Rule, aval, avals, beyond_rules, out_shape

# Slices to write out at most: the program grows with them.
UNROLLED = 64


class Options(NamedTuple):
    """What the convolution takes beside its operands, and its kernel's size."""

    conv: conv.Options
    size: Shape


def find(place: int, reader: Reader) -> Finding | None:
    """Return the patches that the equation at this place cuts out, or None if it is no such."""
    equation = reader.equations[place]
    if equation.primitive is not conv_general_dilated_p or not _is_identity(equation, reader):
        return None
    x, w = avals(equation)
    o = conv.options(equation)
    made = Options(o, tuple(w.shape[axis] for axis in o.rhs_axes[2:]))
    if (
        not is_float(x.dtype)
        or beyond_rules((x, aval(equation.outvars[0])))
        or aval(equation.outvars[0]).dtype != x.dtype
        or equation.params.get("out_sharding") is not None
        or 0 in (*x.shape, *out_shape(equation), *o.strides)
        or _slices(made) > UNROLLED
    ):
        return None
    what = conv.describe(equation).replace("convolution", "patches")
    asked = equation.params["precision"]  # for the input; the kernel is exact in any
    precision = asked[0].name.lower() if isinstance(asked, tuple) else None
    rule = Rule("slices", jaxbp_patches, made, precision)
    return Finding((place,), what, rule, "", tuple(equation.invars[:1]), tuple(equation.outvars))


@partial(jax.jit, static_argnames="options")
def jaxbp_patches(x: jax.Array, *, options: Options) -> jax.Array:
    """The windows' cells as channels: slices on a CPU, JAX's own convolution elsewhere."""
    return lax.platform_dependent(
        x, cpu=partial(_cut, options=options), default=partial(_convolve, options=options)
    )


def _cut(x: jax.Array, *, options: Options) -> jax.Array:
    """Axis by axis, so that a window of a·b cells takes a + b slices."""
    o, size = options
    n, c, *spatial = o.lhs_axes
    x = jnp.transpose(x, (n, *spatial, c))
    config = [(low, high, d - 1) for (low, high), d in zip(o.padding, o.lhs_dilation, strict=True)]
    x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    axes = len(size)
    for axis in range(axes):  # [N, *windows, *S left, C, *cells]
        x = _windows(x, 1 + axis, size[axis], o.strides[axis], o.rhs_dilation[axis])
    y = x.reshape(*x.shape[: 1 + axes], math.prod(x.shape[1 + axes :]))
    return conv.back(y, o)


def _windows(x: jax.Array, axis: int, size: int, stride: int, dilation: int) -> jax.Array:
    """[…, S, …] -> […, windows, …, cells]."""
    windows = (x.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    if _is_a_tiling(size, stride, dilation):
        x = lax.slice_in_dim(x, 0, windows * size, axis=axis)
        x = x.reshape(*x.shape[:axis], windows, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis + 1, -1)
    reach = stride * (windows - 1) + 1
    cells = [
        lax.slice_in_dim(x, dilation * m, dilation * m + reach, stride, axis) for m in range(size)
    ]
    return jnp.stack(cells, -1)


def _slices(options: Options) -> int:
    o, size = options
    return sum(
        k
        for k, s, d in zip(size, o.strides, o.rhs_dilation, strict=True)
        if not _is_a_tiling(k, s, d)
    )


def _is_a_tiling(size: int, stride: int, dilation: int) -> bool:
    return size == stride and dilation == 1


def _convolve(x: jax.Array, *, options: Options) -> jax.Array:
    o, size = options
    return lax.conv_general_dilated_patches(
        x,
        size,
        o.strides,
        o.padding,
        o.lhs_dilation,
        o.rhs_dilation,
        lax.ConvDimensionNumbers(o.lhs_axes, o.rhs_axes, o.out_axes),
    )


def _is_identity(equation: JaxprEqn, reader: Reader) -> bool:
    """Whether the kernel is [K, K]'s identity, repeated for each channel, as JAX builds it."""
    o = conv.options(equation)
    x, w = avals(equation)
    cells = math.prod(w.shape[axis] for axis in o.rhs_axes[2:])
    channels = x.shape[o.lhs_axes[1]]
    if o.groups != channels or w.shape[o.rhs_axes[0]] != channels * cells:
        return False

    def written(atom: Atom, name: str) -> JaxprEqn | None:
        place = reader.writers.get(atom) if isinstance(atom, Var) else None
        found = None if place is None else reader.equations[place]
        return found if found is not None and found.primitive.name == name else None

    kernel: Atom = equation.invars[1]
    order = tuple(o.rhs_axes)
    moved = written(kernel, "transpose")
    if moved is not None:
        order = tuple(moved.params["permutation"][axis] for axis in o.rhs_axes)
        (kernel,) = moved.invars
    if order != tuple(range(len(order))):
        return False
    shapes = {"reshape": None, "broadcast_in_dim": (channels, cells, cells)}
    for name in ("reshape", "broadcast_in_dim", "convert_element_type"):
        step = written(kernel, name)
        if step is None or shapes.get(name) not in (None, out_shape(step)):
            return False
        if name == "broadcast_in_dim" and tuple(step.params["broadcast_dimensions"]) != (1, 2):
            return False
        kernel = step.invars[0]
    equal = written(kernel, "eq")
    if equal is None:
        return False
    rows, columns = equal.invars
    offset = written(rows, "add")
    if offset is not None:
        rows, zero = offset.invars
        if not isinstance(zero, Literal) or zero.val != 0:
            return False
    counts = [written(rows, "iota"), written(columns, "iota")]
    return [c and c.params["dimension"] for c in counts] == [0, 1]
