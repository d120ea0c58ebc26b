"""U-Nets in two and three dimensions with batch norm, in Flax linen."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from others import linen
from others.case import Case, images, labels

Norm = partial(nn.BatchNorm, use_running_average=False)


class UNet(nn.Module):
    """Levels down by max-pool and up by transposed convolution, with skips."""

    axes: int
    width: int
    levels: int
    classes: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of each pixel."""
        two, three = (2,) * self.axes, (3,) * self.axes

        def twice(x: jax.Array, features: int) -> jax.Array:
            for _ in range(2):
                x = nn.relu(Norm()(nn.Conv(features, three, use_bias=False)(x)))
            return x

        skips = []
        for level in range(self.levels):
            x = twice(x, self.width << level)
            skips.append(x)
            x = nn.max_pool(x, two, strides=two)
        x = twice(x, self.width << self.levels)
        for level in reversed(range(self.levels)):
            x = nn.ConvTranspose(self.width << level, two, strides=two)(x)
            x = twice(jnp.concatenate([skips[level], x], axis=-1), self.width << level)
        return nn.Conv(self.classes, (1,) * self.axes)(x)


def unet(batch: int, size: int, width: int, levels: int = 4) -> Case:
    """A U-Net on images, with a label a pixel."""
    targets = labels(batch, size, size, classes=2)
    return linen.case(UNet(2, width, levels), images(batch, size, size, 3), targets)


def unet3d(batch: int, size: int, width: int, levels: int = 3) -> Case:
    """A U-Net on volumes, with a label a voxel."""
    targets = labels(batch, size, size, size, classes=2)
    return linen.case(UNet(3, width, levels), images(batch, size, size, size, 1), targets)
