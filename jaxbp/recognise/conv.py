"""Recognise `conv_general_dilated`, in every layout, as one of the rules' sums.

The sums (3.5) and (3.6) are one: a kernel gradient is a convolution whose kernel is δ, with
examples and channels exchanged. Which of the two a convolution is read as decides only in which
order it is summed, and two things tell which it is: δ is no smaller than the kernel that comes out,
and what plays the examples lies behind what plays the channels.

Batch groups and feature groups are one as well: where the outputs of a group meet the examples of
that group only, these examples are channels of a grouped convolution, and the other way round.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxbp.arguments import Shape, is_float
from jaxbp.recognise.finding import Rule, Sum, avals, out_shape, sizes
from jaxbp.rules.conv import (
    conv,
    conv_arguments,
    conv_kernel_grad,
    conv_transpose,
    conv_transpose_arguments,
)
from jaxbp.window import Pairs, dilated, make_window


class Options(NamedTuple):
    """What `conv_general_dilated` takes beside its operands; axes are [N, C, *S] and [O, I, *K]."""

    lhs_axes: Shape
    rhs_axes: Shape
    out_axes: Shape
    strides: Shape
    padding: Pairs
    lhs_dilation: Shape
    rhs_dilation: Shape
    groups: int
    batch_groups: int


def options(equation: JaxprEqn) -> Options:
    """Return the equation's options."""
    p = equation.params
    numbers = p["dimension_numbers"]
    return Options(
        tuple(numbers.lhs_spec),
        tuple(numbers.rhs_spec),
        tuple(numbers.out_spec),
        tuple(p["window_strides"]),
        tuple((low, high) for low, high in p["padding"]),
        tuple(p["lhs_dilation"]),
        tuple(p["rhs_dilation"]),
        p["feature_group_count"],
        p["batch_group_count"],
    )


def describe(equation: JaxprEqn) -> str:
    """The convolution in words: its layout, its kernel and channels, and whatever is unusual."""
    o = options(equation)
    x, w = avals(equation)
    letters = dict(zip(o.lhs_axes, "NC" + "S" * len(o.strides), strict=True))
    kernel = [w.shape[axis] for axis in o.rhs_axes[2:]]
    words = [
        f"{sizes(kernel)} convolution of {''.join(letters[a] for a in sorted(letters))}",
        f"{x.shape[o.lhs_axes[1]]}→{w.shape[o.rhs_axes[0]]}",
    ]
    for name, value in (
        ("stride", o.strides),
        ("lhs dilation", o.lhs_dilation),
        ("dilation", o.rhs_dilation),
        ("groups", (o.groups,)),
        ("batch groups", (o.batch_groups,)),
    ):
        if set(value) - {1}:
            words.append(f"{name} {sizes(value)}")
    if precision(equation) not in (None, "default"):
        words.append(f"precision {precision(equation)}")
    return ", ".join(words)


def unfit(equation: JaxprEqn) -> str:
    """Return why no rule can stand for this convolution, or an empty string."""
    o = options(equation)
    p = equation.params
    x, w = avals(equation)
    axes = len(o.strides)
    if not 1 <= axes <= 3:
        return f"it has {axes} spatial axes, the rules have one to three"
    if x.dtype != w.dtype or not is_float(x.dtype):
        operands = f"its operands are {x.dtype} and {w.dtype}"
        return f"{operands}, not of one real floating dtype of 16 bits or more"
    if not all(isinstance(a, lax.Precision | None) for a in _each(p["precision"])):
        return f"it asks for the products' algorithm {p['precision']}"
    if len(set(_each(p["precision"]))) != 1:
        wanted = " and ".join(str(a) for a in _each(p["precision"]))
        return f"it asks for two precisions, {wanted}"
    wanted_type = p["preferred_element_type"]
    if wanted_type is not None and wanted_type != x.dtype:  # to numpy, float64 == None
        return f"it asks for a result in {p['preferred_element_type']}"
    if p.get("out_sharding") is not None:
        return "it asks for a sharding of its result"
    if 0 in (*x.shape, *w.shape, *out_shape(equation)):
        return "it is empty"
    if 0 in o.strides:
        return "its stride is 0"
    spatial = [
        dilated(x.shape[axis], d) for axis, d in zip(o.lhs_axes[2:], o.lhs_dilation, strict=True)
    ]
    if any(n + low + high < 0 for n, (low, high) in zip(spatial, o.padding, strict=True)):
        return "its padding crops more than there is"
    return ""


