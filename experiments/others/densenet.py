"""DenseNet-121 in Flax linen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from others import linen
from others.case import Case, images, labels

Conv = partial(nn.Conv, use_bias=False)
Norm = partial(nn.BatchNorm, use_running_average=False)


class DenseNet(nn.Module):
    """Blocks in which each layer adds channels to all before it, and halvings between."""

    depths: Sequence[int]
    growth: int
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nn.relu(Norm()(Conv(2 * self.growth, (7, 7), (2, 2))(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            if stage:
                x = Conv(x.shape[-1] // 2, (1, 1))(nn.relu(Norm()(x)))
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
            for _ in range(depth):
                y = Conv(4 * self.growth, (1, 1))(nn.relu(Norm()(x)))
                y = Conv(self.growth, (3, 3))(nn.relu(Norm()(y)))
                x = jnp.concatenate([x, y], axis=-1)
        x = nn.relu(Norm()(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def densenet121(
    batch: int, size: int, growth: int = 32, depths: Sequence[int] = (6, 12, 24, 16)
) -> Case:
    """DenseNet-121."""
    model = DenseNet(depths, growth)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))
