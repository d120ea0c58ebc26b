"""ConvNeXt-T in Flax linen, without stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from others import linen
from others.case import Case, images, labels


class Block(nn.Module):
    """Each channel by 7×7, then two dense layers, and a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        features = x.shape[-1]
        y = nn.Conv(features, (7, 7), feature_group_count=features)(x)
        y = nn.LayerNorm()(y)
        y = nn.gelu(nn.Dense(4 * features)(y), approximate=False)
        y = nn.Dense(features)(y)
        return x + y * self.param("scale", nn.initializers.constant(1e-6), (features,))


class ConvNeXt(nn.Module):
    """Patches of 4×4, stages of blocks with patches of 2×2 between, a mean and a dense layer."""

    depths: Sequence[int]
    width: int
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nn.LayerNorm()(nn.Conv(self.width, (4, 4), strides=(4, 4), padding="VALID")(x))
        for stage, depth in enumerate(self.depths):
            if stage:
                x = nn.LayerNorm()(x)
                x = nn.Conv(self.width << stage, (2, 2), strides=(2, 2), padding="VALID")(x)
            for _ in range(depth):
                x = Block()(x)
        return nn.Dense(self.classes)(nn.LayerNorm()(x.mean(axis=(1, 2))))


def convnext(batch: int, size: int, width: int = 96, depths: Sequence[int] = (3, 3, 9, 3)) -> Case:
    """ConvNeXt-T."""
    model = ConvNeXt(depths, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))
