"""A traced program: what is in it."""

import jax
import jax.numpy as jnp

from jaxbp.verify.subject import programs
from tests.verify.rules import normal, rule

wrong_sine = rule(lambda x: jnp.sin(x), lambda res, dy: (7 * dy,))


def test_rules_and_narrow_dtypes_are_seen():
    program = jax.make_jaxpr(jax.jit(wrong_sine))(normal(3))
    assert programs.has_rule(program)
    assert not programs.has_rule(jax.make_jaxpr(jnp.sin)(normal(3)))
    narrow = jax.make_jaxpr(lambda x: x.astype("bfloat16") * 2)(normal(3))
    assert programs.coarsest_eps(narrow) == float(jnp.finfo("bfloat16").eps)


def test_stopped_gradients_are_seen():
    assert programs.stops_gradients(jax.make_jaxpr(jax.lax.stop_gradient)(normal(3)))
    assert not programs.stops_gradients(jax.make_jaxpr(jnp.sin)(normal(3)))
