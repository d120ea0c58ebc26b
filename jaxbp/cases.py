"""What `jaxbp verify` checks when nothing is named: every rule of ours, and arguments for it.

Plain data, above the rules and the checker, which do not know each other. Where JAX has the
function itself, JAX's is the reference; elsewhere the plain forward inside the rule is.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.rules.activation import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxbp.rules.block import conv_relu_max_pool
from jaxbp.rules.conv import conv, conv_transpose
from jaxbp.rules.dense import dense
from jaxbp.rules.loss import half_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from jaxbp.rules.pool import avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool
from jaxbp.rules.subsample import combine_maps, subsample
from jaxbp.verify.case import Case

_LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def _lax_conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    axes = x.ndim - 2

    def each(option: Any) -> Any:
        return (option,) * axes if isinstance(option, int) else option

    y = lax.conv_general_dilated(
        x, w, each(stride), padding, rhs_dilation=each(dilation), feature_group_count=groups,
        dimension_numbers=_LAYOUTS[axes],
    )  # fmt: skip
    return y if b is None else y + b


def _lax_conv_transpose(x: Any, w: Any, *, stride: Any, padding: Any) -> jax.Array:
    return lax.conv_transpose(x, w, (stride,) * (x.ndim - 2), padding, transpose_kernel=True)


def _lax_max_pool(x: Any, window: Any, *, stride: Any = None, padding: Any = "VALID") -> jax.Array:
    size = (1, *window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, size, (1, *(stride or window), 1), padding)


def _plain_softmax_loss(logits: Any, shares: Any) -> jax.Array:
    return -jnp.sum(shares * jax.nn.log_softmax(logits), axis=-1)


CASES = [
    Case("dense", dense, ("f32[2,4,3]", "f32[3,5]", "f32[5]"), reference=lambda x, w, b: x @ w + b),
    Case("sigmoid", sigmoid, ("f32[3,4]",), reference=jax.nn.sigmoid),
    Case("tanh", tanh, ("f32[3,4]",), reference=jnp.tanh),
    Case("relu", relu, ("f32[3,4]",), reference=jax.nn.relu),
    Case("leaky_relu", leaky_relu, ("f32[3,4]",), reference=jax.nn.leaky_relu),
    Case("elu", elu, ("f32[3,4]",), reference=jax.nn.elu),
    Case("gelu", gelu, ("f32[3,4]",), reference=jax.nn.gelu),
    Case("gelu, exact", gelu, ("f32[3,4]",), {"approximate": False}, jax.nn.gelu),
    Case("silu", silu, ("f32[3,4]",), reference=jax.nn.silu),
    Case("softplus", softplus, ("f32[3,4]",), reference=jax.nn.softplus),
    Case("softmax", softmax, ("f32[3,4]",), reference=jax.nn.softmax),
    Case("log_softmax, axis 0", log_softmax, ("f32[3,4]",), {"axis": 0}, jax.nn.log_softmax),
    Case(
        "half_squared_error",
        half_squared_error,
        ("f32[3,4]", "f32[3,4]"),
        reference=lambda y, t: jnp.sum(0.5 * (t - y) ** 2, axis=-1),
    ),
    Case(
        "softmax_cross_entropy, labels",
        softmax_cross_entropy,
        ("f32[3,4]", "i32[3]<4"),
        reference=lambda z, t: _plain_softmax_loss(z, jax.nn.one_hot(t, 4, dtype=z.dtype)),
    ),
    Case(
        "softmax_cross_entropy, shares",
        softmax_cross_entropy,
        ("f32[3,4]", "f32[3,4]>0<1"),
        reference=_plain_softmax_loss,
    ),
    Case(
        "sigmoid_cross_entropy",
        sigmoid_cross_entropy,
        ("f32[3,4]", "f32[3,4]>0<1"),
        reference=lambda z, t: -t * jax.nn.log_sigmoid(z) - (1 - t) * jax.nn.log_sigmoid(-z),
    ),
    Case("conv, 1-D", conv, ("f32[2,7,3]", "f32[3,3,2]", "f32[2]"), reference=_lax_conv),
    Case("conv, 2-D", conv, ("f32[2,5,4,3]", "f32[3,2,3,2]", "f32[2]"), reference=_lax_conv),
    Case("conv, 3-D", conv, ("f32[1,3,3,3,2]", "f32[2,2,2,2,2]"), reference=_lax_conv),
    Case(
        "conv, stride 2",
        conv,
        ("f32[2,6,5,2]", "f32[3,3,2,3]"),
        {"stride": 2},
        reference=_lax_conv,
    ),
    Case(
        "conv, dilated, cropped",
        conv,
        ("f32[1,7,7,2]", "f32[2,3,2,2]"),
        {"dilation": (2, 1), "padding": ((-1, 2), (1, 0))},
        reference=_lax_conv,
    ),
    Case(
        "conv, depthwise",
        conv,
        ("f32[2,5,5,4]", "f32[3,3,1,4]"),
        {"groups": 4, "padding": "VALID"},
        reference=_lax_conv,
    ),
    Case(
        "conv_transpose",
        conv_transpose,
        ("f32[1,3,4,3]", "f32[3,3,2,3]"),
        {"stride": 2, "padding": "SAME"},
        reference=_lax_conv_transpose,
    ),
    Case("avg_pool", avg_pool, ("f32[2,4,6,2]",), {"window": 2}),
    Case("sum_pool", sum_pool, ("f32[2,5,2]",), {"window": 3, "stride": 2}),
    Case(
        "avg_pool, overlapping",
        avg_pool,
        ("f32[1,6,5,2]",),
        {"window": 3, "stride": 2, "padding": "SAME", "count_include_pad": False},
    ),
    Case(
        "max_pool",
        max_pool,
        ("f32[2,4,6,2]",),
        {"window": (2, 2)},
        reference=_lax_max_pool,
    ),
    Case(
        "max_pool, overlapping",
        max_pool,
        ("f32[1,6,5,2]",),
        {"window": (3, 3), "stride": (2, 2), "padding": "SAME"},
        reference=_lax_max_pool,
    ),
    Case("max_pool, dilated", max_pool, ("f32[1,6,6,2]",), {"window": 2, "dilation": 2}),
    Case("max_pool, ties split", max_pool, ("f32[2,4,4,2]",), {"window": 2, "ties": "split"}),
    Case(
        "global_avg_pool",
        global_avg_pool,
        ("f32[2,3,4,3]",),
        reference=lambda x: jnp.mean(x, axis=(1, 2)),
    ),
    Case(
        "global_max_pool",
        global_max_pool,
        ("f32[2,3,4,3]",),
        reference=lambda x: jnp.max(x, axis=(1, 2)),
    ),
    Case(
        "conv_relu_max_pool",
        conv_relu_max_pool,
        ("f32[2,6,6,2]", "f32[3,3,2,3]", "f32[3]"),
        reference=lambda x, w, b: _lax_max_pool(jax.nn.relu(_lax_conv(x, w, b)), (2, 2)),
    ),
    Case("subsample", subsample, ("f32[2,4,4,3]", "f32[3]", "f32[3]"), {"window": 2}),
    Case("combine_maps", combine_maps, ("f32[2,3,3,4]", "f32[4,2]")),
]
