"""The function's value against an explicit reference's."""

import jax.numpy as jnp

from jaxbp.verify import check_vjp
from tests.verify.rules import normal

QUICK = ("structure", "gradient")


def test_a_reference_with_another_value_is_the_forward_s_fault():
    report = check_vjp(jnp.sin, normal(4), reference=jnp.tanh, checks=QUICK)
    assert [(f.diagnosis, f.side) for f in report.findings] == [("value", "forward")]
