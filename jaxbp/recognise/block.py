"""Recognise convolution, bias, relu and max-pool in a row as `conv_relu_max_pool`.

The chain is followed from one equation to the next as long as each result has one reader.
Frameworks put axes of size one in and out and exchange axes on the way; so each axis of a result
carries a label that says what it is, "n", "o" or a spatial axis's number, and None where its size
is one.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import (
    add_p,
    broadcast_in_dim_p,
    conv_general_dilated_p,
    custom_jvp_call_p,
    reduce_window_max_p,
    reshape_p,
    squeeze_p,
    transpose_p,
)

from jaxbp.arguments import Shape
from jaxbp.jaxprs import Atom, opened
from jaxbp.recognise import conv, pool
from jaxbp.recognise.finding import Finding, Rule, Sum, aval, avals, beyond_rules, out_shape
from jaxbp.rules.block import conv_relu_max_pool

Label = str | int | None
RESHAPES = (reshape_p, squeeze_p, broadcast_in_dim_p)


class Options(NamedTuple):
    """What the block takes beside its operands, and how its result is laid out."""

    conv: conv.Options
    window: Shape
    stride: Shape
    labels: tuple[Label, ...]
    shape: Shape


class Reader(NamedTuple):
    """Who reads what in a jaxpr, and who writes it."""

    equations: Sequence[JaxprEqn]
    reads: Counter[Var]  # how often, results of the jaxpr included
    readers: dict[Var, int]  # the last equation that reads
    writers: dict[Var, int]

    @classmethod
    def of(cls, jaxpr: Jaxpr) -> Reader:
        """Return who reads and writes in this jaxpr."""
        reads = Counter(v for v in jaxpr.outvars if isinstance(v, Var))
        readers: dict[Var, int] = {}
        writers: dict[Var, int] = {}
        for place, equation in enumerate(jaxpr.eqns):
            for v in equation.invars:
                if isinstance(v, Var):
                    reads[v] += 1
                    readers[v] = place
            writers.update((v, place) for v in equation.outvars)
        return cls(jaxpr.eqns, reads, readers, writers)


def find(place: int, reader: Reader) -> Finding | None:
    """Return the block that starts with the convolution at this place, or None."""
    start = reader.equations[place]
    o = conv.options(start)
    if start.primitive is not conv_general_dilated_p or set(o.lhs_dilation) != {1}:
        return None
    labels = _drop_ones(_conv_labels(o), out_shape(start))
    bias: Atom | None = None
    window: dict[str, Any] | None = None
    active = False
    places = [place]
    spare: list[int] = []
    (result,) = start.outvars
    while not (active and window):
        if reader.reads[result] != 1 or result not in reader.readers:
            return None
        place = reader.readers[result]
        equation = reader.equations[place]
        shape = out_shape(equation)
        if equation.primitive in RESHAPES:
            moved = _reshape(labels, aval(result).shape, shape)
            if moved is None:
                return None
            labels = moved
        elif equation.primitive is transpose_p:
            labels = tuple(labels[a] for a in equation.params["permutation"])
        elif equation.primitive is add_p and bias is None and not active and window is None:
            found = _bias(equation, result, labels, o, start, reader)
            if found is None:
                return None
            bias, *broadcast = found
            spare += broadcast
        elif equation.primitive is reduce_window_max_p and window is None:
            window = _window(equation, labels, len(o.strides))
            if window is None:
                return None
        elif is_relu(equation) and not active:
            active = True
        else:
            return None
        places.append(place)
        (result,) = equation.outvars
        labels = _drop_ones(labels, shape)
    made = Options(o, window["window"], window["stride"], labels, aval(result).shape)
    inputs = (*start.invars, *(() if bias is None else (bias,)))
    if beyond_rules(aval(v) for v in inputs):
        return None
    what = ", ".join(
        (
            conv.describe(start),
            *(() if bias is None else ("bias",)),
            "relu",
            f"{'×'.join(map(str, made.window))} max-pool",
        )
    )
    rule = Rule("conv_relu_max_pool", jaxbp_block, made, conv.precision(start), block_sums)
    return Finding((*sorted(spare), *places), what, rule, "", inputs, (result,))


@partial(jax.jit, static_argnames="options")
def jaxbp_block(
    x: jax.Array, w: jax.Array, b: jax.Array | None = None, *, options: Options
) -> jax.Array:
    """Convolution, bias, relu and max-pool through the rule, whatever the layout."""
    x, w = conv.channels_last(x, w, options.conv)
    y = conv_relu_max_pool(
        x,
        w,
        None if b is None else b.reshape(-1),
        window=options.window,
        pool_stride=options.stride,
        **conv.window(options.conv),
    )
    names: tuple[Label, ...] = ("n", *range(y.ndim - 2), "o")
    order = [names.index(label) for label in options.labels if label is not None]
    order += [axis for axis in range(y.ndim) if axis not in order]  # of size one, all of them
    return jnp.transpose(y, order).reshape(options.shape)


def block_sums(
    x: jax.Array, w: jax.Array, b: jax.Array | None = None, *, options: Options
) -> list[Sum]:
    """Return the sums of `jaxbp_block`'s convolution."""
    return conv.conv_sums(x, w, options=options.conv)


