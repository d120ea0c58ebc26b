"""The U-Net of denoising diffusion in Flax linen: group norm, the time, and attention."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from others import linen
from others.case import Case, images

GROUPS = 8


class Block(nn.Module):
    """Two 3×3 convolutions behind group norms, the time between, and a shortcut."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Return the block's output."""
        y = nn.Conv(self.features, (3, 3))(nn.silu(nn.GroupNorm(GROUPS)(x)))
        y = y + nn.Dense(self.features)(nn.silu(time))[:, None, None, :]
        y = nn.Conv(self.features, (3, 3))(nn.silu(nn.GroupNorm(GROUPS)(y)))
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1))(x)
        return x + y


class Attention(nn.Module):
    """Attention of one head between all pixels, behind a group norm, with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        n, h, w, c = x.shape
        y = nn.GroupNorm(GROUPS)(x).reshape(n, h * w, c)
        y = nn.MultiHeadDotProductAttention(num_heads=1)(y)
        return x + y.reshape(n, h, w, c)


class UNet(nn.Module):
    """Levels down by stride 2 and up by nearest neighbours; attention on all but the first."""

    width: int
    levels: int
    blocks: int

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        """Return the noise in a batch of images, given the time of each."""
        x, t = inputs
        half = self.width // 2
        rates = jnp.exp(-math.log(10_000) / half * jnp.arange(half, dtype=x.dtype))
        angles = t[:, None] * rates
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        time = nn.Dense(4 * self.width)(time)
        time = nn.Dense(4 * self.width)(nn.silu(time))

        x = nn.Conv(self.width, (3, 3))(x)
        skips = [x]
        for level in range(self.levels):
            for _ in range(self.blocks):
                x = Block(self.width << level)(x, time)
                if level:
                    x = Attention()(x)
                skips.append(x)
            if level < self.levels - 1:
                x = nn.Conv(x.shape[-1], (3, 3), strides=(2, 2))(x)
                skips.append(x)
        x = Attention()(Block(x.shape[-1])(x, time))
        x = Block(x.shape[-1])(x, time)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = Block(self.width << level)(x, time)
                if level:
                    x = Attention()(x)
            if level:
                n, h, w, c = x.shape
                x = jax.image.resize(x, (n, 2 * h, 2 * w, c), "nearest")
                x = nn.Conv(c, (3, 3))(x)
        return nn.Conv(3, (3, 3))(nn.silu(nn.GroupNorm(GROUPS)(x)))


def diffusion(batch: int, size: int, width: int = 32, levels: int = 3, blocks: int = 2) -> Case:
    """A diffusion model's step: the mean square error of the noise."""
    time = np.arange(1, batch + 1, dtype=np.float32) * (1000 / batch)
    inputs = (images(batch, size, size, 3), time)
    noise = images(batch, size, size, 3, seed=1)

    def cost(y: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.mean((y - noise.astype(y.dtype)) ** 2)

    return linen.case(UNet(width, levels, blocks), inputs, noise, cost)
