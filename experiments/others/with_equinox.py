"""Equinox: the network of its MNIST example, and a 1-D network for sound, each under vmap."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from others.case import Case, images, labels, mean_cross_entropy


class MnistCNN(eqx.Module):
    """The network of Equinox's MNIST example: channels first, max-pool of stride 1."""

    layers: list[Any]

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=4, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(1728, 512, key=keys[1]),
            jax.nn.sigmoid,
            eqx.nn.Linear(512, 64, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of one example."""
        for layer in self.layers:
            x = layer(x)
        return x


class Sound(eqx.Module):
    """1-D convolutions on a waveform: a long first kernel, pools of 4, a mean over time."""

    layers: list[Any]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv1d(1, 32, kernel_size=80, stride=4, key=keys[0]),
            eqx.nn.GroupNorm(4, 32),
            jax.nn.relu,
            eqx.nn.MaxPool1d(4, 4),
            eqx.nn.Conv1d(32, 32, kernel_size=3, padding=1, key=keys[1]),
            jax.nn.relu,
            eqx.nn.MaxPool1d(4, 4),
            eqx.nn.Conv1d(32, 64, kernel_size=3, dilation=2, key=keys[2]),
            jax.nn.relu,
            eqx.nn.AvgPool1d(4, 4),
        ]
        self.head = eqx.nn.Linear(64, 10, key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of one example."""
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(axis=-1))


def mnist(batch: int = 64) -> Case:
    """Equinox's MNIST example, its batch of 64."""
    return case(MnistCNN(jax.random.key(0)), images(batch, 1, 28, 28), labels(batch))


def sound(batch: int = 32, length: int = 8000) -> Case:
    """A 1-D network on half a second of sound."""
    return case(Sound(jax.random.key(0)), images(batch, 1, length), labels(batch))


def case(model: eqx.Module, x: Any, targets: Any) -> Case:
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params: Any, state: None, x: jax.Array, targets: jax.Array) -> tuple[jax.Array, None]:
        model: Any = eqx.combine(params, static)
        return mean_cross_entropy(jax.vmap(model)(x), targets), None

    return Case(loss, params, None, x, targets)
