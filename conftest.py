"""Doctests show what JAX prints by default, in the float64 leg of the tests as well."""

import pytest


@pytest.fixture(autouse=True)
def _float32_in_examples(request):
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    import jax  # not before tests/conftest.py has told JAX its devices

    with jax.enable_x64(False):
        yield
