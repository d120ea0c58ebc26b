"""Flax: linen's MNIST network, a U-Net, depthwise separable convolutions, and an NNX ResNet."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from others import linen
from others.case import Case, images, labels, mean_cross_entropy


class MnistCNN(nn.Module):
    """The network of Flax's MNIST example."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        for features in (32, 64):
            x = nn.Conv(features, kernel_size=(3, 3))(x)
            x = nn.relu(x)
            x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(10)(x)


class UNet(nn.Module):
    """Two levels down by max-pool, two up by transposed convolution, with skips."""

    width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return two logits a pixel."""

        def twice(x: jax.Array, features: int) -> jax.Array:
            for _ in range(2):
                x = nn.relu(nn.Conv(features, (3, 3))(x))
            return x

        skips = []
        for level in range(2):
            x = twice(x, self.width << level)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = twice(x, self.width << 2)
        for level in (1, 0):
            x = nn.ConvTranspose(self.width << level, (2, 2), strides=(2, 2))(x)
            x = twice(jnp.concatenate([skips[level], x], axis=-1), self.width << level)
        return nn.Conv(2, (1, 1))(x)


class Separable(nn.Module):
    """Depthwise 3×3, pointwise 1×1, in blocks, as in MobileNet."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nn.relu6(nn.Conv(16, (3, 3), strides=(2, 2))(x))
        for features, stride in ((32, 1), (64, 2), (64, 1), (128, 2)):
            channels = x.shape[-1]
            x = nn.Conv(channels, (3, 3), strides=(stride, stride), feature_group_count=channels)(x)
            x = nn.relu6(nn.GroupNorm(num_groups=8)(x))
            x = nn.relu6(nn.GroupNorm(num_groups=8)(nn.Conv(features, (1, 1))(x)))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """Two 3×3 convolutions with batch norm and a shortcut."""

    def __init__(self, channels: int, features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        strides = (stride, stride)
        self.conv1 = nnx.Conv(
            channels, features, (3, 3), strides=strides, use_bias=False, rngs=rngs
        )
        self.norm1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(features, rngs=rngs)
        self.shortcut = (
            nnx.Conv(channels, features, (1, 1), strides=strides, use_bias=False, rngs=rngs)
            if stride != 1 or channels != features
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """A small residual network for 32×32 images."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(channels, features, stride, rngs=rngs)
                for channels, features, stride in (
                    (16, 16, 1),
                    (16, 32, 2),
                    (32, 32, 1),
                    (32, 64, 2),
                    (64, 64, 1),
                )
            ]
        )
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch."""
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def mnist(batch: int = 128) -> Case:
    """Flax's MNIST example, its batch of 128."""
    return linen.case(MnistCNN(), images(batch, 28, 28, 1), labels(batch))


def unet(batch: int = 8, size: int = 64) -> Case:
    """A U-Net, with a label a pixel."""
    return linen.case(UNet(), images(batch, size, size, 1), labels(batch, size, size, classes=2))


def separable(batch: int = 32, size: int = 48) -> Case:
    """A depthwise separable network."""
    return linen.case(Separable(), images(batch, size, size, 3), labels(batch))


def resnet(batch: int = 32, size: int = 32) -> Case:
    """An NNX residual network with batch norm; its running averages are the state."""
    graph, params, rest = nnx.split(ResNet(rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(params: Any, rest: Any, x: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graph, params, rest, copy=True)
        value = mean_cross_entropy(model(x), targets)
        return value, nnx.split(model, nnx.Param, ...)[2]

    return Case(loss, params, rest, images(batch, size, size, 3), labels(batch))
