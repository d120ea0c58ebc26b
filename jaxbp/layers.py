"""The layers that a network is made of: each rule as four pure functions.

A layer's `forward` checks its arguments as the rule does, and hands on, as its residuals, the
rule's own `bwd` with all that it needs, so `backward` only has to call it. The layers of
`layers.conv(8, 3)` to `layers.flatten()` are named after the function in `jaxbp` that they apply,
and take its options, which it describes.

Each function here returns a `Layer`, whose parameters, if it has any, are a dict by the names that
its docstring gives them. A bad option is a TypeError or a ValueError: of the function here where it
can tell, of the layer's own functions where only the input's shape tells.

Example:
  >>> from jaxbp import layers
  >>> layer = layers.conv(4, 3)
  >>> params = layer.init(jax.random.key(0), (2, 8, 8, 3))
  >>> y, residuals = layer.forward(params, jax.numpy.ones((2, 8, 8, 3)))
  >>> dparams, dx = layer.backward(residuals, y)
  >>> y.shape, dx.shape, dparams["w"].shape
  ((2, 8, 8, 4), (2, 8, 8, 3), (3, 3, 3, 4))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.nn.initializers import Initializer, he_normal, normal, ones, zeros
from jax.tree_util import Partial

from jaxbp.arguments import (
    Shape,
    describe,
    flag,
    floats,
    ints,
    positive,
    reject,
    shape,
    shape_tuple,
)
from jaxbp.network import Layer, Params, take
from jaxbp.rules import activation as _activation
from jaxbp.rules import conv as _conv
from jaxbp.rules import dense as _dense
from jaxbp.rules import pool as _pool
from jaxbp.rules import subsample as _subsample

# Variance 2 / fan-in: the scale that keeps relu networks' activations as large as their input.
_HE_NORMAL = he_normal()
_NORMAL = normal()
_HE_NORMAL_TRANSPOSED = he_normal(in_axis=-1, out_axis=-2)


def conv(
    features: int,
    kernel: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = _HE_NORMAL,
) -> Layer:
    """Return a convolution layer: `jaxbp.conv` with `w[*K, C // groups, O]` and `b[O]`.

    Source: (3.1), (3.5); backward (3.2), (3.3), (3.6) to (3.8)

    Args:
      features: O, how many features come out.
      kernel: the kernel's size K, an int or one a spatial axis.
      stride, padding, dilation, groups: as given to `jaxbp.conv`.
      bias: whether there is `b`; it starts at zero.
      kernel_init: what `w` starts from: He's normal distribution.
    """
    features = positive("layers.conv", "features", features)
    groups = positive("layers.conv", "groups", groups)
    bias = flag("layers.conv", "bias", bias)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def init(key: Any, input_shape: Shape) -> Params:
        channels = _channels("layers.conv", input_shape)
        size = ints("layers.conv", "kernel", kernel, len(input_shape) - 2)
        shape = (*size, channels // groups, features)
        _conv.check_kernel("layers.conv", "kernel", shape, groups, channels)
        w = kernel_init(key, shape)
        return {"w": w, "b": zeros(key, (features,))} if bias else {"w": w}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return _conv.conv(x, *_weights("layers.conv", params, bias), **options)

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        weights = _weights("layers.conv", params, bias)
        arguments = _conv.conv_arguments("conv", x, *weights, **options)
        y, residuals = _conv.conv_fwd(*arguments)
        return y, _pullback("layers.conv", y, _conv.conv_bwd, residuals, *arguments[3:])

    return Layer(
        init,
        apply,
        forward,
        _weighted_backward,
        "conv",
        {"bias": bias, **options},
        rule=_conv.conv,
    )


def conv_transpose(
    features: int,
    kernel: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = _HE_NORMAL_TRANSPOSED,
) -> Layer:
    """Return a transposed convolution: `jaxbp.conv_transpose`, `w[*K, O // groups, C]`, `b[O]`.

    Source: (3.7); backward (3.5), (3.6), (3.8)

    Args:
      features: O, how many features come out.
      kernel: the kernel's size K, an int or one a spatial axis.
      stride, padding, dilation, groups: as given to `jaxbp.conv_transpose`.
      bias: whether there is `b`; it starts at zero.
      kernel_init: what `w` starts from: He's normal distribution.
    """
    name = "layers.conv_transpose"
    features = positive(name, "features", features)
    groups = positive(name, "groups", groups)
    bias = flag(name, "bias", bias)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def init(key: Any, input_shape: Shape) -> Params:
        channels = _channels(name, input_shape)
        size = ints(name, "kernel", kernel, len(input_shape) - 2)
        shape = (*size, features // groups, channels)
        _conv.check_kernel(name, "kernel", shape, groups, features)
        w = kernel_init(key, shape)
        return {"w": w, "b": zeros(key, (features,))} if bias else {"w": w}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return _conv.conv_transpose(x, *_weights(name, params, bias), **options)

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        weights = _weights(name, params, bias)
        arguments = _conv.conv_transpose_arguments(x, *weights, **options)
        y, residuals = _conv.conv_transpose_fwd(*arguments)
        return y, _pullback(name, y, _conv.conv_transpose_bwd, residuals, *arguments[3:])

    return Layer(init, apply, forward, _weighted_backward, "conv_transpose", options)


def dense(features: int, *, bias: bool = True, weight_init: Initializer = _HE_NORMAL) -> Layer:
    """Return a fully connected layer: `jaxbp.dense` with `w[I, O]` and `b[O]`.

    Source: (2.1); backward (2.3), (2.6), (2.9) to (2.12)

    Args:
      features: O, how many features come out.
      bias: whether there is `b`; it starts at zero.
      weight_init: what `w` starts from: He's normal distribution.
    """
    features = positive("layers.dense", "features", features)
    bias = flag("layers.dense", "bias", bias)

    def init(key: Any, input_shape: Shape) -> Params:
        *_, inputs = shape_tuple("layers.dense", "input_shape", input_shape, None, "(..., I)")
        w = weight_init(key, (inputs, features))
        return {"w": w, "b": zeros(key, (features,))} if bias else {"w": w}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return _dense.dense(x, *_weights("layers.dense", params, bias))

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        arguments = _dense.dense_arguments(x, *_weights("layers.dense", params, bias))
        y, residuals = _dense.dense_fwd(*arguments)
        return y, _pullback("layers.dense", y, _dense.dense_bwd, residuals)

    return Layer(init, apply, forward, _weighted_backward, "dense")


def max_pool(
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ties: str = "first",
) -> Layer:
    """Return a layer of `jaxbp.max_pool`.

    Source: (4.3); backward (4.4)

    Args:
      window, stride, padding, dilation, ties: as given to `jaxbp.max_pool`.
    """
    options = {
        "window": window,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ties": ties,
    }

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        arguments = _pool.max_pool_arguments(x, **options)
        y, residuals = _pool.max_pool_fwd(*arguments)
        return y, _pullback("layers.max_pool", y, _pool.max_pool_bwd, residuals, *arguments[1:])

    apply = partial(_pool.max_pool, **options)
    return _fixed("max_pool", apply, forward, options, rule=_pool.max_pool)


def avg_pool(
    window: Any, *, stride: Any = None, padding: Any = "VALID", count_include_pad: bool = True
) -> Layer:
    """Return a layer of `jaxbp.avg_pool`.

    Source: (4.1); backward (4.2)

    Args:
      window, stride, padding, count_include_pad: as given to `jaxbp.avg_pool`.
    """
    options = {
        "window": window,
        "stride": stride,
        "padding": padding,
        "count_include_pad": count_include_pad,
    }

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        arguments = _pool.avg_pool_arguments(x, **options)
        y, residuals = _pool.avg_pool_fwd(*arguments)
        return y, _pullback("layers.avg_pool", y, _pool.avg_pool_bwd, residuals, *arguments[1:])

    return _fixed("avg_pool", partial(_pool.avg_pool, **options), forward, options)


def global_max_pool() -> Layer:
    """Return a layer of `jaxbp.global_max_pool`, `[N, *S, C] -> [N, C]`.

    Source: (4.3); backward (4.4)
    """

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        x = _pool.with_places("global_max_pool", x)
        return _without_places(max_pool(x.shape[1:-1]), x)

    return _fixed("global_max_pool", _pool.global_max_pool, forward)


def global_avg_pool() -> Layer:
    """Return a layer of `jaxbp.global_avg_pool`, `[N, *S, C] -> [N, C]`.

    Source: (4.1); backward (4.2)
    """

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        x = _pool.with_places("global_avg_pool", x)
        return _without_places(avg_pool(x.shape[1:-1]), x)

    return _fixed("global_avg_pool", _pool.global_avg_pool, forward)


def _without_places(layer: Layer, x: jax.Array) -> tuple[jax.Array, Any]:
    pooled, pool_bwd = layer.forward({}, x)
    y = pooled.reshape(x.shape[0], x.shape[-1])
    return y, _pullback(f"layers.global_{layer.kind}", y, _after_reshape, pool_bwd, pooled.shape)


def _after_reshape(shape: Shape, bwd: Any, dy: jax.Array) -> tuple[jax.Array]:
    return bwd(dy.reshape(shape))


def subsample(window: Any) -> Layer:
    """Return a trainable subsampling: `jaxbp.subsample` with `beta[C]`, from one, and `b[C]`.

    The activation of (5.1) is the next layer.

    Source: (5.1); backward (5.2)

    Args:
      window: as given to `jaxbp.subsample`.
    """

    def init(key: Any, input_shape: Shape) -> Params:
        channels = _channels("layers.subsample", input_shape)
        return {"beta": ones(key, (channels,)), "b": zeros(key, (channels,))}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        beta, b = take("layers.subsample", params, "beta", "b")
        return _subsample.subsample(x, beta, b, window)

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        beta, b = take("layers.subsample", params, "beta", "b")
        arguments = _subsample.subsample_arguments(x, beta, b, window)
        y, residuals = _subsample.subsample_fwd(*arguments)
        return y, _pullback(
            "layers.subsample", y, _subsample.subsample_bwd, residuals, *arguments[3:]
        )

    def backward(bwd: Any, dy: jax.Array) -> tuple[Params, jax.Array]:
        dx, dbeta, db = bwd(dy)
        return {"beta": dbeta, "b": db}, dx

    return Layer(init, apply, forward, backward, "subsample", {"window": window})


def combine_maps(features: int, *, kernel_init: Initializer = _NORMAL) -> Layer:
    """Return a learned combination of maps: `jaxbp.combine_maps` with `c[C, O]`.

    Source: (5.3); backward (5.4)

    Args:
      features: O, how many maps come out.
      kernel_init: what `c` starts from: near zero, so every map in nearly equal parts.
    """
    features = positive("layers.combine_maps", "features", features)

    def init(key: Any, input_shape: Shape) -> Params:
        channels = _channels("layers.combine_maps", input_shape)
        return {"c": kernel_init(key, (channels, features))}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return _subsample.combine_maps(x, *take("layers.combine_maps", params, "c"))

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        (c,) = take("layers.combine_maps", params, "c")
        arguments = _subsample.combine_maps_arguments(x, c)
        y, residuals = _subsample.combine_maps_fwd(*arguments)
        return y, _pullback("layers.combine_maps", y, _subsample.combine_maps_bwd, residuals)

    def backward(bwd: Any, dy: jax.Array) -> tuple[Params, jax.Array]:
        dx, dc = bwd(dy)
        return {"c": dc}, dx

    return Layer(init, apply, forward, backward, "combine_maps")


def sigmoid() -> Layer:
    """Return a layer of `jaxbp.sigmoid`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise(
        "sigmoid", _activation.sigmoid, _activation.sigmoid_fwd, _activation.sigmoid_bwd
    )


