"""A framework's layer, as it is and through `accelerate`."""

import jax
import jax.numpy as jnp

from jaxbp.accelerate import accelerate
from tests.tolerance import assert_trees_close


def assert_same(apply, params, x, terms=2000):
    """Value and gradients alike, with gradients taken by the rules and taken before them."""

    def both(function):
        def value_and_gradients(params, x):
            y, back = jax.vjp(function, params, x)
            return y, back(jnp.cos(y))

        return value_and_gradients

    ways = both(apply), both(accelerate(apply)), accelerate(both(apply))
    right, *ours = jax.jit(lambda *args: [way(*args) for way in ways])(params, x)
    for result in ours:
        assert_trees_close(jax.tree.leaves(result), jax.tree.leaves(right), terms=terms)
