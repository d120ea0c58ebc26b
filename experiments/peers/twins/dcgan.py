"""DCGAN's generator and discriminator in PyTorch, each with the step that trains it."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from twins.twin import Twin

NOISE = 100


def _generator(width: int, levels: int) -> nn.Module:
    channels = [NOISE, *(width << level for level in reversed(range(levels)))]
    layers: list[nn.Module] = []
    for i, (before, features) in enumerate(itertools.pairwise(channels)):
        stride, padding = (2, 1) if i else (1, 0)
        layers += [
            nn.ConvTranspose2d(before, features, 4, stride, padding, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def _discriminator(width: int, levels: int) -> nn.Module:
    channels = [width << level for level in range(levels)]
    layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for before, features in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(before, features, 4, 2, 1, bias=False),
            nn.BatchNorm2d(features),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, bias=False), nn.Flatten(0))


def generator(batch: int, width: int, levels: int = 4) -> Twin:
    """The generator's step: its images are to pass for real; the discriminator stands still."""
    judge = _discriminator(width, levels).requires_grad_(False)
    network = nn.Sequential(_generator(width, levels), judge)
    real = torch.ones(batch)
    x = torch.randn(batch, NOISE, 1, 1)
    return Twin(network, (x,), lambda y: F.binary_cross_entropy_with_logits(y, real))


def discriminator(batch: int, width: int, levels: int = 4) -> Twin:
    """The discriminator's step: half the batch is real."""
    size = 4 << levels
    real = (torch.arange(batch) % 2).float()
    x = torch.randn(batch, 3, size, size)
    network = _discriminator(width, levels)
    return Twin(network, (x,), lambda y: F.binary_cross_entropy_with_logits(y, real))
