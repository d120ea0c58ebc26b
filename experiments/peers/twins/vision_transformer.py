"""ViT-Ti/16 in PyTorch, without dropout."""

from __future__ import annotations

import torch
from torch import nn
from twins.twin import Twin, classifier

HEAD = 64  # channels of an attention head


class Block(nn.Module):
    """Attention and two dense layers, each behind a layer norm, with shortcuts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, max(1, width // HEAD), batch_first=True)
        self.dense = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dense(x)


class ViT(nn.Module):
    """Patches of 16×16 as tokens, a class token, blocks, a dense layer on the class token."""

    def __init__(self, size: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // 16) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.blocks(x + self.position)
        return self.head(self.norm(x)[:, 0])


def vit(batch: int, size: int, width: int = 192, depth: int = 12, classes: int = 1000) -> Twin:
    """ViT-Ti/16."""
    network = ViT(size, width, depth, classes)
    return classifier(network, torch.randn(batch, 3, size, size), classes)
