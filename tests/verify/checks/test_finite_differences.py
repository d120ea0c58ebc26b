"""Finite differences against what rule and reference agree on."""

import jax
import jax.numpy as jnp

from jaxbp.verify import check_vjp
from tests.verify.rules import layer, layer_arguments, normal


def test_without_a_rule_autodiff_is_on_trial():
    assert check_vjp(layer, *layer_arguments(), checks=("gradient",)).ok
    wrong = jax.custom_jvp(jnp.sin)
    wrong.defjvp(lambda primals, tangents: (jnp.sin(*primals), 2 * jnp.cos(*primals) * tangents[0]))
    report = check_vjp(wrong, normal(5), checks=("gradient",))
    assert [(f.diagnosis, f.side) for f in report.findings] == [("scale", "rule")]
