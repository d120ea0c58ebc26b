"""The rule inside of a scan."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule

SCAN = ("scan",)


def test_a_right_rule_is_right_there_too():
    report = check_vjp(layer_rule(), *layer_arguments(), checks=SCAN)
    assert report.ok, str(report)
    assert report.checks[0].detail == "the gradient of scan over x"


@pytest.fixture
def there(monkeypatch):
    """Whether something is being traced under `scan`."""
    there = {"now": False}
    original = jax.lax.scan

    def marking():
        def marked(*args, **kwargs):
            there["now"] = True
            try:
                return original(*args, **kwargs)
            finally:
                there["now"] = False

        return marked

    monkeypatch.setattr(jax.lax, "scan", marking())
    return there


def test_a_rule_that_is_another_one_only_there(there):
    def fwd(x):
        return jnp.sin(x), jnp.cos(x) * (2 if there["now"] else 1)

    fn = rule(jnp.sin, lambda slope, dy: (dy * slope,), fwd)
    report = check_vjp(fn, normal(3), checks=("gradient", *SCAN))
    assert [(f.check, f.argument, f.diagnosis) for f in report.findings] == [("scan", "x", "scan")]
    assert report.findings[0].got == pytest.approx(2 * report.findings[0].expected)


def test_a_rule_that_raises_only_there(there):
    def fwd(x):
        if there["now"]:
            raise TypeError("not here")
        return jnp.sin(x), jnp.cos(x)

    fn = rule(jnp.sin, lambda slope, dy: (dy * slope,), fwd)
    (finding,) = check_vjp(fn, normal(3), checks=SCAN).findings
    assert finding.check == "scan"
    assert "raises TypeError: not here" in finding.message
