"""A training step of a twin, as PyTorch runs it or compiled, and how many parameters it trains."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from networks import NETWORKS
from twins.twin import Twin

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
COMPILED = "compiled "  # before the layout's name


def step(name: str, layout: str) -> Callable[[], object]:
    """Return a training step: forward, backward, SGD with momentum."""
    twin = _build(name)
    bare = layout.removeprefix(COMPILED)
    if bare == "channels-last":
        last = LAST[twin.inputs[0].dim()]  # signals have no such format
        shaped = (x.to(memory_format=last) if x.dim() > 3 else x for x in twin.inputs)
        twin = Twin(twin.network.to(memory_format=last), tuple(shaped), twin.loss)
    network = torch.compile(twin.network) if layout != bare else twin.network
    trained = [p for p in twin.network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        twin.loss(network(*twin.inputs)).backward()
        optimizer.step()

    return run


def parameters(name: str) -> int:
    """How many numbers a twin trains."""
    with torch.device("meta"):
        trained = (p for p in _build(name).network.parameters() if p.requires_grad)
        return sum(p.numel() for p in trained)


def _build(name: str) -> Twin:
    network = NETWORKS[name]
    module = importlib.import_module(f"twins.{network.file}")
    return getattr(module, network.function)(**network.sizes)
