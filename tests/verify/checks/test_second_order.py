"""The rule differentiated again."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


def test_autodiff_that_contradicts_its_first_order_is_no_judge_of_the_second():
    def taken(x, i):
        return x[i]

    def bwd(residuals, dy):
        x, i = residuals
        return jnp.zeros_like(x).at[i].add(dy), None

    beyond = jnp.asarray([1, 5], "int32")
    report = check_vjp(rule(taken, bwd), normal(3), beyond, checks=("gradient", "second-order"))
    assert report.ok, str(report)
    assert any("out of bounds" in note for note in report.notes)
    detached = rule(taken, lambda kept, dy: bwd(kept, jax.lax.stop_gradient(dy)))
    report = check_vjp(detached, normal(3), beyond, checks=("gradient", "second-order"))
    assert words(report) == {("x", "second-order")}


def sine_with_twice_its_derivative():
    sine = jax.custom_jvp(jnp.sin)
    sine.defjvp(lambda p, t: (jnp.sin(p[0]), 2 * jnp.cos(p[0]) * t[0]))
    return sine


stopped = jax.lax.stop_gradient


@pytest.mark.parametrize(
    ("forward", "bwd", "right"),
    [
        (sine_with_twice_its_derivative(), lambda r, dy: (dy * jnp.cos(r[0]),), True),
        (sine_with_twice_its_derivative(), lambda r, dy: (dy * jnp.cos(stopped(r[0])),), False),
        (sine_with_twice_its_derivative(), lambda r, dy: (stopped(dy) * jnp.cos(r[0]),), False),
        (lambda x: x * stopped(x), lambda r, dy: (2 * dy * r[0],), True),
        (lambda x: x * stopped(x), lambda r, dy: (2 * dy * stopped(r[0]),), False),
    ],
)
def test_a_reference_that_is_wrong_already_is_no_judge_of_second_order(forward, bwd, right):
    checks = ("gradient", "second-order")
    report = check_vjp(rule(forward, bwd), jnp.arange(1.0, 4.0), checks=checks)
    assert words(report) == (set() if right else {("x", "second-order")})
    row = next(c for c in report.checks if c.name == "second-order")
    assert row.ok is right
    assert "the reference's first order is wrong already" in row.detail
