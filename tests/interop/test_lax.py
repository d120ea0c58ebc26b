"""`interop.lax`: lax's signature, lax's numbers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.interop.lax import conv_general_dilated
from tests.tolerance import assert_close


def test_signature():
    ours, theirs = (inspect.signature(f) for f in (conv_general_dilated, lax.conv_general_dilated))
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.default, p.kind) for p in theirs.parameters.values()
    ]


def test_numbers(rng):
    x, w = (jnp.asarray(rng.normal(size=s), float) for s in [(2, 3, 7, 6), (4, 3, 3, 2)])
    options = ((2, 1), [(1, 0), (0, 2)])

    def loss(convolve, x, w):
        return jnp.sum(convolve(x, w, *options, rhs_dilation=(1, 2)) ** 2)

    ours, theirs = (
        jax.grad(lambda *a, f=f: loss(f, *a), argnums=(0, 1))(x, w)
        for f in (conv_general_dilated, lax.conv_general_dilated)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, terms=300)
    text = str(jax.make_jaxpr(lambda x, w: conv_general_dilated(x, w, *options))(x, w))
    assert "jaxbp_conv" in text


def test_what_no_rule_keeps_is_lax_s_own():
    x, w = jnp.ones((1, 1, 4, 4), jnp.complex64), jnp.ones((1, 1, 2, 2), jnp.complex64)
    np.testing.assert_array_equal(
        conv_general_dilated(x, w, (1, 1), "VALID"), lax.conv_general_dilated(x, w, (1, 1), "VALID")
    )