def tanh() -> Layer:
    """Return a layer of `jaxbp.tanh`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise("tanh", _activation.tanh, _activation.tanh_fwd, _activation.tanh_bwd)


def relu() -> Layer:
    """Return a layer of `jaxbp.relu`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise("relu", _activation.relu, _activation.relu_fwd, _activation.relu_bwd)


def elu() -> Layer:
    """Return a layer of `jaxbp.elu`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise("elu", _activation.elu, _activation.elu_fwd, _activation.elu_bwd)


def silu() -> Layer:
    """Return a layer of `jaxbp.silu`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise("silu", _activation.silu, _activation.silu_fwd, _activation.silu_bwd)


def softplus() -> Layer:
    """Return a layer of `jaxbp.softplus`.

    Source: (2.1); backward (2.5)
    """
    return _elementwise(
        "softplus", _activation.softplus, _activation.softplus_fwd, _activation.softplus_bwd
    )


def leaky_relu(slope: float = 0.01) -> Layer:
    """Return a layer of `jaxbp.leaky_relu`.

    Source: (2.1); backward (2.5)

    Args:
      slope: as given to `jaxbp.leaky_relu`.
    """
    return _elementwise(
        "leaky_relu",
        _activation.leaky_relu,
        _activation.leaky_relu_fwd,
        _activation.leaky_relu_bwd,
        slope,
        arguments=_activation.leaky_relu_arguments,
    )


