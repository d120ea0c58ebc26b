"""What rounding explains: a small disagreement of right rules, and none of wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import check_vjp
from jaxbp.verify.compare import rounding
from tests.verify.rules import normal, rule

N = np.arange(6)
TABLE = np.cos(np.pi / 6 * N[:, None] * (N + 0.5))


def transform(x):
    return x @ jnp.asarray(TABLE.astype("float32"), x.dtype).T


def transform_rule(change=lambda dx: dx):
    return rule(transform, lambda _, dy: (change(dy @ jnp.asarray(TABLE, dy.dtype)),))


def moved(f, x, constants=False):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        return rounding.moved(lambda x: [f(x)], (np.asarray(x),), rng, constants)


def test_a_table_in_float32_beside_the_same_in_float64_is_noted_and_no_error():
    report = check_vjp(transform_rule(), normal(3, 6), checks=("gradient", "second-order"))
    assert report.ok, str(report)
    assert any("constants" in note for note in report.notes)
    assert 1e-9 < report.powers[0].smallest_scale < 1e-6


@pytest.mark.parametrize(
    "change", [lambda dx: dx * (1 + 1e-6), lambda dx: dx.at[0, 0].multiply(1 + 2e-6)]
)
def test_an_error_beyond_the_table_s_rounding_is_found(change):
    report = check_vjp(transform_rule(change), normal(3, 6), checks=("gradient",))
    assert not report.ok


def test_two_tables_are_no_excuse_in_float64():
    with jax.enable_x64(True):
        x = normal(3, 6, dtype="float64")
        assert not check_vjp(transform_rule(), x, checks=("gradient",)).ok


def test_a_reference_with_a_finer_table_has_the_same_value():
    own = rule(transform, lambda _, dy: (dy @ jnp.asarray(TABLE.astype("float32"), dy.dtype),))
    exact = lambda x: x @ jnp.asarray(TABLE, x.dtype).T  # noqa: E731
    report = check_vjp(own, normal(3, 6), reference=exact, checks=("gradient",))
    assert report.ok, str(report)


def softplus_rule(error):
    """The right first order; the second is wrong by `error`, relatively."""

    def bwd(residuals, dy):
        (x,) = residuals
        gone = jax.lax.stop_gradient(jnp.sin(x)) - jnp.sin(x)
        return (dy * jax.nn.sigmoid(x) * (1 + error * gone),)

    return rule(lambda x: jnp.logaddexp(x, 0), bwd)


@pytest.mark.parametrize(("error", "right"), [(0.0, True), (1e-11, False)])
def test_a_saturated_second_order_is_right_and_a_wrong_one_beside_it_is_not(error, right):
    x = jnp.array([-120.0, -3.0, 2.0, 120.0])
    report = check_vjp(softplus_rule(error), x, checks=("second-order",))
    assert report.ok == right, str(report)


def test_cancellation_moves_and_a_plain_product_hardly_does():
    eps = np.finfo(float).eps
    near = moved(lambda x: (x + 1e8) - 1e8, np.ones(3))
    assert (near > 1e-9).all()
    assert (moved(lambda x: 3 * x, np.ones(3)) <= 3 * rounding.ROUNDINGS * eps).all()


def test_decisions_stay_as_they_were():
    x = np.array([1.0, 2.0, 3.0])
    small = 1e-12
    assert (moved(lambda x: jnp.floor(x * 1.0), x) == 0).all()
    assert (moved(lambda x: jnp.where(x * 3 / 3 == x, 1.0, 0.0), x) == 0).all()
    assert (moved(lambda x: jnp.max(x * x) * jnp.ones(2), x) < small).all()


def test_only_long_float32_numbers_are_taken_for_rounded():
    x = np.ones(4)
    tenth, third = np.float32(0.1), 1 / 3
    table = lambda x: x * np.array([tenth, 0.5, 4097.0, third])  # noqa: E731
    assert (np.flatnonzero(moved(table, x, constants=True) > 1e-10) == [0]).all()
    assert (moved(table, x) < 1e-10).all()
