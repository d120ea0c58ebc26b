"""DCGAN's generator and discriminator in Flax NNX, each with the step that trains it."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from others.case import Case, drawn, images

NOISE = 100


class Generator(nnx.Module):
    """Noise to images: transposed convolutions of 4×4, each with batch norm and relu."""

    def __init__(self, width: int, levels: int, *, rngs: nnx.Rngs) -> None:
        channels = [NOISE, *(width << level for level in reversed(range(levels)))]
        self.ups = nnx.List()
        self.norms = nnx.List()
        for i, features in enumerate(channels[1:]):
            strides, padding = ((2, 2), "SAME") if i else ((1, 1), "VALID")
            self.ups.append(
                nnx.ConvTranspose(
                    channels[i],
                    features,
                    (4, 4),
                    strides,
                    padding=padding,
                    use_bias=False,
                    rngs=rngs,
                )
            )
            self.norms.append(nnx.BatchNorm(features, rngs=rngs))
        self.last = nnx.ConvTranspose(width, 3, (4, 4), (2, 2), use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the images of a batch of noise."""
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = nnx.relu(norm(up(x)))
        return jnp.tanh(self.last(x))


class Discriminator(nnx.Module):
    """Images to one logit: convolutions of 4×4 and stride 2 with batch norm and leaky relu."""

    def __init__(self, width: int, levels: int, *, rngs: nnx.Rngs) -> None:
        channels = [width << level for level in range(levels)]
        self.first = nnx.Conv(3, width, (4, 4), (2, 2), use_bias=False, rngs=rngs)
        self.downs = nnx.List()
        self.norms = nnx.List()
        for before, features in itertools.pairwise(channels):
            self.downs.append(nnx.Conv(before, features, (4, 4), (2, 2), use_bias=False, rngs=rngs))
            self.norms.append(nnx.BatchNorm(features, rngs=rngs))
        self.last = nnx.Conv(channels[-1], 1, (4, 4), padding="VALID", use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of a batch of images."""
        x = nnx.leaky_relu(self.first(x), 0.2)
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = nnx.leaky_relu(norm(down(x)), 0.2)
        return self.last(x).reshape(-1)


class Pair(nnx.Module):
    """Both: the generator is trained to pass the discriminator."""

    def __init__(self, width: int, levels: int, *, rngs: nnx.Rngs) -> None:
        self.generator = Generator(width, levels, rngs=rngs)
        self.discriminator = Discriminator(width, levels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what the discriminator makes of the images of a batch of noise."""
        return self.discriminator(self.generator(x))


def generator(batch: int, width: int, levels: int = 4) -> Case:
    """The generator's step: its images are to pass for real; the discriminator stands still."""
    trained = nnx.All(nnx.Param, nnx.PathContains("generator"))
    model = nnx.eval_shape(lambda: Pair(width, levels, rngs=nnx.Rngs(0)))
    return _case(model, trained, images(batch, 1, 1, NOISE), np.ones(batch, np.float32))


def discriminator(batch: int, width: int, levels: int = 4) -> Case:
    """The discriminator's step: half the batch is real."""
    size = 4 << levels
    real = (np.arange(batch) % 2).astype(np.float32)
    model = nnx.eval_shape(lambda: Discriminator(width, levels, rngs=nnx.Rngs(0)))
    return _case(model, nnx.Param, images(batch, size, size, 3), real)


def _case(model: nnx.Module, trained: Any, x: Any, real: Any) -> Case:
    graph, params, rest = nnx.split(model, trained, ...)
    params, rest = drawn((params, rest))

    def loss(params: Any, rest: Any, x: jax.Array, real: jax.Array) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graph, params, rest, copy=True)
        logits = model(x)
        value = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, real.astype(logits.dtype)))
        return value, nnx.split(model, trained, ...)[2]

    return Case(loss, params, rest, x, real)