def gelu(approximate: bool = True) -> Layer:
    """Return a layer of `jaxbp.gelu`.

    Source: (2.1); backward (2.5)

    Args:
      approximate: as given to `jaxbp.gelu`.
    """
    return _elementwise(
        "gelu",
        _activation.gelu,
        _activation.gelu_fwd,
        _activation.gelu_bwd,
        approximate,
        arguments=_activation.gelu_arguments,
    )


def softmax(axis: int = -1) -> Layer:
    """Return a layer of `jaxbp.softmax`.

    Source: (5.3); backward (5.4)

    Args:
      axis: as given to `jaxbp.softmax`.
    """
    return _elementwise(
        "softmax",
        _activation.softmax,
        _activation.softmax_fwd,
        _activation.softmax_bwd,
        axis,
        arguments=partial(_activation.softmax_arguments, "softmax"),
    )


def log_softmax(axis: int = -1) -> Layer:
    """Return a layer of `jaxbp.log_softmax`.

    Source: the logarithm of (5.3)

    Args:
      axis: as given to `jaxbp.log_softmax`.
    """
    return _elementwise(
        "log_softmax",
        _activation.log_softmax,
        _activation.log_softmax_fwd,
        _activation.log_softmax_bwd,
        axis,
        arguments=partial(_activation.softmax_arguments, "log_softmax"),
    )


