"""Cotangents that are no numbers where they must be."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


def interpolation_bwd(residuals, dy):
    x, knots, heights = residuals
    i = jnp.clip(jnp.searchsorted(knots, x, side="right"), 1, len(knots) - 1)
    share = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
    slope = (heights[i] - heights[i - 1]) / (knots[i] - knots[i - 1])
    inside = jnp.where((x > knots[0]) & (x < knots[-1]), dy, 0)
    dheights = jnp.zeros_like(heights).at[i - 1].add(inside * (1 - share)).at[i].add(inside * share)
    dheights = dheights.at[0].add(jnp.sum(jnp.where(x <= knots[0], dy, 0)))
    dheights = dheights.at[-1].add(jnp.sum(jnp.where(x >= knots[-1], dy, 0)))
    dknots = jnp.zeros_like(knots).at[i - 1].add(inside * slope * (share - 1))
    return inside * slope, dknots.at[i].add(-inside * slope * share), dheights


@pytest.mark.parametrize("seed", [1, 7, 10, 15])
def test_a_rule_that_relies_on_sorted_knots_is_not_asked_about_equal_ones(seed):
    x = jnp.array([-1.5, 0.3, 0.7, 0.9, 1.4, 5.0])
    knots = jnp.array([0.0, 1.0, 2.5, 3.0, 4.0])
    fn = rule(lambda x, knots, heights: jnp.interp(x, knots, heights), interpolation_bwd)
    report = check_vjp(fn, x, knots, normal(5), seed=seed, checks=("nan",))
    assert report.ok, str(report)
