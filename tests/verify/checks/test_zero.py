"""A zero cotangent in, and something out."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


@pytest.mark.parametrize("added", [0.0, 0.5])
def test_something_is_added_to_the_cotangent(added):
    fn = rule(jnp.sin, lambda kept, dy: (dy * jnp.cos(kept[0]) + added,))
    report = check_vjp(fn, normal(3), checks=("structure",))
    assert report.ok == (added == 0)
    if added:
        (finding,) = report.findings
        assert (finding.check, finding.diagnosis) == ("zero", "nonlinear")
        assert (finding.got, finding.expected) == (0.5, 0.0)
