"""MobileNetV2 and EfficientNet-B0 in Flax linen, without dropout and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from others import linen
from others.case import Case, images, labels

Conv = partial(nn.Conv, use_bias=False)
Norm = partial(nn.BatchNorm, use_running_average=False)


class SqueezeExcite(nn.Module):
    """Weigh the channels by what a small network says of their means."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the weighed channels."""
        y = x.mean(axis=(1, 2), keepdims=True)
        y = nn.silu(nn.Conv(self.features, (1, 1))(y))
        return x * nn.sigmoid(nn.Conv(x.shape[-1], (1, 1))(y))


class InvertedResidual(nn.Module):
    """Expand by 1×1, filter each channel, project by 1×1; a shortcut where shapes allow."""

    features: int
    strides: int
    expansion: int
    kernel: int
    act: Callable[..., Any]
    squeeze: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        inner = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = self.act(Norm()(Conv(inner, (1, 1))(y)))
        kernel = (self.kernel, self.kernel)
        y = Conv(inner, kernel, self.strides, feature_group_count=inner)(y)
        y = self.act(Norm()(y))
        if self.squeeze:
            y = SqueezeExcite(max(1, x.shape[-1] // 4))(y)
        y = Norm()(Conv(self.features, (1, 1))(y))
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """A stem of stride 2, stages of inverted residuals, a wide 1×1, a mean and a dense layer."""

    # Each stage: expansion, channels, blocks, stride of the first, kernel.
    stages: Sequence[tuple[int, int, int, int, int]]
    depth: int  # at most so many blocks a stage
    act: Callable[..., Any]
    squeeze: bool
    width: float = 1.0
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""

        def scaled(channels: int) -> int:
            return int(channels * self.width)

        x = self.act(Norm()(Conv(scaled(32), (3, 3), (2, 2))(x)))
        for expansion, channels, blocks, stride, kernel in self.stages:
            for i in range(min(blocks, self.depth)):
                x = InvertedResidual(
                    features=scaled(channels),
                    strides=1 if i else stride,
                    expansion=expansion,
                    kernel=kernel,
                    act=self.act,
                    squeeze=self.squeeze,
                )(x)
        x = self.act(Norm()(Conv(scaled(1280), (1, 1))(x)))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def mobilenet_v2(
    batch: int, size: int, width: float = 1.0, stages: int = 7, depth: int = 4
) -> Case:
    """MobileNetV2, or its first stages with at most `depth` blocks each."""
    blocks = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    )
    model = MobileNet(blocks[:stages], depth, nn.relu6, False, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))


def efficientnet_b0(
    batch: int, size: int, width: float = 1.0, stages: int = 7, depth: int = 4
) -> Case:
    """EfficientNet-B0, or its first stages with at most `depth` blocks each."""
    blocks = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    model = MobileNet(blocks[:stages], depth, nn.silu, True, width)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))