def rule(equation: JaxprEqn) -> Rule:
    """Return the rule that stands for this convolution, which must not be unfit for one."""
    o = options(equation)
    if _is_kernel_grad(equation):
        return Rule(
            "conv_kernel_grad", jaxbp_conv_kernel_grad, o, precision(equation), kernel_grad_sums
        )
    if set(o.lhs_dilation) != {1} and set(o.strides) == {1}:
        return Rule("conv_transpose", jaxbp_conv_transpose, o, precision(equation), transpose_sums)
    return Rule("conv", jaxbp_conv, o, precision(equation), conv_sums)


def precision(equation: JaxprEqn) -> str | None:
    """Return what the equation asks of its products, as `jax.default_matmul_precision` has it.

    None if it asks for nothing, or for what cannot be said there.
    """
    wanted = set(_each(equation.params["precision"]))
    names = [a.name.lower() for a in wanted if isinstance(a, lax.Precision)]
    return names[0] if len(names) == len(wanted) == 1 else None


def _is_kernel_grad(equation: JaxprEqn) -> bool:
    o = options(equation)
    kernel = math.prod(avals(equation)[1].shape[axis] for axis in o.rhs_axes[2:])
    exchanged = o.lhs_axes[0] > o.lhs_axes[1]
    outputs = math.prod(out_shape(equation)[axis] for axis in o.out_axes[2:])
    # Batch groups in this order come from the kernel gradient of a grouped convolution alone.
    return exchanged and (o.batch_groups != 1 or 1 < kernel >= outputs)


