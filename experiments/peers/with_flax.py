"""The benchmark's networks in Flax, differentiated by jax.grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from peers.cases import BATCHES, CLASSES


def loss(name: str) -> tuple[Any, Callable[[Any, jax.Array, jax.Array], jax.Array]]:
    """Return a network's parameters and its mean loss of (params, x, labels)."""
    network = _ResNet18() if name == "resnet18" else _Plain(name)
    variables = network.init(jax.random.key(0), jnp.zeros(BATCHES[name]))
    rest = {k: v for k, v in variables.items() if k != "params"}

    def mean_loss(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = network.apply({"params": params, **rest}, x, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    return variables["params"], mean_loss


class _Plain(nn.Module):
    name_of: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.name_of == "lenet":
            x = _pool(nn.relu(nn.Conv(6, (5, 5))(x)))
            x = _pool(nn.relu(nn.Conv(16, (5, 5), padding="VALID")(x)))
        elif self.name_of == "cnn":
            x = _pool(nn.relu(nn.Conv(32, (3, 3))(x)))
            x = _pool(nn.relu(nn.Conv(64, (3, 3))(x)))
        else:
            for features in (64, 128, 256):
                x = nn.relu(nn.Conv(features, (3, 3))(x))
                x = _pool(nn.relu(nn.Conv(features, (3, 3))(x)))
        x = x.reshape(x.shape[0], -1)
        for units in (120, 84) if self.name_of == "lenet" else (256,):
            x = nn.relu(nn.Dense(units)(x))
        return nn.Dense(CLASSES)(x)


def _pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


class _ResNet18(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv_norm(x: jax.Array, features: int, kernel: int, stride: int) -> jax.Array:
            x = nn.Conv(features, (kernel, kernel), (stride, stride), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=False)(x)

        x = nn.relu(conv_norm(x, 64, 7, 2))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, features in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage and not block else 1
                y = nn.relu(conv_norm(x, features, 3, stride))
                y = conv_norm(y, features, 3, 1)
                if x.shape[-1] != features:
                    x = conv_norm(x, features, 1, stride)
                x = nn.relu(y + x)
        return nn.Dense(CLASSES)(jnp.mean(x, (1, 2)))
