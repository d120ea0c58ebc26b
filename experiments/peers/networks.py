"""The networks of which there is a PyTorch twin, and their sizes. Plain data, no framework.

`others/<file>.py` and `peers/twins/<file>.py` build the same network from the same sizes. `sizes`
keep each network's depth and cut width, resolution and batch until plain JAX takes about three
seconds a step on two cores; `small` is one block a stage, for tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Network(NamedTuple):
    """Where a network is built, and how large."""

    file: str
    function: str
    sizes: dict[str, Any]
    small: dict[str, Any]


NETWORKS = {
    "mobilenet-v2": Network(
        "mobile",
        "mobilenet_v2",
        {"batch": 16, "size": 96},
        {"batch": 2, "size": 16, "width": 0.25, "stages": 2, "depth": 1},
    ),
    "efficientnet-b0": Network(
        "mobile",
        "efficientnet_b0",
        {"batch": 8, "size": 96},
        {"batch": 2, "size": 16, "width": 0.25, "stages": 3, "depth": 1},
    ),
    "convnext-t": Network(
        "convnext",
        "convnext",
        {"batch": 4, "size": 64},
        {"batch": 2, "size": 16, "width": 8, "depths": (1, 1)},
    ),
    "resnext-50": Network(
        "residual",
        "resnext50",
        {"batch": 4, "size": 64},
        {"batch": 2, "size": 32, "width": 8, "depths": (1, 1), "groups": 4},
    ),
    "resnet-18": Network(
        "residual",
        "resnet18",
        {"batch": 8, "size": 96},
        {"batch": 2, "size": 32, "width": 8, "depths": (1, 1)},
    ),
    "resnet-50": Network(
        "residual",
        "resnet50",
        {"batch": 8, "size": 64},
        {"batch": 2, "size": 32, "width": 8, "depths": (1, 1)},
    ),
    "vit-ti": Network(
        "vision_transformer",
        "vit",
        {"batch": 4, "size": 224},
        {"batch": 2, "size": 32, "width": 12, "depth": 1},
    ),
    "u-net": Network(
        "unets",
        "unet",
        {"batch": 4, "size": 128, "width": 16},
        {"batch": 2, "size": 16, "width": 4, "levels": 1},
    ),
    "u-net-3d": Network(
        "unets",
        "unet3d",
        {"batch": 1, "size": 48, "width": 16},
        {"batch": 2, "size": 8, "width": 4, "levels": 1},
    ),
    "wavenet": Network(
        "wavenet",
        "wavenet",
        {"batch": 2, "length": 4096},
        {"batch": 2, "length": 64, "width": 4, "depth": 2, "classes": 8},
    ),
    "dcgan-generator": Network(
        "dcgan",
        "generator",
        {"batch": 16, "width": 32},
        {"batch": 2, "width": 4, "levels": 1},
    ),
    "dcgan-discriminator": Network(
        "dcgan",
        "discriminator",
        {"batch": 32, "width": 32},
        {"batch": 2, "width": 4, "levels": 1},
    ),
    "densenet-121": Network(
        "densenet",
        "densenet121",
        {"batch": 4, "size": 64},
        {"batch": 2, "size": 32, "growth": 4, "depths": (1, 1)},
    ),
    "diffusion-u-net": Network(
        "diffusion",
        "diffusion",
        {"batch": 8, "size": 32},
        {"batch": 2, "size": 8, "width": 8, "levels": 2, "blocks": 0},
    ),
}
