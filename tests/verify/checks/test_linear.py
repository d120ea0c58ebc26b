"""Cotangents that are not linear in the incoming one."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule

QUICK = ("structure", "gradient")


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


@pytest.mark.parametrize(
    "change",
    [lambda dy: jnp.clip(dy, -1e4, 1e4), lambda dy: jnp.where(jnp.abs(dy) < 1e-5, 0, dy)],
)
def test_a_cotangent_cut_off_far_from_one_is_not_linear(change):
    cut = rule(jnp.sin, lambda kept, dy: (change(dy) * jnp.cos(kept[0]),))
    assert words(check_vjp(cut, normal(5), checks=(*QUICK, "linear"))) == {("x", "nonlinear")}
