"""DenseNet-121 in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from twins.residual import conv_norm
from twins.twin import Twin, classifier


def norm_conv(channels: int, features: int, kernel: int) -> list[nn.Module]:
    """Batch norm, relu and a convolution without a bias."""
    return [
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, features, kernel, padding=kernel // 2, bias=False),
    ]


class Layer(nn.Module):
    """Add channels to those there are."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *norm_conv(channels, 4 * growth, 1), *norm_conv(4 * growth, growth, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


def densenet121(
    batch: int,
    size: int,
    growth: int = 32,
    depths: Sequence[int] = (6, 12, 24, 16),
    classes: int = 1000,
) -> Twin:
    """DenseNet-121."""
    channels = 2 * growth
    layers = [*conv_norm(3, channels, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        if stage:
            layers += [*norm_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(Layer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return classifier(nn.Sequential(*layers), torch.randn(batch, 3, size, size), classes)
