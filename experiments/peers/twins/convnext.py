"""ConvNeXt-T in PyTorch, as torchvision writes it, without stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from twins.twin import Twin, classifier


class Norm(nn.LayerNorm):
    """Layer norm over the channels of [N, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Each channel by 7×7, then two dense layers, and a shortcut."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 7, padding=3, groups=features)
        self.dense = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, features),
        )
        self.scale = nn.Parameter(torch.full((features, 1, 1), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dense(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + y * self.scale


def convnext(
    batch: int,
    size: int,
    width: int = 96,
    depths: Sequence[int] = (3, 3, 9, 3),
    classes: int = 1000,
) -> Twin:
    """ConvNeXt-T."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), Norm(width)]
    for stage, depth in enumerate(depths):
        if stage:
            layers += [Norm(width), nn.Conv2d(width, 2 * width, 2, 2)]
            width *= 2
        layers += [Block(width) for _ in range(depth)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width)]
    network = nn.Sequential(*layers, nn.Linear(width, classes))
    return classifier(network, torch.randn(batch, 3, size, size), classes)
