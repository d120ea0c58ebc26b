"""Layers as tuples of pure functions, and networks made of them."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.arguments import Shape, describe, reject, shape_tuple
from jaxbp.rules.activation import relu
from jaxbp.rules.block import conv_relu_max_pool
from jaxbp.rules.conv import conv
from jaxbp.rules.pool import max_pool

Params = Any


class _Functions(NamedTuple):
    init: Callable[[Any, Shape], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    forward: Callable[[Params, jax.Array], tuple[jax.Array, Any]]
    backward: Callable[[Any, jax.Array], tuple[Params, jax.Array]]


class Layer(_Functions):
    """A layer: four pure functions, and what it is called.

    - `init(key, input_shape) -> params`, the batch counted in the shape;
    - `apply(params, x) -> y`, through the rules, so that `jax.grad` uses them;
    - `forward(params, x) -> (y, residuals)` and `backward(residuals, dy) -> (dparams, dx)`, the
      rules' own pairs, without autodiff.

    Anybody's `Layer(init, apply, forward, backward)` takes its place in a network.
    """

    kind: str  # the layer's name in a network, before its number
    options: Mapping[str, Any]  # how its rule is called
    layers: Mapping[str, Layer]  # of a network: its layers by name
    rule: Callable[..., jax.Array] | None  # the function of `jaxbp` that it applies, if it is one

    def __new__(
        cls,
        init: Callable[[Any, Shape], Params],
        apply: Callable[[Params, jax.Array], jax.Array],
        forward: Callable[[Params, jax.Array], tuple[jax.Array, Any]],
        backward: Callable[[Any, jax.Array], tuple[Params, jax.Array]],
        kind: str = "layer",
        options: Mapping[str, Any] = types.MappingProxyType({}),
        layers: Mapping[str, Layer] = types.MappingProxyType({}),
        rule: Callable[..., jax.Array] | None = None,
    ) -> Layer:
        self = super().__new__(cls, init, apply, forward, backward)
        self.kind, self.options, self.layers, self.rule = kind, options, layers, rule
        return self

    def _replace(self, **functions: Any) -> Layer:
        """Return the layer with other functions, under its name, which a tuple's own would lose.

        Another `apply`, `forward` or `backward` need not do what the rule or the layers inside do,
        so the new layer has none.
        """
        same = functions.keys() <= {"init"}
        return Layer(
            **{**self._asdict(), **functions},
            kind=self.kind,
            options=self.options,
            layers=self.layers if same else types.MappingProxyType({}),
            rule=self.rule if same else None,
        )

    __replace__ = _replace  # what `copy.replace` calls


def sequential(*layers: Layer) -> Layer:
    """Return the network that applies the layers one after the other.

    ``x_{l+1} = f_l(x_l)``, and backward ``dx_l = ∂L/∂x_l`` is what the layer before receives.
    Where convolution, relu and max pooling follow each other, `apply` runs them as the one rule
    `conv_relu_max_pool`.

    Source: (3.4), (5.5)

    Args:
      layers: any number of `Layer`s, networks among them.

    Returns:
      A `Layer`. Its parameters are a dict by the layer's name (`conv1`, `conv2`, `dense1`, …: kind
      and number), with an entry for each layer that has parameters.

    Raises:
      TypeError: if an argument is no `Layer`.
      ValueError: from the network's functions, if the parameters are another network's.

    Example:
      >>> from jaxbp import layers
      >>> network = sequential(layers.conv(4, 3), layers.relu(), layers.flatten(), layers.dense(2))
      >>> params = network.init(jax.random.key(0), (1, 5, 5, 3))
      >>> jax.tree.map(jnp.shape, params)["dense1"]
      {'b': (2,), 'w': (100, 2)}
      >>> network.apply(params, jnp.ones((1, 5, 5, 3))).shape
      (1, 2)

    See also:
      `backprop`.
    """
    named: dict[str, Layer] = {}
    numbers: dict[str, int] = {}
    for position, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise reject("sequential", f"layers[{position}]", "a Layer", describe(layer), TypeError)
        numbers[layer.kind] = numbers.get(layer.kind, 0) + 1
        named[f"{layer.kind}{numbers[layer.kind]}"] = layer

    steps = _steps(named)

    def init(key: Any, input_shape: Shape) -> Params:
        params = {}
        input_shape = shape_tuple("sequential", "input_shape", input_shape, None, "(N, *S, C)")
        x = jax.ShapeDtypeStruct(input_shape, jnp.result_type(float))
        for name, layer in named.items():
            key, subkey = jax.random.split(key)
            own = layer.init(subkey, x.shape)
            if own:
                params[name] = own
            x = jax.eval_shape(layer.apply, own, x)
        return params

    def apply(params: Params, x: jax.Array) -> jax.Array:
        check_params(named, params)
        for name, step in steps:
            x = step(params.get(name, {}), x)
        return x

    def forward(params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        check_params(named, params)
        residuals = {}
        for name, layer in named.items():
            x, residuals[name] = layer.forward(params.get(name, {}), x)
        return x, residuals

    def backward(residuals: Any, dy: jax.Array) -> tuple[Params, jax.Array]:
        grads = {}
        for name, layer in reversed(named.items()):
            own, dy = layer.backward(residuals[name], dy)
            if own:
                grads[name] = own
        return {name: grads[name] for name in named if name in grads}, dy

    return Layer(init, apply, forward, backward, "network", layers=types.MappingProxyType(named))


def check_params(layers: Mapping[str, Layer], params: Params) -> None:
    """Raise unless these can be a network's parameters: a dict whose keys are layers of it."""
    if not isinstance(params, Mapping) or not params.keys() <= layers.keys():
        got = describe(params) if not isinstance(params, Mapping) else list(params)
        raise reject("sequential", "params", f"a dict by layer, of {sorted(layers)}", got)


def take(layer: str, params: Any, *names: str) -> tuple[jax.Array, ...]:
    """Return a layer's parameters by name, or say which it needs."""
    if not isinstance(params, Mapping) or params.keys() != set(names):
        got = list(params) if isinstance(params, Mapping) else describe(params)
        raise reject(layer, "params", f"a dict of {sorted(names)}", got)
    return tuple(params[name] for name in names)


def _steps(named: Mapping[str, Layer]) -> list[tuple[str, Callable[..., jax.Array]]]:
    """Return what `apply` runs: functions of parameters and input, and whose parameters."""
    steps: list[tuple[str, Callable[..., jax.Array]]] = []
    rest = list(named.items())
    while rest:
        name, layer = rest[0]
        chain = [layer for _, layer in rest[:3]]
        if _is_block(chain):
            steps.append((name, partial(_apply_block, chain[0].options, chain[2].options)))
            del rest[:3]
        else:
            steps.append((name, layer.apply))
            del rest[:1]
    return steps


def _is_block(chain: list[Layer]) -> bool:
    if [layer.rule for layer in chain] != [conv, relu, max_pool]:
        return False
    pool = chain[2].options
    return (pool["padding"], pool["dilation"], pool["ties"]) == ("VALID", 1, "first")


def _apply_block(
    convolution: Mapping[str, Any], pool: Mapping[str, Any], params: Params, x: jax.Array
) -> jax.Array:
    options = dict(convolution)
    names = ("w", "b") if options.pop("bias") else ("w",)
    arrays = take("layers.conv", params, *names)
    return conv_relu_max_pool(
        x, *arrays, **options, window=pool["window"], pool_stride=pool["stride"]
    )
