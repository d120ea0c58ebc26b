"""The input's gradient of a strided convolution, one phase of the stride at a time.

The places k of the input with the same k mod s meet the same cells of the kernel, those with
d·m = k + p mod s. So each of these phases is a convolution of dy, without stride, with its part of
the kernel; dilating dy with zeros, and multiplying them, is what this saves.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.arguments import Shape, vary_alike
from jaxbp.lowering.choice import Row, is_float32
from jaxbp.lowering.convolution import xla
from jaxbp.lowering.slices import UNROLLED
from jaxbp.window import Window


def can(dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int) -> bool:
    """A stride, and in every axis either no dilation or no stride."""
    return max(window.stride) > 1 and all(
        s == 1 or d == 1 for s, d in zip(window.stride, window.dilation, strict=True)
    )


def conv_input_grad(
    dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int
) -> jax.Array:
    """dx[N, *S, C], the sum (3.7)."""
    n, *spatial, c = input_shape
    axes = len(spatial)
    # The input with its padding before it, in blocks of the stride: place p + k = s·q + phase.
    blocks = tuple(
        max(0, -(-(k + low) // s))
        for k, low, s in zip(spatial, window.low, window.stride, strict=True)
    )
    parts = []
    for phase in itertools.product(*map(range, window.stride)):
        cells = tuple(
            slice(r, None, s) if d == 1 else slice(None)
            for r, s, d in zip(phase, window.stride, window.dilation, strict=True)
        )
        part = w[cells]
        own = Window(part.shape[:axes], (1,) * axes, ((0, 0),) * axes, window.dilation)
        shape = (n, *blocks, c)
        if 0 in own.size:
            parts.append(vary_alike(jnp.zeros(shape, dy.dtype), dy, w)[0])
            continue
        # dy as the output of a convolution over the blocks, one window a block at most.
        high = tuple(
            m + span - 1 - q for m, span, q in zip(dy.shape[1:-1], own.span, blocks, strict=True)
        )
        own = own._replace(padding=tuple((0, h) for h in high))
        parts.append(xla.conv_input_grad(dy, part, shape, own, groups))
    # [phases, N, q, C] -> [N, q, s, …, C]: phases back in their blocks.
    full = jnp.stack(parts).reshape(*window.stride, n, *blocks, c)
    order = [axes, *itertools.chain(*((axes + 1 + i, i) for i in range(axes))), 2 * axes + 1]
    full = full.transpose(order).reshape(
        n, *(q * s for q, s in zip(blocks, window.stride, strict=True)), c
    )
    config = [
        (-low, k + low - q * s, 0)
        for k, low, q, s in zip(spatial, window.low, blocks, window.stride, strict=True)
    ]
    return lax.pad(full, np.zeros((), full.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _wins(dy: jax.Array, w: jax.Array, input_shape: Shape, window: Window, groups: int) -> bool:
    # Below some channels each phase's product is too narrow.
    return is_float32(dy, w) and window.cells <= UNROLLED and w.shape[-2] >= 16


ROWS = {"conv_input_grad": Row("phases", conv_input_grad, can, _wins)}
