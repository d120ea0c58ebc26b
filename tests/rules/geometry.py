"""Windows worth trying: one place for the cases that convolution and pooling share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.oracles import Index, Pairs, same_padding


class Case(NamedTuple):
    """One geometry: spatial shape of the input, window, and the options as a user writes them."""

    spatial: Index
    size: Index
    stride: Any = 1
    padding: Any = "VALID"
    dilation: Any = 1

    @property
    def strides(self) -> Index:
        """The stride of each axis."""
        return _each(self.stride, self.size)

    @property
    def dilations(self) -> Index:
        """The dilation of each axis."""
        return _each(self.dilation, self.size)

    @property
    def pairs(self) -> Pairs:
        """The padding of each axis."""
        if self.padding == "SAME":
            return same_padding(self.spatial, self.size, self.strides, self.dilations)
        if self.padding == "VALID":
            return ((0, 0),) * len(self.size)
        if isinstance(self.padding, int):
            return ((self.padding, self.padding),) * len(self.size)
        return tuple(self.padding)


def _each(value: Any, size: Index) -> Index:
    return (value,) * len(size) if isinstance(value, int) else tuple(value)


# Every case has a name, so that a failure says which.
CASES = {
    "1d": Case((6,), (3,)),
    "1d stride and remainder": Case((7,), (2,), stride=3),
    "1d dilation": Case((8,), (3,), stride=2, padding="SAME", dilation=2),
    "2d": Case((4, 5), (2, 3)),
    "2d same": Case((4, 5), (3, 2), padding="SAME"),
    "2d same stride": Case((5, 6), (3, 3), stride=2, padding="SAME"),
    "2d strides differ": Case((5, 7), (2, 2), stride=(1, 3), padding=1),
    "2d stride larger than window": Case((6, 7), (1, 2), stride=(3, 4)),
    "2d dilations differ": Case((6, 5), (2, 2), padding=((1, 2), (0, 1)), dilation=(3, 1)),
    "2d one-sided padding": Case((3, 4), (2, 2), padding=((0, 1), (2, 0)), stride=2),
    "2d crop": Case((6, 6), (2, 2), padding=((-1, -2), (-1, 0)), stride=2),
    "2d crop and pad": Case((5, 4), (2, 2), padding=((-2, 1), (1, -1))),
    "2d window larger than input": Case((2, 3), (3, 3), padding=((0, 0), (1, 0))),
    "2d whole windows in the padding": Case((2, 2), (2, 2), stride=2, padding=2),
    "1x1": Case((3, 3), (1, 1)),
    "1x1 stride": Case((4, 3), (1, 1), stride=2),
    "3d": Case((3, 2, 4), (2, 1, 3), stride=(1, 2, 1), padding="SAME"),
}


def default_dtype() -> Any:
    """The leg's dtype: float32, or float64 under JAX_ENABLE_X64."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def numbers(rng: np.random.Generator, shape: Index, dtype: Any = None) -> jax.Array:
    """Random numbers of the leg's dtype."""
    return jnp.asarray(rng.standard_normal(shape), dtype or default_dtype())


def small_integers(rng: np.random.Generator, shape: Index) -> jax.Array:
    """Random integers as floats: their sums of products are exact, in any order."""
    return jnp.asarray(rng.integers(-4, 5, shape), default_dtype())


@st.composite
def windows(draw: Any, *, dilated: bool = True) -> Case:
    """Any window on one or two axes, also ones that crop, overhang or fit nowhere."""
    axes = draw(st.sampled_from([1, 1, 2]))

    def each(low: int, high: int) -> Index:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    spatial, size, stride = each(1, 6), each(1, 3), each(1, 3)
    dilation = each(1, 2) if dilated else (1,) * axes
    padding: Any = draw(st.sampled_from(["SAME", "VALID", "pairs"]))
    if padding == "pairs":
        padding = tuple(
            (draw(st.integers(-1, 2)), draw(st.integers(0 if n == 1 else -1, 2))) for n in spatial
        )
        padding = tuple(
            (max(low, -n - min(high, 0)), high)
            for (low, high), n in zip(padding, spatial, strict=True)
        )
    return Case(spatial, size, stride, padding, dilation)
