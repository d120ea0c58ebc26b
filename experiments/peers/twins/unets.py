"""U-Nets in two and three dimensions with batch norm, in PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from twins.twin import Twin, pixelwise


class UNet(nn.Module):
    """Levels down by max-pool and up by transposed convolution, with skips."""

    def __init__(
        self,
        layers: tuple[Any, Any, Any, Any],
        channels: int,
        width: int,
        levels: int,
        classes: int,
    ) -> None:
        super().__init__()
        conv, norm, pool, up = layers

        def twice(channels: int, features: int) -> nn.Sequential:
            return nn.Sequential(
                conv(channels, features, 3, padding=1, bias=False),
                norm(features),
                nn.ReLU(inplace=True),
                conv(features, features, 3, padding=1, bias=False),
                norm(features),
                nn.ReLU(inplace=True),
            )

        widths = [width << level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            twice(before, after) for before, after in itertools.pairwise([channels, *widths[:-1]])
        )
        self.pool = pool(2)
        self.middle = twice(widths[-2], widths[-1])
        self.ups = nn.ModuleList(up(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.across = nn.ModuleList(twice(2 * w, w) for w in widths[-2::-1])
        self.last = conv(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for up, across in zip(self.ups, self.across, strict=True):
            x = across(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)


def unet(batch: int, size: int, width: int, levels: int = 4) -> Twin:
    """A U-Net on images, with a label a pixel."""
    layers = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ConvTranspose2d)
    return pixelwise(UNet(layers, 3, width, levels, 2), torch.randn(batch, 3, size, size), 2)


def unet3d(batch: int, size: int, width: int, levels: int = 3) -> Twin:
    """A U-Net on volumes, with a label a voxel."""
    layers = (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.ConvTranspose3d)
    return pixelwise(UNet(layers, 1, width, levels, 2), torch.randn(batch, 1, size, size, size), 2)
