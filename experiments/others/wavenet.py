"""WaveNet in Equinox: causal convolutions of two taps, each dilated twice as far as the last."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from others.case import Case, images, labels
from others.with_equinox import case


class Layer(eqx.Module):
    """A gated dilated convolution, a 1×1 to the next layer and a 1×1 to the output."""

    dilated: eqx.nn.Conv1d
    residual: eqx.nn.Conv1d
    skip: eqx.nn.Conv1d

    def __init__(self, width: int, skip: int, dilation: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.dilated = eqx.nn.Conv1d(
            width, 2 * width, 2, padding=((dilation, 0),), dilation=dilation, key=keys[0]
        )
        self.residual = eqx.nn.Conv1d(width, width, 1, key=keys[1])
        self.skip = eqx.nn.Conv1d(width, skip, 1, key=keys[2])

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return what goes to the next layer and to the output."""
        filtered, gate = jnp.split(self.dilated(x), 2)
        y = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(eqx.Module):
    """Logits of the next sample's value at each sample of a waveform."""

    first: eqx.nn.Conv1d
    layers: list[Layer]
    hidden: eqx.nn.Conv1d
    last: eqx.nn.Conv1d

    def __init__(self, width: int, depth: int, classes: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, depth + 3)
        self.first = eqx.nn.Conv1d(1, width, 2, padding=((1, 0),), key=keys[0])
        self.layers = [
            Layer(width, 2 * width, 1 << i, key=k) for i, k in enumerate(keys[1 : depth + 1])
        ]
        self.hidden = eqx.nn.Conv1d(2 * width, classes, 1, key=keys[-2])
        self.last = eqx.nn.Conv1d(classes, classes, 1, key=keys[-1])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits, one row a sample, of one waveform."""
        x = self.first(x)
        total = jnp.zeros(())
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        y = self.hidden(jax.nn.relu(total))
        return self.last(jax.nn.relu(y)).T


def wavenet(batch: int, length: int, width: int = 32, depth: int = 10, classes: int = 256) -> Case:
    """WaveNet's one stack of ten layers."""
    model = WaveNet(width, depth, classes, key=jax.random.key(0))
    return case(model, images(batch, 1, length), labels(batch, length, classes=classes))
