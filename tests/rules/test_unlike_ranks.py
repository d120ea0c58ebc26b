"""No rule counts on arrays of unlike rank being broadcast, which JAX can be told to refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.cases import CASES
from jaxbp.verify.cli import spec
from tests.transforms import differentiable, value_and_cotangents


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_gradient_and_second_order(case):
    rng = np.random.default_rng(0)
    args = [spec.draw(spec.parse(a), rng) if isinstance(a, str) else a for a in case.args]
    rule = functools.partial(case.function, **case.kwargs)

    def scalar(*args):
        value, cotangents = value_and_cotangents(rule, args)
        return sum(jnp.sum(jnp.sin(a)) for a in (value, *cotangents))

    with jax.numpy_rank_promotion("raise"):
        jax.make_jaxpr(jax.grad(scalar, argnums=differentiable(args)))(*args)
