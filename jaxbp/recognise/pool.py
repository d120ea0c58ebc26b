"""Recognise `reduce_window` and its gradient, over any axes, as the rules of pooling."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.extend.core.primitives import ge_p

from jaxbp import lowering
from jaxbp.arguments import Shape, is_float
from jaxbp.recognise.finding import Rule, avals, out_shape, sizes
from jaxbp.rules.pool import max_pool, max_pool_grad, sum_pool
from jaxbp.window import Pairs, Window

KINDS = {
    "reduce_window_max": "max_pool",
    "reduce_window_sum": "avg_pool",
    "select_and_scatter_add": "max_pool_grad",
}
WORDS = {
    "max_pool": "max-pool",
    "avg_pool": "sum over windows",
    "max_pool_grad": "max-pool gradient",
}


class Options(NamedTuple):
    """What `reduce_window` takes beside its operands, for every axis."""

    kind: str
    window: Shape
    stride: Shape
    padding: Pairs
    dilation: Shape

    @property
    def pooled(self) -> Shape:
        """The axes along which windows are taken."""
        along = zip(self.window, self.stride, self.padding, strict=True)
        return tuple(axis for axis, w in enumerate(along) if w != (1, 1, (0, 0)))

    @property
    def order(self) -> Shape:
        """The axes as [N, *S, C]: those before the first pooled one, those pooled, the others."""
        first = self.pooled[0]
        others = tuple(a for a in range(first, len(self.window)) if a not in self.pooled)
        return (*range(first), *self.pooled, *others)

    def over(self, *names: str) -> dict[str, Any]:
        """These options along the pooled axes only."""
        return {name: tuple(getattr(self, name)[a] for a in self.pooled) for name in names}


def options(equation: JaxprEqn) -> Options:
    """Return the equation's options."""
    p = equation.params
    return Options(
        KINDS[equation.primitive.name],
        tuple(p["window_dimensions"]),
        tuple(p["window_strides"]),
        tuple((low, high) for low, high in p["padding"]),
        tuple(p.get("window_dilation", (1,) * len(p["window_dimensions"]))),
    )


def describe(equation: JaxprEqn) -> str:
    """The pooling in words."""
    o = options(equation)
    strides = [o.stride[a] for a in o.pooled]
    return f"{sizes(o.window[a] for a in o.pooled)} {WORDS[o.kind]}, stride {sizes(strides)}"


def unfit(equation: JaxprEqn) -> str:
    """Return why no rule can stand for this pooling, or an empty string."""
    o = options(equation)
    x = avals(equation)[-1]
    if not is_float(x.dtype):
        return f"its operand is {x.dtype}, not real floating of 16 bits or more"
    if not 1 <= len(o.pooled) <= 3:
        return f"it pools {len(o.pooled)} axes, the rules pool one to three"
    if set(equation.params.get("base_dilation", (1,))) != {1}:
        return "its input is dilated"
    if equation.params.get("select_prim", ge_p) is not ge_p:
        return "a minimum has no rule"
    if o.kind == "avg_pool" and set(o.dilation) != {1}:
        return "it sums dilated windows"
    if 0 in (*x.shape, *out_shape(equation)):
        return "it is empty"
    if any(x.shape[a] + sum(o.padding[a]) < 0 for a in o.pooled):
        return "its padding crops more than there is"
    return ""


def rule(equation: JaxprEqn) -> Rule:
    """Return the rule that stands for this pooling, which must not be unfit for one."""
    o = options(equation)
    functions = {
        "max_pool": jaxbp_max_pool,
        "avg_pool": jaxbp_sum_pool,
        "max_pool_grad": jaxbp_max_pool_grad,
    }
    return Rule(o.kind, functions[o.kind], o)


@partial(jax.jit, static_argnames="options")
def jaxbp_max_pool(x: jax.Array, *, options: Options) -> jax.Array:
    """`reduce_window_max` as max pooling."""
    y = max_pool(
        _channels_last(x, options), **options.over("window", "stride", "padding", "dilation")
    )
    return _back(y, x.shape, options)


@partial(jax.jit, static_argnames="options")
def jaxbp_sum_pool(x: jax.Array, *, options: Options) -> jax.Array:
    """`reduce_window_sum` as average pooling that does not divide."""
    y = sum_pool(_channels_last(x, options), **options.over("window", "stride", "padding"))
    return _back(y, x.shape, options)


@partial(jax.jit, static_argnames="options")
def jaxbp_max_pool_grad(dy: jax.Array, x: jax.Array, *, options: Options) -> jax.Array:
    """`select_and_scatter_add` as the gradient of max pooling; the winners are found anew."""
    shape = x.shape
    x, dy = _channels_last(x, options), _channels_last(dy, options)
    over = options.over("window", "stride", "padding")
    size, stride, padding = over.values()
    _, winner = lowering.max_pool(x, Window(size, stride, padding, (1,) * len(size)))
    return _back(max_pool_grad(dy, winner, x.shape, **over), shape, options)


def _channels_last(x: jax.Array, o: Options) -> jax.Array:
    x = jnp.transpose(x, o.order)
    n, axes = o.pooled[0], len(o.pooled)
    outer, spatial, inner = x.shape[:n], x.shape[n : n + axes], x.shape[n + axes :]
    return x.reshape(math.prod(outer), *spatial, math.prod(inner))


def _back(y: jax.Array, shape: Shape, o: Options) -> jax.Array:
    """Undo `_channels_last`, for an operand of this shape whose pooled axes may have shrunk."""
    pooled = dict(zip(o.pooled, y.shape[1:-1], strict=True))
    y = y.reshape([pooled.get(axis, shape[axis]) for axis in o.order])
    return jnp.transpose(y, [o.order.index(axis) for axis in range(len(shape))])
