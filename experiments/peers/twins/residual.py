"""ResNet-18, ResNet-50 and ResNeXt-50 in PyTorch, as torchvision writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from twins.twin import Twin, classifier


def conv_norm(channels: int, features: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    """A convolution without a bias, and batch norm."""
    return [
        nn.Conv2d(channels, features, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(features),
    ]


class Block(nn.Module):
    """Layers and a shortcut, with a 1×1 where shapes differ."""

    def __init__(self, layers: list, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        same = channels == features and stride == 1
        self.short = (
            nn.Identity() if same else nn.Sequential(*conv_norm(channels, features, 1, stride))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.layers(x) + self.short(x))


def basic(channels: int, features: int, stride: int) -> tuple[nn.Module, int]:
    """Two 3×3 convolutions and a shortcut."""
    layers = [
        *conv_norm(channels, features, 3, stride),
        nn.ReLU(inplace=True),
        *conv_norm(features, features, 3),
    ]
    return Block(layers, channels, features, stride), features


def bottleneck(
    channels: int, features: int, stride: int, groups: int = 1, expansion: int = 1
) -> tuple[nn.Module, int]:
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 in groups makes it a ResNeXt."""
    inner = features * expansion
    layers = [
        *conv_norm(channels, inner, 1),
        nn.ReLU(inplace=True),
        *conv_norm(inner, inner, 3, stride, groups),
        nn.ReLU(inplace=True),
        *conv_norm(inner, 4 * features, 1),
    ]
    return Block(layers, channels, 4 * features, stride), 4 * features


def _resnet(
    block: Callable[..., tuple[nn.Module, int]],
    batch: int,
    size: int,
    width: int,
    depths: Sequence[int],
    classes: int = 1000,
) -> Twin:
    layers = [*conv_norm(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        for i in range(depth):
            layer, channels = block(channels, width << stage, 2 if stage and i == 0 else 1)
            layers.append(layer)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return classifier(nn.Sequential(*layers), torch.randn(batch, 3, size, size), classes)


def resnet18(batch: int, size: int, width: int = 64, depths: Sequence[int] = (2, 2, 2, 2)) -> Twin:
    """ResNet-18."""
    return _resnet(basic, batch, size, width, depths)


def resnet50(batch: int, size: int, width: int = 64, depths: Sequence[int] = (3, 4, 6, 3)) -> Twin:
    """ResNet-50."""
    return _resnet(bottleneck, batch, size, width, depths)


def resnext50(
    batch: int,
    size: int,
    width: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    groups: int = 32,
) -> Twin:
    """ResNeXt-50 32×4d."""
    return _resnet(partial(bottleneck, groups=groups, expansion=2), batch, size, width, depths)