def is_relu(equation: JaxprEqn) -> bool:
    """Return whether this is `jax.nn.relu`: its name and its own derivative, not just its value.

    `jnp.maximum(x, 0)` is not: at 0 its derivative is 1/2, where relu's is 0.
    """
    if equation.primitive is custom_jvp_call_p:
        return bool(_source(equation.params["call_jaxpr"]) == _relu_source())
    if equation.primitive.name != "jit":
        return False
    inner = opened(equation.params["jaxpr"])
    return (
        len(inner.eqns) == 1
        and len(inner.invars) == 1
        and list(inner.eqns[0].invars) == list(inner.invars)
        and list(inner.eqns[0].outvars) == list(inner.outvars)
        and is_relu(inner.eqns[0])
    )


@functools.cache
def _relu_source() -> str:
    jaxpr = opened(jax.make_jaxpr(jax.nn.relu)(np.float32(0)))
    while jaxpr.eqns[0].primitive is not custom_jvp_call_p:
        jaxpr = opened(jaxpr.eqns[0].params["jaxpr"])
    return _source(jaxpr.eqns[0].params["call_jaxpr"])


def _source(jaxpr: Any) -> str:
    return str(opened(jaxpr).debug_info.func_src_info)


def _conv_labels(o: conv.Options) -> tuple[Label, ...]:
    labels: list[Label] = [None] * len(o.out_axes)
    for label, axis in zip(("n", "o", *range(len(o.strides))), o.out_axes, strict=True):
        labels[axis] = label
    return tuple(labels)


def _drop_ones(labels: Sequence[Label], shape: Shape) -> tuple[Label, ...]:
    return tuple(None if n == 1 else label for label, n in zip(labels, shape, strict=True))


def _reshape(labels: Sequence[Label], old: Shape, new: Shape) -> tuple[Label, ...] | None:
    """Return the labels after axes of size one came or went, or None if more than that happened."""
    if [n for n in old if n != 1] != [n for n in new if n != 1]:
        return None
    left = iter(label for label, n in zip(labels, old, strict=True) if n != 1)
    return tuple(None if n == 1 else next(left) for n in new)


def _window(
    equation: JaxprEqn, labels: Sequence[Label], axes: int
) -> dict[str, tuple[int, ...]] | None:
    """Return the window along the spatial axes, or None if the block has no such pooling."""
    if pool.unfit(equation):
        return None
    o = pool.options(equation)
    if set(o.padding) != {(0, 0)} or set(o.dilation) != {1}:
        return None
    if any(not isinstance(labels[axis], int) for axis in o.pooled):
        return None
    order = [labels[axis] for axis in o.pooled if o.window[axis] > 1]
    if order != sorted(order):  # type: ignore[type-var]
        return None  # the first of several largest is another one in the convolution's own order
    size, stride = [1] * axes, [1] * axes
    for axis in o.pooled:
        size[labels[axis]] = o.window[axis]  # type: ignore[index]
        stride[labels[axis]] = o.stride[axis]  # type: ignore[index]
    return {"window": tuple(size), "stride": tuple(stride)}


def _bias(
    equation: JaxprEqn,
    result: Var,
    labels: Sequence[Label],
    o: conv.Options,
    start: JaxprEqn,
    reader: Reader,
) -> tuple[Any, ...] | None:
    """Return what is added to each output channel, and the place of an equation that spread it."""
    bias = equation.invars[1 if equation.invars[0] is result else 0]
    features = avals(start)[1].shape[o.rhs_axes[0]]
    if aval(bias).dtype != aval(result).dtype:
        return None
    axes = range(len(aval(bias).shape))
    spread: tuple[int, ...] = ()
    if not isinstance(bias, Literal) and bias in reader.writers:
        writer = reader.equations[reader.writers[bias]]
        if writer.primitive is broadcast_in_dim_p and len(writer.invars) == 1:
            if reader.reads[bias] == 1:
                spread = (reader.writers[bias],)
            axes = writer.params["broadcast_dimensions"]
            (bias,) = writer.invars
    long = [axis for axis, n in zip(axes, aval(bias).shape, strict=True) if n != 1]
    if [labels[axis] for axis in long] != ["o"] * (features != 1) or len(labels) < len(axes):
        return None
    return (bias, *spread)
