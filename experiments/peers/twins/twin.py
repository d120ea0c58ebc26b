"""A PyTorch network and what it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Twin(NamedTuple):
    """A network, its inputs, and the loss of its output."""

    network: nn.Module
    inputs: tuple[torch.Tensor, ...]
    loss: Callable[[torch.Tensor], torch.Tensor]


def classifier(network: nn.Module, x: torch.Tensor, classes: int = 1000) -> Twin:
    """Train on the mean cross-entropy, with one label where there is one row of logits."""
    labels: Any = torch.randint(classes, (x.shape[0],), device=x.device)
    return Twin(network, (x,), lambda y: F.cross_entropy(y, labels))


def pixelwise(network: nn.Module, x: torch.Tensor, classes: int) -> Twin:
    """Train on the mean cross-entropy over pixels, voxels or samples."""
    labels = torch.randint(classes, (x.shape[0], *x.shape[2:]), device=x.device)
    return Twin(network, (x,), lambda y: F.cross_entropy(y, labels))
