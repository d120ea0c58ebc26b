"""The benchmark's networks and operations in PyTorch: a process that measures what it is asked.

Each line on stdin is a JSON list: `["step", model, layout, repeats]`, `["op", kind, shape, layout,
repeats]`, `["call", phase, call, layout, repeats]` or `["network", name, layout, repeats]`; each
line on stdout the milliseconds of each repeat. `["parameters", name]` is answered with a count, and
what PyTorch cannot do with `{"error": why}`. It runs in an environment of its own, so it imports
nothing of the library.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from calls import Call
from cases import BATCHES, CLASSES, Conv, Pool
from torch import nn
from twins import steps

FORMATS = {"default": torch.contiguous_format, "channels-last": torch.channels_last}
SLOW = 500  # milliseconds after which a call needs no more warming up


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps([torch.__version__]), flush=True)
    for line in sys.stdin:
        try:
            answer = _answer(*json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


def _answer(kind: str, *what: Any) -> Any:
    if kind == "parameters":
        return steps.parameters(*what)
    *what, repeats = what
    call = _known(kind, *map(_hashable, what))
    return [_time(call) for _ in range(repeats)]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@lru_cache(maxsize=8)  # what was asked lately: each holds its arrays
def _known(kind: str, *what: Any) -> Callable[[], object]:
    call = {"step": step, "op": operation, "call": convolution, "network": steps.step}[kind](*what)
    warm = 0
    while warm < 3 and _time(call) < SLOW:
        warm += 1
    return call


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def step(name: str, layout: str) -> Callable[[], object]:
    """Return a training step: forward, backward, SGD with momentum."""
    n, h, w, c = BATCHES[name]
    network = (_ResNet18() if name == "resnet18" else _plain(name)).to(
        memory_format=FORMATS[layout]
    )
    x = torch.randn(n, c, h, w).to(memory_format=FORMATS[layout])
    labels = torch.arange(n) % CLASSES
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()

    return run


def _plain(name: str) -> nn.Module:
    if name == "lenet":
        convs = [nn.Conv2d(1, 6, 5, padding=2), "pool", nn.Conv2d(6, 16, 5), "pool"]
        widths = [400, 120, 84]
    elif name == "cnn":
        convs = [nn.Conv2d(1, 32, 3, padding=1), "pool", nn.Conv2d(32, 64, 3, padding=1), "pool"]
        widths = [64 * 49, 256]
    else:
        convs, channels = [], 3
        for features in (64, 128, 256):
            convs.append(nn.Conv2d(channels, features, 3, padding=1))
            convs += [nn.Conv2d(features, features, 3, padding=1), "pool"]
            channels = features
        widths = [256 * 16, 256]
    layers: list[nn.Module] = []
    for layer in convs:
        layers += [nn.MaxPool2d(2)] if isinstance(layer, str) else [layer, nn.ReLU()]
    layers.append(nn.Flatten())
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


class _Block(nn.Module):
    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.one = _conv_norm(channels, features, 3, stride)
        self.two = _conv_norm(features, features, 3, 1)
        self.short = (
            nn.Identity() if channels == features else _conv_norm(channels, features, 1, stride)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))) + self.short(x))


class _ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, features in enumerate((64, 128, 256, 512)):
            layers.append(_Block(channels, features, 2 if stage else 1))
            layers.append(_Block(features, features, 1))
            channels = features
        self.body, self.head = nn.Sequential(*layers), nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def _conv_norm(channels: int, features: int, kernel: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(channels, features, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features))


def operation(kind: str, shape: Any, layout: str) -> Callable[[], object]:
    """Return one operation: a convolution's forward or gradient, or a pooling's."""
    form = FORMATS[layout]
    if kind.startswith("conv"):
        s = Conv(*shape)
        x = torch.randn(s.batch, s.channels, s.side, s.side).to(memory_format=form)
        w = torch.randn(s.features, s.channels, s.kernel, s.kernel).to(memory_format=form)
        stride, pad = [s.stride] * 2, [s.kernel // 2] * 2
        y = F.conv2d(x, w, None, stride, pad)
        dy = torch.randn_like(y)
        if kind == "conv":
            return lambda: F.conv2d(x, w, None, stride, pad)
        mask = [kind == "conv_input_grad", kind == "conv_kernel_grad", False]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(dy, x, w, None, stride, pad, [1, 1], False, [0, 0], 1, mask)
    p = Pool(*shape)
    x = torch.randn(p.batch, p.channels, p.side, p.side).to(memory_format=form)
    size, stride = [p.window] * 2, [p.stride] * 2
    y, indices = F.max_pool2d(x, size, stride, return_indices=True)
    dy = torch.randn_like(y)
    aten = torch.ops.aten
    return {
        "max_pool": lambda: F.max_pool2d(x, size, stride),
        "max_pool_winner": lambda: aten.max_pool2d_with_indices(x, size, stride),
        "max_pool_grad": lambda: aten.max_pool2d_with_indices_backward(
            dy, x, size, stride, [0, 0], [1, 1], False, indices
        ),
        "avg_pool": lambda: aten.avg_pool2d(x, size, stride),
        "avg_pool_grad": lambda: aten.avg_pool2d_backward(
            dy, x, size, stride, [0, 0], False, True, None
        ),
    }[kind]


def convolution(phase: str, call: Any, layout: str) -> Callable[[], object]:
    """Return one call of the convolutions' table: its value, or value and both gradients."""
    c = Call(*call)
    form = FORMATS[layout]
    if len(c.spatial) == 3 and layout == "channels-last":
        form = torch.channels_last_3d
    dtype = getattr(torch, c.dtype)
    outer = (c.channels, c.features // c.groups) if c.transposed else (c.features, c.fan)
    x = torch.randn(c.batch, c.channels, *c.spatial).to(dtype, memory_format=form)
    w = torch.randn(*outer, *c.kernel).to(dtype, memory_format=form)
    rank = len(c.spatial)
    stride, dilation, pads, more = (list(p) for p in (c.strides, c.dilations, c.pads, (0,) * rank))
    how = (stride, pads, dilation, c.transposed, more, c.groups)
    forward = getattr(F, f"conv_transpose{rank}d" if c.transposed else f"conv{rank}d")
    if c.transposed:
        forward = partial(forward, x, w, None, stride, pads, more, c.groups, dilation)
    else:
        forward = partial(forward, x, w, None, stride, pads, dilation, c.groups)
    if phase == "forward":
        return forward
    dy = torch.randn_like(forward())
    backward = torch.ops.aten.convolution_backward
    return lambda: (forward(), backward(dy, x, w, None, *how, [True, True, False]))


if __name__ == "__main__":
    with torch.enable_grad():
        main()
