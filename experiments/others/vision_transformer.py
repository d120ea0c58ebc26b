"""ViT-Ti/16 in Flax linen, without dropout."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from others import linen
from others.case import Case, images, labels

HEAD = 64  # channels of an attention head


class Block(nn.Module):
    """Attention and two dense layers, each behind a layer norm, with shortcuts."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)), approximate=False)
        return x + nn.Dense(x.shape[-1])(y)


class ViT(nn.Module):
    """Patches of 16×16 as tokens, a class token, blocks, a dense layer on the class token."""

    width: int
    depth: int
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nn.Conv(self.width, (16, 16), strides=(16, 16), padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.depth):
            x = Block(max(1, self.width // HEAD))(x)
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])


def vit(batch: int, size: int, width: int = 192, depth: int = 12) -> Case:
    """ViT-Ti/16."""
    model = ViT(width, depth)
    return linen.case(model, images(batch, size, size, 3), labels(batch, classes=1000))
