"""Fully connected layers against literal sums, autodiff and every transformation."""

import jax.numpy as jnp
import pytest

import jaxbp
from tests.tolerance import summed_in
from tests.transforms import TRANSFORMS


def plain(x, w, b):
    wide = summed_in(x.dtype)
    return (jnp.matmul(x, w, preferred_element_type=wide)).astype(x.dtype) + b


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform, rng):
    dtype = jnp.result_type(float)
    x, w, b = (jnp.asarray(rng.standard_normal(s), dtype) for s in [(3, 4), (4, 2), (2,)])
    TRANSFORMS[transform](jaxbp.dense, plain, (x, w, b), terms=8)
