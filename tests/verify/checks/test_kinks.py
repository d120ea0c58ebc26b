"""Ties and corners among the given arguments."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import rule

KINKS = ("kinks",)
AT_THE_CORNER = jnp.array([-1.0, 0.0, 2.0])


def relu(x):
    return jnp.maximum(x, 0)


def relu_rule(slope_at_zero):
    def bwd(kept, dy):
        slope = jnp.where(kept[0] > 0, 1.0, 0.0)
        return (dy * jnp.where(kept[0] == 0, slope_at_zero, slope),)

    return rule(relu, bwd)


@pytest.mark.parametrize(
    ("slope", "right"), [(0.0, True), (0.3, True), (1.0, True), (-0.2, False), (1.5, False)]
)
def test_any_slope_between_the_one_sided_ones_is_right(slope, right):
    report = check_vjp(relu_rule(slope), AT_THE_CORNER, checks=KINKS)
    assert report.ok == right, str(report)
    if not right:
        (finding,) = report.findings
        assert (finding.check, finding.diagnosis, finding.index) == ("kinks", "ties", (1,))


@pytest.mark.parametrize(("slope", "right"), [(0.0, True), (1.0, False)])
def test_an_explicit_reference_binds(slope, right):
    report = check_vjp(relu_rule(slope), AT_THE_CORNER, reference=jax.nn.relu, checks=KINKS)
    assert report.ok == right, str(report)
    if not right:
        assert "an explicit reference binds there" in report.findings[0].message


@pytest.mark.parametrize(("share", "right"), [(1.0, False), (0.5, True)])
def test_slopes_at_a_tie_must_add_up(share, right):
    """Two equal maxima: each may get the whole gradient, but not both of them."""

    def bwd(kept, dy):
        return (dy * jnp.where(kept[0] == jnp.max(kept[0]), share, 0.0),)

    report = check_vjp(rule(lambda x: jnp.max(x), bwd), jnp.array([1.0, 3.0, 3.0]), checks=KINKS)
    assert report.ok == right, str(report)
    if not right:
        assert "not all of them together" in report.findings[0].message


def test_where_there_is_none_it_is_said():
    report = check_vjp(relu_rule(0.0), jnp.array([-1.0, 2.0]), checks=KINKS)
    assert report.checks[0].detail == "none met at the given arguments"


def test_complex_arguments_have_no_one_sided_slopes():
    report = check_vjp(lambda z: jnp.abs(z), jnp.array([1 + 1j]), checks=KINKS)
    assert report.checks[0].ok is None
