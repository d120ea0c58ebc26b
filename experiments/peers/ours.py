"""The benchmark's networks through jaxbp's rules, and their loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxbp
from peers.cases import BATCHES, CLASSES

Params = dict[str, Any]


def loss(name: str) -> tuple[Params, Callable[[Params, jax.Array, jax.Array], jax.Array]]:
    """Return a network's parameters and its mean loss of (params, x, labels)."""
    draw = _Draw()
    _, side, _, channels = BATCHES[name]
    build = _resnet18 if name == "resnet18" else _plain
    params = build(draw, name, side, channels)
    apply = _apply_resnet18 if name == "resnet18" else _apply(name)

    def mean_loss(params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(jaxbp.softmax_cross_entropy(apply(params, x), labels))

    return params, mean_loss


class _Draw:
    def __init__(self) -> None:
        self.key = jax.random.key(0)

    def __call__(self, *shape: int) -> Params:
        self.key, key = jax.random.split(self.key)
        scale = math.sqrt(2 / math.prod(shape[:-1]))
        return {"w": scale * jax.random.normal(key, shape), "b": jnp.zeros(shape[-1])}


# What a network is, from its input on: convolutions by (kernel, features, padding, pooled after).
_CONVS = {
    "lenet": [(5, 6, "SAME", True), (5, 16, "VALID", True)],
    "cnn": [(3, 32, "SAME", True), (3, 64, "SAME", True)],
    "vgg": [(3, o, "SAME", pooled) for o in (64, 128, 256) for pooled in (False, True)],
}
_DENSE = {"lenet": (120, 84), "cnn": (256,), "vgg": (256,)}


def _plain(draw: _Draw, name: str, side: int, channels: int) -> Params:
    params: Params = {}
    for i, (k, features, padding, pooled) in enumerate(_CONVS[name]):
        params[f"conv{i}"] = draw(k, k, channels, features)
        side = side if padding == "SAME" else side - k + 1
        side, channels = side // 2 if pooled else side, features
    width = side * side * channels
    for i, units in enumerate((*_DENSE[name], CLASSES)):
        params[f"dense{i}"] = draw(width, units)
        width = units
    return params


def _apply(name: str) -> Callable[[Params, jax.Array], jax.Array]:
    def apply(params: Params, x: jax.Array) -> jax.Array:
        for i, (_, _, padding, pooled) in enumerate(_CONVS[name]):
            p = params[f"conv{i}"]
            if pooled:
                x = jaxbp.conv_relu_max_pool(x, p["w"], p["b"], padding=padding)
            else:
                x = jaxbp.relu(jaxbp.conv(x, p["w"], p["b"], padding=padding))
        x = x.reshape(x.shape[0], -1)
        for i in range(len(_DENSE[name])):
            x = jaxbp.relu(jaxbp.dense(x, **params[f"dense{i}"]))
        return jaxbp.dense(x, **params[f"dense{len(_DENSE[name])}"])

    return apply


def _resnet18(draw: _Draw, name: str, side: int, channels: int) -> Params:
    params: Params = {"stem": _normed(draw, 7, channels, 64)}
    channels = 64
    for stage, features in enumerate((64, 128, 256, 512)):
        for block in range(2):
            own = {
                "one": _normed(draw, 3, channels, features),
                "two": _normed(draw, 3, features, features),
            }
            if channels != features:
                own["short"] = _normed(draw, 1, channels, features)
            params[f"block{stage}{block}"] = own
            channels = features
    return params | {"head": draw(channels, CLASSES)}


def _normed(draw: _Draw, k: int, channels: int, features: int) -> Params:
    w = draw(k, k, channels, features)["w"]
    return {"w": w, "scale": jnp.ones(features), "shift": jnp.zeros(features)}


def _apply_resnet18(params: Params, x: jax.Array) -> jax.Array:
    x = jaxbp.relu(_conv_norm(params["stem"], x, 2))
    x = jaxbp.max_pool(x, 3, stride=2, padding="SAME")
    for stage in range(4):
        for block in range(2):
            p, stride = params[f"block{stage}{block}"], 2 if stage and not block else 1
            y = jaxbp.relu(_conv_norm(p["one"], x, stride))
            y = _conv_norm(p["two"], y, 1)
            x = jaxbp.relu(y + (_conv_norm(p["short"], x, stride) if "short" in p else x))
    return jaxbp.dense(jaxbp.global_avg_pool(x), **params["head"])


def _conv_norm(p: Params, x: jax.Array, stride: int) -> jax.Array:
    # Batch normalisation as Flax computes it in training, by autodiff.
    z = jaxbp.conv(x, p["w"], stride=stride)
    axes = (0, 1, 2)
    mean = jnp.mean(z, axes)
    variance = jnp.maximum(0, jnp.mean(jnp.square(z), axes) - jnp.square(mean))
    return (z - mean) * (jax.lax.rsqrt(variance + 1e-5) * p["scale"]) + p["shift"]
