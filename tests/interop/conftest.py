"""Frameworks mix dtypes; the tests of what stands on them let them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield
