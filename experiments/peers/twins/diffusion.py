"""The U-Net of denoising diffusion in PyTorch: group norm, the time, and attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from twins.twin import Twin

GROUPS = 8


class Block(nn.Module):
    """Two 3×3 convolutions behind group norms, the time between, and a shortcut."""

    def __init__(self, channels: int, features: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.time = nn.Linear(time, features)
        self.norm2 = nn.GroupNorm(GROUPS, features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.short = nn.Identity() if channels == features else nn.Conv2d(channels, features, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        return self.short(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Attention of one head between all pixels, behind a group norm, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x).flatten(2).transpose(1, 2)
        y = self.attention(y, y, y, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """Levels down by stride 2 and up by nearest neighbours; attention on all but the first."""

    def __init__(self, width: int, levels: int, blocks: int) -> None:
        super().__init__()
        self.width = width
        inner = 4 * width
        self.time = nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.first = nn.Conv2d(3, width, 3, padding=1)

        def block(channels: int, features: int, attention: bool) -> nn.ModuleList:
            layer = Attention(features) if attention else nn.Identity()
            return nn.ModuleList([Block(channels, features, inner), layer])

        channels, skips = width, [width]
        self.down = nn.ModuleList()
        for level in range(levels):
            for _ in range(blocks):
                self.down.append(block(channels, width << level, level > 0))
                channels = width << level
                skips.append(channels)
            if level < levels - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, 2, padding=1))
                skips.append(channels)
        self.middle = nn.ModuleList(
            [block(channels, channels, True), block(channels, channels, False)]
        )
        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            for _ in range(blocks + 1):
                self.up.append(block(channels + skips.pop(), width << level, level > 0))
                channels = width << level
            if level:
                self.up.append(
                    nn.Sequential(
                        nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1)
                    )
                )
        self.last = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
        angles = t[:, None] * rates
        time = self.time(torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1))
        x = self.first(x)
        skips = [x]
        for layer in self.down:
            x = layer[1](layer[0](x, time)) if isinstance(layer, nn.ModuleList) else layer(x)
            skips.append(x)
        for one, two in self.middle:
            x = two(one(x, time))
        for layer in self.up:
            if isinstance(layer, nn.ModuleList):
                x = layer[1](layer[0](torch.cat([x, skips.pop()], dim=1), time))
            else:
                x = layer(x)
        return self.last(x)


def diffusion(batch: int, size: int, width: int = 32, levels: int = 3, blocks: int = 2) -> Twin:
    """A diffusion model's step: the mean square error of the noise."""
    time = torch.arange(1, batch + 1) * (1000 / batch)
    inputs = (torch.randn(batch, 3, size, size), time)
    noise = torch.randn(batch, 3, size, size)
    return Twin(UNet(width, levels, blocks), inputs, lambda y: F.mse_loss(y, noise))
