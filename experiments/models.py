"""The networks of the experiments, each with the loss and the settings that it learns well with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal

import jaxbp
from jaxbp import layers


class Recipe(NamedTuple):
    """Settings that the command line may override."""

    optimizer: str
    lr: float
    schedule: str
    epochs: int
    batch: int
    weight_decay: float = 0.0


class Model(NamedTuple):
    """How to build a network for so many classes, and how to train it."""

    build: Callable[[int], Any]  # classes -> a network
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # outputs [N, K], labels int[N] -> [N]
    recipe: Recipe
    side: int | None = None  # images are brought to side × side; None: they stay as they are
    least: int = 1  # the smallest side that survives the pooling


def lenet_1998(classes: int) -> Any:
    """LeNet-5 as of 1998: tanh, and subsampling with a trainable weight and bias a map (5.1).

    Simpler than the paper in two things: every map of the third layer sees all maps of the one
    before, and the output is a dense layer under the squared error in place of fixed codes.
    """
    conv = partial(layers.conv, kernel=5, padding="VALID", kernel_init=lecun_normal())
    dense = partial(layers.dense, weight_init=lecun_normal())
    return jaxbp.sequential(
        conv(6),
        layers.tanh(),
        layers.subsample(2),
        layers.tanh(),
        conv(16),
        layers.tanh(),
        layers.subsample(2),
        layers.tanh(),
        conv(120),
        layers.tanh(),
        layers.flatten(),
        dense(84),
        layers.tanh(),
        dense(classes),
        layers.tanh(),
    )


def lenet(classes: int) -> Any:
    """LeNet as it is built today: relu and maximum for tanh and trainable subsampling."""
    return jaxbp.sequential(
        layers.conv(6, 5),
        layers.relu(),
        layers.max_pool(2),
        layers.conv(16, 5),
        layers.relu(),
        layers.max_pool(2),
        layers.flatten(),
        layers.dense(120),
        layers.relu(),
        layers.dense(84),
        layers.relu(),
        layers.dense(classes),
    )


def cnn(classes: int) -> Any:
    """Two 3×3 convolutions, each pooled, and a dense layer."""
    return jaxbp.sequential(
        layers.conv(32, 3),
        layers.relu(),
        layers.max_pool(2),
        layers.conv(64, 3),
        layers.relu(),
        layers.max_pool(2),
        layers.flatten(),
        layers.dense(256),
        layers.relu(),
        layers.dense(classes),
    )


def vgg(classes: int) -> Any:
    """Three pairs of 3×3 convolutions, each pair pooled, and a dense layer."""
    pairs = [
        layer
        for features in (64, 128, 256)
        for layer in (
            layers.conv(features, 3),
            layers.relu(),
            layers.conv(features, 3),
            layers.relu(),
            layers.max_pool(2),
        )
    ]
    return jaxbp.sequential(
        *pairs, layers.flatten(), layers.dense(256), layers.relu(), layers.dense(classes)
    )


def tanh_targets(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the squared error (2.2) against 0.6 at the label and -0.6 elsewhere.

    Targets at the ends of tanh, ±1, are out of reach and only drive the weights up. The 1998 paper
    puts them where the slope changes fastest; for plain tanh that is ±0.58.
    """
    one_hot = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return jaxbp.half_squared_error(outputs, 1.2 * one_hot - 0.6)


def predictions(outputs: jax.Array) -> jax.Array:
    """Return the class whose output is the largest."""
    return jnp.argmax(outputs, axis=-1)


MODELS = {
    "lenet-1998": Model(
        lenet_1998, tanh_targets, Recipe("adam", 2e-3, "warmup-cosine", 30, 32), side=32
    ),
    "lenet": Model(
        lenet, jaxbp.softmax_cross_entropy, Recipe("adam", 2e-3, "warmup-cosine", 40, 32), side=32
    ),
    "cnn": Model(
        cnn,
        jaxbp.softmax_cross_entropy,
        Recipe("adamw", 2e-3, "warmup-cosine", 12, 128, weight_decay=0.05),
        least=4,
    ),
    "vgg": Model(
        vgg,
        jaxbp.softmax_cross_entropy,
        Recipe("adamw", 1e-3, "warmup-cosine", 20, 128, weight_decay=0.05),
        least=8,
    ),
}
