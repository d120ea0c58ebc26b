"""The one table of what primitives are."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbp.verify.subject import primitives


@pytest.mark.parametrize(
    "name",
    sorted(
        primitives.UNARY
        | primitives.PRODUCTS
        | primitives.CHOICES
        | primitives.SUMS
        | primitives.CONTRACTIONS
        | primitives.TO_INTEGERS
    ),
)
def test_every_name_is_one_of_jax(name):
    assert getattr(lax, f"{name}_p").name == name


@pytest.mark.parametrize("f", [jnp.arccos, jnp.arctan, jnp.sinh, jnp.cbrt, jnp.arctan2])
def test_what_is_smooth_is_rounded_and_may_be_left_out(f):
    args = [jnp.float32(0.5)] * (2 if f is jnp.arctan2 else 1)
    program = jax.make_jaxpr(f)(*args)
    names = {eqn.primitive.name for eqn in _inner(program)}
    assert names & primitives.LEAVABLE & primitives.ROUNDED


def _inner(program):
    for eqn in program.jaxpr.eqns:
        inner = eqn.params.get("jaxpr")
        yield from [eqn] if inner is None else _inner(inner)


def test_kinds_do_not_overlap():
    kinds = (
        primitives.SMOOTH,
        primitives.PRODUCTS,
        primitives.CHOICES,
        primitives.SUMS,
        primitives.CONTRACTIONS,
        primitives.ACCUMULATIONS,
        primitives.LOOPS,
    )
    assert sum(map(len, kinds)) == len(set().union(*kinds))