def _each(wanted: Any) -> tuple[Any, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


@partial(jax.jit, static_argnames="options")
def jaxbp_conv(x: jax.Array, w: jax.Array, *, options: Options) -> jax.Array:
    """`conv_general_dilated` as a convolution."""
    x, w = channels_last(x, w, options)
    return back(conv(x, w, **window(options)), options)


def conv_sums(x: jax.Array, w: jax.Array, *, options: Options) -> list[Sum]:
    """Return the sums of `jaxbp_conv`."""
    x, w = channels_last(x, w, options)
    x, w, _, made, groups = conv_arguments("conv", x, w, None, **window(options))
    dy = jax.ShapeDtypeStruct((x.shape[0], *made.output(x.shape[1:-1]), w.shape[-1]), x.dtype)
    return [
        Sum("forward", "conv", (x, w, made, groups)),
        Sum("input gradient", "conv_input_grad", (dy, w, x.shape, made, groups)),
        Sum("kernel gradient", "conv_kernel_grad", (x, dy, made, groups)),
    ]


@partial(jax.jit, static_argnames="options")
def jaxbp_conv_transpose(x: jax.Array, w: jax.Array, *, options: Options) -> jax.Array:
    """`conv_general_dilated` with a dilated input, as a transposed convolution."""
    x, w, given = _transposed(x, w, options)
    return back(conv_transpose(x, w, **given), options)


def transpose_sums(x: jax.Array, w: jax.Array, *, options: Options) -> list[Sum]:
    """Return the sums of `jaxbp_conv_transpose`: those of the convolution that it is adjoint to."""
    x, w, given = _transposed(x, w, options)
    x, w, _, shape, made, groups = conv_transpose_arguments(x, w, None, **given)
    dy = jax.ShapeDtypeStruct(shape, x.dtype)
    return [
        Sum("forward", "conv_input_grad", (x, w, shape, made, groups)),
        Sum("input gradient", "conv", (dy, w, made, groups)),
        Sum("kernel gradient", "conv_kernel_grad", (dy, x, made, groups)),
    ]


def _transposed(
    x: jax.Array, w: jax.Array, o: Options
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Return the operands and options of `conv_transpose`."""
    x, w = channels_last(x, w, o)
    given = {**window(o), "stride": o.lhs_dilation}
    return x, transposed_kernel(w, given["groups"]), given


@partial(jax.jit, static_argnames="options")
def jaxbp_conv_kernel_grad(lhs: jax.Array, rhs: jax.Array, *, options: Options) -> jax.Array:
    """`conv_general_dilated` as a kernel gradient: of x and δ, stride and dilation exchanged."""
    x, dy, kernel_shape, given = _kernel_grad(lhs, rhs, options)
    dw = conv_kernel_grad(x, dy, kernel_shape, **given)
    if _is_of_transposed(options):
        dw = transposed_kernel(dw, given["groups"])
    return back(jnp.moveaxis(dw, -2, 0), options)


def kernel_grad_sums(lhs: jax.Array, rhs: jax.Array, *, options: Options) -> list[Sum]:
    """Return the only sum of `jaxbp_conv_kernel_grad`, whose gradient was taken already."""
    x, dy, kernel_shape, given = _kernel_grad(lhs, rhs, options)
    groups = given.pop("groups")
    made = make_window("conv_kernel_grad", x.shape[1:-1], kernel_shape[:-2], **given)
    return [Sum("kernel gradient", "conv_kernel_grad", (x, dy, made, groups))]


def _kernel_grad(
    lhs: jax.Array, rhs: jax.Array, o: Options
) -> tuple[jax.Array, jax.Array, Shape, dict[str, Any]]:
    """Return the operands and options of `conv_kernel_grad`."""
    c, n, *spatial = o.lhs_axes
    x = jnp.transpose(lhs, (n, *spatial, c))
    features, n, *spatial = o.rhs_axes
    dy = jnp.transpose(rhs, (n, *spatial, features))
    groups = o.groups * o.batch_groups
    if o.groups != 1:
        x = _into_channels(x, groups)
    strides, rhs_dilation, lhs_dilation = o.strides, o.rhs_dilation, o.lhs_dilation
    if set(lhs_dilation) != {1} and not _is_of_transposed(o):
        x, lhs_dilation = _dilate(x, lhs_dilation), (1,) * len(strides)
    size = [
        (dilated(length, inner) + low + high - dilated(m, outer)) // s + 1
        for length, m, (low, high), inner, outer, s in zip(
            x.shape[1:-1],
            dy.shape[1:-1],
            o.padding,
            lhs_dilation,
            rhs_dilation,
            strides,
            strict=True,
        )
    ]
    # The cell k of the kernel and the place i of δ meet x at s·k + r·i − low, in a dilated x at a
    # multiple of the dilation l: i = l·j + s·(K − 1 − k) − (s·(K − 1) − low), which is the same sum
    # with x and δ exchanged and the kernel turned.
    lows = [low for low, _ in o.padding]
    stride = rhs_dilation
    if _is_of_transposed(o):
        x, dy, stride = dy, x, lhs_dilation
        lows = [s * (k - 1) - low for s, k, low in zip(strides, size, lows, strict=True)]
    padding = [
        (low, dilated(m, outer) + s * (k - 1) - length - low)
        for length, m, k, low, outer, s in zip(
            x.shape[1:-1], dy.shape[1:-1], size, lows, stride, strides, strict=True
        )
    ]
    given = {"stride": stride, "padding": padding, "dilation": strides, "groups": groups}
    return x, dy, (*size, x.shape[-1] // groups, dy.shape[-1]), given


def _is_of_transposed(o: Options) -> bool:
    """Whether the kernel whose gradient this is belongs to a transposed convolution."""
    return set(o.lhs_dilation) != {1} and set(o.rhs_dilation) == {1}


def window(o: Options) -> dict[str, Any]:
    """Return what `conv` takes beside its operands."""
    return {
        "stride": o.strides,
        "padding": o.padding,
        "dilation": o.rhs_dilation,
        "groups": o.groups * o.batch_groups,
    }


def channels_last(x: jax.Array, w: jax.Array, o: Options) -> tuple[jax.Array, jax.Array]:
    """Return the operands as [N, *S, C] and [*K, C // groups, O]."""
    n, c, *spatial = o.lhs_axes
    x = jnp.transpose(x, (n, *spatial, c))
    features, inputs, *kernel = o.rhs_axes
    w = jnp.transpose(w, (*kernel, inputs, features))
    if o.batch_groups != 1:
        x = _into_channels(x, o.batch_groups)
    if set(o.lhs_dilation) != {1} and set(o.strides) != {1}:
        x = _dilate(x, o.lhs_dilation)
    return x, w


def _into_channels(x: jax.Array, groups: int) -> jax.Array:
    """[g·N, *S, C] -> [N, *S, g·C]: examples of group g meet outputs of group g."""
    x = jnp.moveaxis(x.reshape(groups, x.shape[0] // groups, *x.shape[1:]), 0, -2)
    return x.reshape(*x.shape[:-2], -1)


def _dilate(x: jax.Array, dilation: Shape) -> jax.Array:
    """Zeros between the places, where a stride skips some of them again: no rule has both."""
    config = [(0, 0, 0), *((0, 0, d - 1) for d in dilation), (0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), config)


def back(y: jax.Array, o: Options) -> jax.Array:
    """Return [N, *S, O] in the layout that was asked for."""
    n, features, *spatial = o.out_axes
    axes = [0] * y.ndim
    for place, axis in enumerate((n, *spatial, features)):
        axes[axis] = place
    return jnp.transpose(y, axes)


def transposed_kernel(w: jax.Array, groups: int) -> jax.Array:
    """[*K, C // groups, O] -> [*K, O // groups, C], turned: the kernel whose adjoint this is."""
    *k, c, features = w.shape
    w = jnp.flip(w, tuple(range(len(k))))
    w = jnp.swapaxes(w.reshape(*k, c, groups, features // groups), -3, -1)
    return w.reshape(*k, features // groups, groups * c)
