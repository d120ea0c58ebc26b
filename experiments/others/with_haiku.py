"""Haiku: its own ResNet-18, with state, and a 3-D network."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax

from others.case import Case, images, labels, mean_cross_entropy


def _resnet18(x: jax.Array) -> jax.Array:
    return hk.nets.ResNet18(10)(x, is_training=True)


def _volume(x: jax.Array) -> jax.Array:
    for features in (16, 32):
        x = jax.nn.relu(hk.Conv3D(features, kernel_shape=3)(x))
        x = hk.max_pool(x, window_shape=(2, 2, 2, 1), strides=(2, 2, 2, 1), padding="VALID")
    x = jax.nn.relu(hk.Conv3D(32, kernel_shape=3)(x))
    x = hk.avg_pool(x, window_shape=(2, 2, 2, 1), strides=(2, 2, 2, 1), padding="VALID")
    return hk.Linear(10)(hk.Flatten()(x))


def resnet18(batch: int = 8, size: int = 64) -> Case:
    """`hk.nets.ResNet18` as it comes; batch norm's averages are the state."""
    return _case(_resnet18, images(batch, size, size, 3), labels(batch))


def volume(batch: int = 8, size: int = 24) -> Case:
    """A 3-D network on small volumes."""
    return _case(_volume, images(batch, size, size, size, 1), labels(batch))


def _case(network: Any, x: Any, targets: Any) -> Case:
    transformed = hk.transform_with_state(network)
    params, state = jax.jit(transformed.init)(jax.random.key(0), x)

    def loss(params: Any, state: Any, x: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        logits, state = transformed.apply(params, state, None, x)
        return mean_cross_entropy(logits, targets), state

    return Case(loss, params, state, x, targets)
