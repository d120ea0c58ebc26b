"""A function without its rules, wherever in it they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.subject.without_rules import without_rules
from tests.verify.rules import normal, rule

wrong_sine = rule(lambda x: jnp.sin(x), lambda res, dy: (7 * dy,))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: f,
        jax.jit,
        jax.checkpoint,
        jax.vmap,
        lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 2)[0],
        lambda f: lambda x: jax.lax.cond(x.sum() > -99.0, f, lambda x: x, x),
        lambda f: rule(lambda x: f(x), lambda res, dy: (5 * dy,)),
    ],
)
def test_the_derivative_is_the_primal_s_own(wrap):
    x = normal(4)
    plain = without_rules(lambda leaves, others: [wrap(wrong_sine)(leaves[0])])
    right = lambda leaves: wrap(jnp.sin)(leaves[0])  # noqa: E731
    if isinstance(wrap(jnp.sin), jax.custom_vjp):
        right = lambda leaves: jnp.sin(leaves[0])  # noqa: E731
    expected = jax.grad(lambda x: right([x]).sum())(x)
    found = jax.grad(lambda x: plain([x], [])[0].sum())(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
