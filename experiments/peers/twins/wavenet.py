"""WaveNet in PyTorch: causal convolutions of two taps, each dilated twice as far as the last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from twins.twin import Twin, pixelwise


class Layer(nn.Module):
    """A gated dilated convolution, a 1×1 to the next layer and a 1×1 to the output."""

    def __init__(self, width: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.dilated = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.residual = nn.Conv1d(width, width, 1)
        self.skip = nn.Conv1d(width, skip, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        filtered, gate = self.dilated(F.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        y = torch.tanh(filtered) * torch.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    """Logits of the next sample's value at each sample of a waveform."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 2)
        self.layers = nn.ModuleList(Layer(width, 2 * width, 1 << i) for i in range(depth))
        self.hidden = nn.Conv1d(2 * width, classes, 1)
        self.last = nn.Conv1d(classes, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(F.pad(x, (1, 0)))
        total = 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.last(torch.relu(self.hidden(torch.relu(total))))


def wavenet(batch: int, length: int, width: int = 32, depth: int = 10, classes: int = 256) -> Twin:
    """WaveNet's one stack of ten layers."""
    return pixelwise(WaveNet(width, depth, classes), torch.randn(batch, 1, length), classes)
