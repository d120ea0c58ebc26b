"""What is measured: networks by their batch, operations by their shapes. Plain data, no framework.

Each peer builds the same networks: `lenet` (5×5 convolutions 6 and 16, dense 120-84-10), `cnn` (3×3
convolutions 32 and 64, dense 256-10), `vgg` (3×3: 64-64-128-128-256-256, dense 256-10), all with
relu and 2×2 max pooling, and ResNet-18 (stem 7×7/2, 3×3/2 max pooling, batch norm).
"""

from __future__ import annotations

from typing import NamedTuple

MODELS = ("lenet", "cnn", "vgg", "resnet18")
BATCHES = {  # [N, H, W, C]
    "lenet": (128, 28, 28, 1),
    "cnn": (128, 28, 28, 1),
    "vgg": (32, 32, 32, 3),
    "resnet18": (8, 64, 64, 3),
}
CLASSES = 10


class Conv(NamedTuple):
    """A convolution with padding "SAME" on square images."""

    batch: int
    side: int
    channels: int
    kernel: int
    features: int
    stride: int = 1

    def __str__(self) -> str:
        image = f"{self.batch}x{self.side}x{self.side}x{self.channels}"
        return f"{image} {self.kernel}x{self.kernel}/{self.stride} {self.features}"


class Pool(NamedTuple):
    """A pooling without padding on square images."""

    batch: int
    side: int
    channels: int
    window: int
    stride: int

    def __str__(self) -> str:
        image = f"{self.batch}x{self.side}x{self.side}x{self.channels}"
        return f"{image} {self.window}x{self.window}/{self.stride}"


CONVS = (
    Conv(128, 28, 1, 5, 6),
    Conv(128, 14, 6, 5, 16),
    Conv(128, 28, 1, 3, 32),
    Conv(128, 14, 32, 3, 64),
    Conv(32, 32, 3, 3, 64),
    Conv(32, 32, 64, 3, 64),
    Conv(32, 16, 64, 3, 128),
    Conv(32, 16, 128, 3, 128),
    Conv(32, 8, 128, 3, 256),
    Conv(32, 8, 256, 3, 256),
    Conv(8, 64, 3, 7, 64, 2),
    Conv(8, 16, 64, 3, 64),
    Conv(8, 16, 64, 3, 128, 2),
    Conv(8, 16, 64, 1, 128, 2),
    Conv(8, 8, 128, 3, 128),
    Conv(8, 8, 128, 3, 256, 2),
    Conv(8, 4, 256, 3, 256),
    Conv(8, 4, 256, 3, 512, 2),
    Conv(8, 2, 512, 3, 512),
)
POOLS = (
    Pool(128, 28, 6, 2, 2),
    Pool(128, 28, 32, 2, 2),
    Pool(128, 14, 64, 2, 2),
    Pool(32, 32, 64, 2, 2),
    Pool(32, 16, 128, 2, 2),
    Pool(8, 32, 64, 3, 2),
    Pool(32, 55, 64, 3, 2),
    Pool(32, 27, 192, 3, 2),
)
