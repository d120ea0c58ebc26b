"""The convolutions' table: single calls of any rank, by kind. Plain data, no framework."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

PHASES = ("forward", "gradients")


class Call(NamedTuple):
    """A convolution, or a transposed one, as both JAX and PyTorch can be asked for it."""

    kind: str
    batch: int
    spatial: tuple[int, ...]
    channels: int
    kernel: tuple[int, ...]
    features: int
    stride: int = 1
    padding: int | None = None  # at each end of each axis; None: so much that stride 1 keeps sizes
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    layout: str = "channels-last"  # or channels-first, of the call in JAX
    dtype: str = "float32"

    def __str__(self) -> str:
        image = "x".join(map(str, (self.batch, *self.spatial, self.channels)))
        kernel = "x".join(map(str, self.kernel))
        words = [self.kind, image, f"{kernel}/{self.stride}", str(self.features)]
        words += [f"g{self.groups}"] if self.groups > 1 and self.kind != "depthwise" else []
        words += [f"d{self.dilation}"] if self.dilation > 1 else []
        words += ["channels-first"] if self.layout == "channels-first" else []
        words += [self.dtype] if self.dtype != "float32" else []
        return " ".join(words)

    @property
    def fan(self) -> int:
        """The channels of the input that a group has."""
        return self.channels // self.groups

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each axis."""
        return (self.stride,) * len(self.spatial)

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of each axis."""
        return (self.dilation,) * len(self.spatial)

    @property
    def pads(self) -> tuple[int, ...]:
        """The padding at each end of each axis."""
        if self.padding is not None:
            return (self.padding,) * len(self.spatial)
        return tuple(self.dilation * (k - 1) // 2 for k in self.kernel)

    @property
    def output(self) -> tuple[int, ...]:
        """The output's spatial sizes."""
        sizes = zip(self.spatial, self.kernel, self.pads, strict=True)
        if self.transposed:
            return tuple((n - 1) * self.stride + self._span(k) - 2 * p for n, k, p in sizes)
        return tuple((n + 2 * p - self._span(k)) // self.stride + 1 for n, k, p in sizes)

    def _span(self, k: int) -> int:
        return self.dilation * (k - 1) + 1

    def operations(self, phase: str) -> float:
        """Count multiplications and additions: of the value, or of the value and both gradients."""
        places = math.prod(self.spatial if self.transposed else self.output)
        each = 2.0 * self.batch * places * math.prod(self.kernel) * self.fan * self.features
        return each if phase == "forward" else 3 * each

    def bytes(self, phase: str) -> float:
        """Count the bytes of x, w and y, each once; with gradients also those of dx, dw and dy."""
        numbers = self.batch * math.prod(self.spatial) * self.channels
        numbers += math.prod(self.kernel) * self.fan * self.features
        numbers += self.batch * math.prod(self.output) * self.features
        each = numbers * (4.0 if self.dtype == "float32" else 2.0)
        return each if phase == "forward" else 2 * each


def _depthwise(
    batch: int, spatial: tuple[int, ...], channels: int, k: int, multiplier: int = 1, **how: object
) -> Call:
    kernel, features = (k,) * len(spatial), channels * multiplier
    return Call("depthwise", batch, spatial, channels, kernel, features, groups=channels, **how)


def _of(kind: str) -> Callable[..., Call]:
    def call(batch: int, spatial: tuple[int, ...], c: int, k: int, o: int, **how: object) -> Call:
        return Call(kind, batch, spatial, c, (k,) * len(spatial), o, **how)

    return call


_grouped, _dense, _volume, _sequence = _of("grouped"), _of("dense"), _of("3-D"), _of("1-D")
_transposed = _of("transposed")
_FIRST = "channels-first"

CALLS = (
    _depthwise(16, (56, 56), 64, 3),
    _depthwise(4, (56, 56), 96, 7),
    _depthwise(8, (56, 56), 96, 3, stride=2),
    _depthwise(8, (28, 28), 120, 5),
    _depthwise(16, (1024,), 64, 31),
    _depthwise(1, (112, 112), 32, 3),
    _depthwise(64, (7, 7), 960, 3),
    _depthwise(32, (14, 14), 384, 3),
    _depthwise(4, (57, 57), 72, 5, stride=2),
    _depthwise(8, (28, 28), 64, 3, 2),
    _depthwise(8, (28, 28), 64, 3, dilation=2),
    _depthwise(2, (14, 14), 384, 7),
    _depthwise(8, (56, 56), 64, 3, layout=_FIRST),
    _depthwise(8, (2048,), 128, 4, padding=3),
    _depthwise(2, (16, 16, 16), 32, 3),
    _grouped(8, (28, 28), 128, 3, 128, groups=32),
    _grouped(8, (14, 14), 512, 3, 512, groups=32),
    _grouped(8, (28, 28), 128, 3, 128, groups=32, stride=2),
    _grouped(4, (28, 28), 64, 3, 128, groups=2),
    _grouped(16, (14, 14), 128, 3, 128, groups=2),
    _grouped(8, (27, 27), 96, 3, 64, groups=4),
    _grouped(8, (14, 14), 64, 5, 64, groups=8, layout=_FIRST),
    _grouped(32, (14, 14), 240, 1, 240, groups=3),
    _volume(2, (32, 32, 32), 16, 3, 16),
    _volume(4, (48, 48, 48), 1, 3, 16, stride=2),
    _volume(1, (16, 16, 16), 64, 3, 64),
    _volume(1, (33, 33, 33), 8, 3, 16, stride=2, layout=_FIRST),
    _transposed(1, (16, 16, 16), 64, 4, 1, stride=2, padding=1, transposed=True),
    _transposed(16, (256,), 64, 64, 32, stride=16, padding=24, transposed=True),
    _transposed(16, (8, 8), 256, 4, 128, stride=2, padding=1, transposed=True),
    _transposed(16, (32, 32), 64, 4, 3, stride=2, padding=1, transposed=True),
    _transposed(4, (28, 28), 128, 2, 64, stride=2, padding=0, transposed=True),
    _transposed(1, (8, 8, 8), 64, 2, 32, stride=2, padding=0, transposed=True),
    Call("patches", 8, (224, 224), 3, (16, 16), 192, stride=16, padding=0),
    Call("patches", 4, (224, 224), 3, (4, 4), 96, stride=4, padding=0),
    Call("patches", 8, (28, 28), 96, (2, 2), 192, stride=2, padding=0),
    _sequence(16, (2048,), 64, 9, 64),
    _sequence(4, (4096,), 1, 15, 32, stride=2),
    _sequence(8, (1000,), 80, 3, 256),
    _sequence(8, (2048,), 32, 2, 64, dilation=16, padding=8),
    _dense(4, (128, 128), 16, 3, 16),
    _dense(8, (32, 32), 32, 3, 32, dilation=2),
    _dense(1, (56, 56), 64, 3, 64),
    _dense(8, (28, 28), 128, 3, 128),
    _dense(16, (7, 7), 256, 3, 256),
    _dense(64, (15, 15), 32, 3, 48, stride=2),
    _dense(4, (28, 28), 64, 3, 64, layout=_FIRST),
    Call("dense", 8, (17, 17), 128, (1, 7), 128),
    Call("stem", 4, (224, 224), 3, (7, 7), 64, stride=2),
    Call("stem", 8, (224, 224), 3, (3, 3), 32, stride=2),
    Call("stem", 8, (96, 96), 3, (3, 3), 24, stride=2, layout=_FIRST),
    Call("pointwise", 8, (56, 56), 32, (1, 1), 192),
    Call("pointwise", 32, (14, 14), 384, (1, 1), 64),
    Call("pointwise", 8, (28, 28), 128, (1, 1), 256, stride=2, layout=_FIRST),
    Call("half", 8, (56, 56), 64, (3, 3), 64, groups=64, dtype="bfloat16"),
    Call("half", 8, (28, 28), 64, (3, 3), 64, dtype="bfloat16"),
    Call("half", 8, (28, 28), 64, (3, 3), 64, groups=16, dtype="bfloat16"),
    Call("half", 8, (56, 56), 32, (1, 1), 192, dtype="bfloat16"),
    Call("half", 4, (28, 28), 64, (3, 3), 64, dtype="float16"),
    Call("half", 4, (28, 28), 64, (3, 3), 64, groups=64, dtype="float16"),
)
