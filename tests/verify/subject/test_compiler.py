"""Builds of JAX that compute wrongly are warned of."""

import jax
import jax.numpy as jnp

from jaxbp.verify import check_vjp
from jaxbp.verify.subject import compiler
from tests.verify.rules import normal


def test_this_build_of_jax_computes_right():
    assert compiler.warnings() == ()


def convolved(padding, strides=(1, 1)):
    x, w = jnp.ones((2, 5, 4, 2), "float32"), jnp.ones((2, 2, 2, 3), "float32")
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.make_jaxpr(
        lambda x: jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout)
    )(x)


def test_a_convolution_that_a_build_gets_wrong_is_warned_of_where_there_is_one(monkeypatch):
    cropping = convolved(((-2, 1), (0, 0)))
    assert compiler.crops_and_pads(cropping)
    for padding in (((0, 1), (0, 0)), ((-2, 1), (1, 1)), ((-2, -1), (0, 0)), ((1, -2), (0, 0))):
        assert not compiler.crops_and_pads(convolved(padding))
    right = jax.__version_info__ >= (0, 12) or jax.default_backend() != "cpu"
    assert len(compiler.warnings([cropping])) == (0 if right else 1)
    monkeypatch.setattr(compiler, "_reads_beyond_a_crop", lambda: True)
    assert "crops an axis" in compiler.warnings([cropping])[0]
    assert compiler.warnings([convolved(((0, 1), (0, 0)))]) == ()


def test_the_report_has_the_warning(monkeypatch):
    monkeypatch.setattr(compiler, "_reads_beyond_a_crop", lambda: True)
    layout = ("NHWC", "HWIO", "NHWC")

    def cropped(x, w):
        padding = ((-2, 1), (0, 0))
        return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=layout)

    x, w = normal(1, 4, 3, 1), normal(2, 2, 1, 1)
    assert len(check_vjp(cropped, x, w, checks=("structure",)).warnings) == 1
    assert not check_vjp(jnp.sin, x, checks=("structure",)).warnings