def flatten() -> Layer:
    """Return a layer that makes one row of each example, `[N, …] -> [N, I]`."""

    def apply(x: jax.Array) -> jax.Array:
        if not isinstance(x, jax.Array | np.ndarray):
            raise reject("layers.flatten", "x", "an array", describe(x), TypeError)
        if x.ndim == 0:
            raise reject("layers.flatten", "x", "[N, …], at least of rank 1", describe(x))
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        return apply(x), Partial(partial(_unflatten, x.shape))

    return _fixed("flatten", apply, forward)


def _unflatten(shape: Shape, dy: jax.Array) -> tuple[jax.Array]:
    return (dy.reshape(shape),)


def _channels(layer: str, input_shape: Any) -> int:
    """Return C of an input `(N, *S, C)` with one to three spatial axes."""
    return shape_tuple(layer, "input_shape", input_shape, (3, 4, 5), "(N, *S, C)")[-1]


def _weights(layer: str, params: Any, bias: bool) -> tuple[jax.Array, jax.Array | None]:
    w, *b = take(layer, params, *(("w", "b") if bias else ("w",)))
    return w, b[0] if b else None


def _pullback(
    layer: str, y: jax.Array, bwd: Callable[..., Any], residuals: Any, *static: Any
) -> Any:
    """Return a layer's residuals: the rule's own `bwd`, with all that it needs but `dy`."""
    return Partial(partial(_pull_back, layer, y.shape, y.dtype, bwd, static), residuals)


def _pull_back(
    layer: str,
    y_shape: Shape,
    dtype: Any,
    bwd: Callable[..., Any],
    static: tuple[Any, ...],
    residuals: Any,
    dy: Any,
) -> Any:
    # What JAX checks where it calls a rule's `bwd` itself.
    (dy,) = floats(layer, dy=dy)
    shape(layer, "dy", dy, y_shape, "the output's")
    if dy.dtype != dtype:
        raise reject(layer, "dy", f"{dtype} as the output is", describe(dy), TypeError)
    return bwd(*static, residuals, dy)


def _weighted_backward(bwd: Any, dy: jax.Array) -> tuple[Params, jax.Array]:
    dx, dw, db = bwd(dy)
    return {"w": dw} if db is None else {"w": dw, "b": db}, dx


def _elementwise(
    kind: str,
    function: Callable[..., jax.Array],
    fwd: Callable[..., tuple[jax.Array, Any]],
    bwd: Callable[..., tuple[jax.Array]],
    *options: Any,
    arguments: Callable[..., tuple[Any, ...]] | None = None,
) -> Layer:
    """Return a layer of one array and of options that a rule does not differentiate.

    `arguments` checks both; without options that is one check for all.
    """

    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        x, *static = floats(kind, x=x) if arguments is None else arguments(x, *options)
        y, residuals = fwd(x, *static)
        return y, _pullback(f"layers.{kind}", y, bwd, residuals, *static)

    return _fixed(kind, lambda x: function(x, *options), forward, rule=function)


def _fixed(
    kind: str,
    function: Callable[[jax.Array], jax.Array],
    forward: Callable[[jax.Array], tuple[jax.Array, Any]],
    options: Mapping[str, Any] = MappingProxyType({}),
    rule: Callable[..., jax.Array] | None = None,
) -> Layer:
    """Return a layer without parameters."""

    def backward(bwd: Any, dy: jax.Array) -> tuple[Params, jax.Array]:
        (dx,) = bwd(dy)
        return {}, dx

    return Layer(
        lambda key, input_shape: {},
        lambda params, x: function(x),
        lambda params, x: forward(x),
        backward,
        kind,
        options,
        rule=rule,
    )
