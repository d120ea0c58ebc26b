"""What the table chooses by itself, with a way for each platform in one program, transformed."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbp
from jaxbp.lowering import choice
from jaxbp.window import make_window
from tests.daily import sample
from tests.transforms import TRANSFORMS

TRANSFORMED = ("plain", "vmap", "scan", "checkpoint", "shard_map")
# By the strategies of forward, kernel gradient and input gradient: N, S, C, kernel, O, stride,
# groups.
CASES = {
    ("folds", "folds", "folds"): (4, (6, 6), 1, 3, 6, 1, 1),
    ("winograd", "winograd", "winograd"): (8, (8, 8), 128, 3, 128, 1, 1),
    ("columns", "xla", "columns"): (2, (4, 4), 32, 3, 32, 2, 1),
    ("xla", "columns", "phases"): (16, (24, 24), 16, 3, 64, 2, 1),
    ("xla", "xla", "strides"): (16, (24, 24), 16, 4, 64, 2, 1),
    ("xla", "strides", "strides"): (2, (8, 8), 3, 4, 24, 4, 1),
    ("xla", "planes", "xla"): (4, (48, 48), 16, 3, 32, 1, 1),
    ("planes", "planes", "planes"): (2, (4, 5, 4), 8, 3, 4, 1, 1),
    ("pointwise", "pointwise", "pointwise"): (2, (5, 5), 96, 1, 4, 2, 1),
    ("xla", "pointwise", "pointwise"): (2, (5, 5), 3, 1, 4, 2, 1),
    ("shifts", "shifts", "shifts"): (2, (6, 6), 8, 3, 8, 2, 8),
    ("merged", "merged", "merged"): (2, (5, 5), 16, 3, 16, 1, 2),
    ("shifts", "shifts", "merged"): (2, (5, 5), 2, 3, 12, 1, 2),
}


@pytest.mark.parametrize(
    ("names", "transform"), sample(itertools.product(CASES, TRANSFORMED), every=2), ids=repr
)
def test_transformed(names, transform, rng):
    n, spatial, c, k, o, stride, groups = CASES[names]
    size = (k,) * len(spatial)
    window = make_window("test", spatial, size, stride=stride, padding="SAME", dilation=1)
    x = jnp.asarray(rng.standard_normal((n, *spatial, c)), jnp.float32)
    w = jnp.asarray(
        rng.standard_normal((*size, c // groups, o)) / np.sqrt(window.cells * c), jnp.float32
    )
    dy = jnp.zeros((n, *window.output(spatial), o), jnp.float32)
    for operation, operands, static, name in zip(
        ("conv", "conv_kernel_grad", "conv_input_grad"),
        ((x, w), (x, dy), (dy, w)),
        ((window, groups), (window, groups), (x.shape, window, groups)),
        names,
        strict=True,
    ):
        assert choice.choose(operation, *operands, *static)[0].name == name, operation

    def rule(x, w):
        return jaxbp.conv(x, w, stride=stride, groups=groups)

    def plain(x, w):
        axes = "DHW"[-len(spatial) :]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        return lax.conv_general_dilated(
            x, w, window.stride, "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    terms = 4 * max(window.cells * max(c, o), dy.size // o)
    TRANSFORMS[transform](rule, plain, (x, w), terms=terms)
