"""The backward sweep of the document, written out: sensitivities in, gradients out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.arguments import describe, is_float, reject
from jaxbp.network import Layer, Params, check_params


class Sweep(NamedTuple):
    """What one sweep through a network gives.

    A layer within a network within the network is named by its path, `network1/conv1`.
    """

    loss: jax.Array  # [], the sum over examples where the loss has one value an example
    grads: Params  # ∂loss/∂params, a tree like the parameters
    sensitivities: dict[str, jax.Array]  # δ = ∂loss/∂output by layer, shaped like `outputs`
    outputs: dict[str, jax.Array]  # each layer's output by layer


def backprop(
    network: Layer,
    loss: Callable[[jax.Array, Any], jax.Array],
    params: Params,
    x: jax.Array,
    t: Any,
) -> Sweep:
    """Send a batch forward through a network and its sensitivities back, layer by layer.

    Forward, every layer keeps what it needs. Backward, from ``δ_L = ∂E/∂y_L``, each layer turns the
    sensitivity of its output into its parameters' gradient and the sensitivity of its input, which
    is that of the output of the layer before:

    ``∂E/∂params_l, δ_{l−1} = backward_l(δ_l)``

    Where a layer's output is a pre-activation (dense, convolution), its sensitivity is the
    document's δ. Autodiff has no part in it: each step is a rule's own backward pass, and the loss
    gives the first δ through its own rule.

    Source: (2.4), (2.8) to (2.12), (3.4), (3.9); one step of descent is then (2.7)

    Args:
      network: a network of `sequential`, or one layer.
      loss: `loss(y, t)`, a scalar or one value an example, which are then summed (2.2). A mean in
        it puts 1/N into the first δ, and nowhere else.
      params: the network's parameters.
      x: `[N, …]` the input.
      t: what the loss compares the output with.

    Returns:
      A `Sweep` of loss, gradients, sensitivities and outputs; a sensitivity is in units of loss per
      unit of its layer's output.

    Raises:
      TypeError: if `network` is no `Layer`, or `loss` no function to real floating values; from the
        layers, if an array is no real floating one, or their dtypes differ.
      ValueError: if the loss is neither a scalar nor one value an example; from the layers, as from
        `network.apply`, if parameters or input do not fit.

    Example:
      >>> from jaxbp import layers, sequential, half_squared_error
      >>> network = sequential(layers.dense(2), layers.sigmoid())
      >>> params = {"dense1": {"w": jnp.array([[1.0, -1.0]]), "b": jnp.zeros(2)}}
      >>> t = jnp.array([[1.0, 0.0]])
      >>> sweep = jax.jit(backprop, static_argnums=(0, 1))(
      ...     network, half_squared_error, params, jnp.array([[0.0]]), t)
      >>> sweep.sensitivities["dense1"]  # −(t − y) y (1 − y)
      Array([[-0.125,  0.125]], dtype=float32)

    See also:
      `sequential`; `jax.grad` of the network's `apply` gives the same gradients.
    """
    if not isinstance(network, Layer):
        raise reject("backprop", "network", "a Layer", describe(network), TypeError)
    if not callable(loss):
        raise reject("backprop", "loss", "a function (y, t) -> loss", describe(loss), TypeError)

    outputs: dict[str, jax.Array] = {}
    sensitivities: dict[str, jax.Array] = {}

    def forward(layer: Layer, path: str, params: Params, x: jax.Array) -> tuple[jax.Array, Any]:
        if not layer.layers:
            y, residuals = layer.forward(params, x)
            outputs[path] = y
            return y, residuals
        check_params(layer.layers, params)
        residuals = {}
        for name, inner in layer.layers.items():
            x, residuals[name] = forward(inner, _join(path, name), params.get(name, {}), x)
        return x, residuals

    def backward(
        layer: Layer, path: str, residuals: Any, dy: jax.Array
    ) -> tuple[Params, jax.Array]:
        if not layer.layers:
            sensitivities[path] = dy
            return layer.backward(residuals, dy)
        grads = {}
        for name, inner in reversed(list(layer.layers.items())):
            own, dy = backward(inner, _join(path, name), residuals[name], dy)
            if own:
                grads[name] = own
        return grads, dy

    path = "" if network.layers else network.kind
    y, residuals = forward(network, path, params, x)
    total, dy = _first_sensitivity(loss, y, t)
    grads, _ = backward(network, path, residuals, dy)
    return Sweep(total, grads, dict(reversed(sensitivities.items())), outputs)


def _first_sensitivity(
    loss: Callable[[jax.Array, Any], jax.Array], y: jax.Array, t: Any
) -> tuple[jax.Array, jax.Array]:
    def checked(y: jax.Array) -> jax.Array:
        value = loss(y, t)
        expected = "a function that gives a real floating scalar or one value an example"
        if not isinstance(value, jax.Array) or not is_float(value.dtype):
            raise reject("backprop", "loss", expected, describe(value), TypeError)
        if value.shape not in ((), y.shape[:1]):
            raise reject("backprop", "loss", expected, describe(value))
        return value

    value, loss_bwd = jax.vjp(checked, y)
    (dy,) = loss_bwd(jnp.ones_like(value))
    return jnp.sum(value), dy


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
