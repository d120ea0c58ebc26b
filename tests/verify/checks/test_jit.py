"""Rules that are others when they are compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule

STRUCTURE = ("structure",)


def test_a_cotangent_that_differs_under_jit():
    def bwd(kept, dy):
        return ((2.0 if isinstance(kept[0], jax.core.Tracer) else 1.0) * dy * jnp.cos(kept[0]),)

    report = check_vjp(rule(jnp.sin, bwd), normal(3), checks=STRUCTURE)
    assert [(f.check, f.argument, f.diagnosis) for f in report.findings] == [("jit", "x", "jit")]
    (finding,) = report.findings
    assert finding.got == 2 * finding.expected


def test_a_rule_that_cannot_be_traced():
    def bwd(kept, dy):
        return (dy * jnp.asarray(np.cos(np.asarray(kept[0]))),)

    report = check_vjp(rule(jnp.sin, bwd), normal(3), checks=STRUCTURE)
    (finding,) = report.findings
    assert (finding.check, finding.argument) == ("jit", None)
    assert "under jit the rule raises TracerArrayConversionError" in finding.message


def test_a_right_rule_is_the_same():
    report = check_vjp(jnp.sin, normal(3), checks=STRUCTURE)
    assert next(row for row in report.checks if row.name == "jit").detail == "as the plain call"
