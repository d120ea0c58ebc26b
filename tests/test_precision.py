"""The precision of products: what a rule is called in, in its backward pass too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbp
from tests.transforms import precisions

HIGHEST = (lax.Precision.HIGHEST,) * 2
X, W = np.ones((2, 6, 6, 3), np.float32), np.ones((3, 3, 3, 4), np.float32)

RULES = {
    "dense": (jaxbp.dense, np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)),
    "conv": (jaxbp.conv, X, W),
    "conv_transpose": (jaxbp.conv_transpose, X, np.ones((3, 3, 4, 3), np.float32)),
    "conv_relu_max_pool": (jaxbp.conv_relu_max_pool, X, W),
    "combine_maps": (jaxbp.combine_maps, X, np.ones((3, 4), np.float32)),
}


def asked(rule, *args, called, differentiated):
    """What a rule's products ask for, called in one precision and differentiated in another."""

    @jax.jit
    def forward(*args):
        with jax.default_matmul_precision(called):
            return rule(*args)

    def both(*args):
        with jax.default_matmul_precision(differentiated):
            y, pullback = jax.vjp(forward, *args)
            return y, pullback(jnp.ones_like(y))

    return precisions(both, *args)


@pytest.mark.parametrize("name", RULES)
def test_backward_keeps_the_calls(name):
    wanted = asked(*RULES[name], called="highest", differentiated=None)
    assert len(wanted) > 2
    assert set(wanted) == {HIGHEST}


@pytest.mark.parametrize("name", RULES)
def test_backward_does_not_take_anothers(name):
    assert set(asked(*RULES[name], called=None, differentiated="highest")) == {None}


@pytest.mark.parametrize("name", RULES)
def test_no_precision_is_jaxs_own(name):
    assert set(asked(*RULES[name], called=None, differentiated=None)) == {None}
