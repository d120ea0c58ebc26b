"""ResNet-18, ResNet-50 and ResNeXt-50 in Flax linen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from others import linen
from others.case import Case, images, labels

Conv = partial(nn.Conv, use_bias=False)
Norm = partial(nn.BatchNorm, use_running_average=False)


class Basic(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        y = Conv(self.features, (3, 3), self.strides)(x)
        y = nn.relu(Norm()(y))
        y = Conv(self.features, (3, 3))(y)
        y = Norm()(y)
        if x.shape != y.shape:
            x = Norm()(Conv(self.features, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 in groups makes it a ResNeXt."""

    features: int
    strides: int
    groups: int = 1
    expansion: int = 1  # of the 3×3: 2 in ResNeXt-50 32×4d

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        inner = self.features * self.expansion
        y = nn.relu(Norm()(Conv(inner, (1, 1))(x)))
        y = Conv(inner, (3, 3), self.strides, feature_group_count=self.groups)(y)
        y = nn.relu(Norm()(y))
        y = Conv(4 * self.features, (1, 1))(y)
        y = Norm()(y)
        if x.shape != y.shape:
            x = Norm()(Conv(4 * self.features, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem of 7×7 and max-pool, stages of blocks, a mean and a dense layer."""

    block: Any
    depths: Sequence[int]
    width: int
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nn.relu(Norm()(Conv(self.width, (7, 7), (2, 2))(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                x = self.block(self.width << stage, strides=2 if stage and i == 0 else 1)(x)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def resnet18(batch: int, size: int, width: int = 64, depths: Sequence[int] = (2, 2, 2, 2)) -> Case:
    """ResNet-18."""
    model = ResNet(Basic, depths, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))


def resnet50(batch: int, size: int, width: int = 64, depths: Sequence[int] = (3, 4, 6, 3)) -> Case:
    """ResNet-50."""
    model = ResNet(Bottleneck, depths, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))


def resnext50(
    batch: int,
    size: int,
    width: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    groups: int = 32,
) -> Case:
    """ResNeXt-50 32×4d."""
    model = ResNet(partial(Bottleneck, groups=groups, expansion=2), depths, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))
