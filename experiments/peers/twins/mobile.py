"""MobileNetV2 and EfficientNet-B0 in PyTorch, without dropout and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from twins.residual import conv_norm
from twins.twin import Twin, classifier


class SqueezeExcite(nn.Module):
    """Weigh the channels by what a small network says of their means."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, features, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(features, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(x)


class InvertedResidual(nn.Module):
    """Expand by 1×1, filter each channel, project by 1×1; a shortcut where shapes allow."""

    def __init__(
        self,
        channels: int,
        features: int,
        stride: int,
        expansion: int,
        kernel: int,
        act: Callable[[], nn.Module],
        squeeze: bool,
    ) -> None:
        super().__init__()
        inner = channels * expansion
        layers = []
        if expansion != 1:
            layers += [*conv_norm(channels, inner, 1), act()]
        layers += [*conv_norm(inner, inner, kernel, stride, inner), act()]
        if squeeze:
            layers.append(SqueezeExcite(inner, max(1, channels // 4)))
        self.layers = nn.Sequential(*layers, *conv_norm(inner, features, 1))
        self.shortcut = stride == 1 and channels == features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


def _mobile(
    # Each stage: expansion, channels, blocks, stride of the first, kernel.
    stages: Sequence[tuple[int, int, int, int, int]],
    depth: int,  # at most so many blocks a stage
    act: Callable[[], nn.Module],
    squeeze: bool,
    batch: int,
    size: int,
    width: float,
    classes: int = 1000,
) -> Twin:
    channels = int(32 * width)
    layers = [*conv_norm(3, channels, 3, 2), act()]
    for expansion, features, blocks, stride, kernel in stages:
        features = int(features * width)
        for i in range(min(blocks, depth)):
            layers.append(
                InvertedResidual(
                    channels, features, 1 if i else stride, expansion, kernel, act, squeeze
                )
            )
            channels = features
    last = int(1280 * width)
    layers += [*conv_norm(channels, last, 1), act()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
    return classifier(nn.Sequential(*layers), torch.randn(batch, 3, size, size), classes)


def mobilenet_v2(
    batch: int, size: int, width: float = 1.0, stages: int = 7, depth: int = 4
) -> Twin:
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
    return _mobile(
        blocks[:stages], depth, lambda: nn.ReLU6(inplace=True), False, batch, size, width
    )


def efficientnet_b0(
    batch: int, size: int, width: float = 1.0, stages: int = 7, depth: int = 4
) -> Twin:
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
    act = partial(nn.SiLU, inplace=True)
    return _mobile(blocks[:stages], depth, act, True, batch, size, width)
