"""The rule computed a second time."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule

REMAT = ("remat",)


def test_a_right_rule_is_right_there_too():
    report = check_vjp(layer_rule(), *layer_arguments(), checks=REMAT)
    assert report.ok, str(report)
    assert report.checks[0].detail == "jax.checkpoint"


@pytest.fixture
def there(monkeypatch):
    """Whether something is being traced under `remat`."""
    there = {"now": False}
    original = jax.checkpoint

    def marking():
        def marked(fn):
            def inside(*args):
                there["now"] = True
                try:
                    return original(fn)(*args)
                finally:
                    there["now"] = False

            return inside

        return marked

    monkeypatch.setattr(jax, "checkpoint", marking())
    return there


def test_a_rule_that_is_another_one_only_there(there):
    def fwd(x):
        return jnp.sin(x), jnp.cos(x) * (2 if there["now"] else 1)

    fn = rule(jnp.sin, lambda slope, dy: (dy * slope,), fwd)
    report = check_vjp(fn, normal(3), checks=("gradient", *REMAT))
    assert [(f.check, f.argument, f.diagnosis) for f in report.findings] == [
        ("remat", "x", "remat")
    ]
    assert report.findings[0].got == pytest.approx(2 * report.findings[0].expected)


def test_a_rule_that_raises_only_there(there):
    def fwd(x):
        if there["now"]:
            raise TypeError("not here")
        return jnp.sin(x), jnp.cos(x)

    fn = rule(jnp.sin, lambda slope, dy: (dy * slope,), fwd)
    (finding,) = check_vjp(fn, normal(3), checks=REMAT).findings
    assert finding.check == "remat"
    assert "raises TypeError: not here" in finding.message
