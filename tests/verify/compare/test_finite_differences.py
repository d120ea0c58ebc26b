"""Slopes from values: sharp where the function is smooth, honest about their error elsewhere."""

import numpy as np
import pytest

from jaxbp.verify.compare.finite_differences import FiniteDifferences
from jaxbp.verify.subject.vectors import Leaf

EPS = np.finfo(float).eps


def differences(f, x):
    x = np.asarray(x, float)
    leaf = Leaf("x", 0, x.shape, x.dtype, 0, x.size)
    return FiniteDifferences(f, x, [leaf], EPS, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (np.sin, np.cos),
        (np.exp, np.exp),
        (np.log, lambda x: 1 / x),
        (lambda x: x**5, lambda x: 5 * x**4),
    ],
)
def test_smooth_functions(f, slope):
    x = np.array([0.3, 1.7, 2.9])
    for i in range(3):
        found = differences(f, x).entry(i)
        assert abs(found.value[i] - slope(x)[i]) <= found.error[i]
        assert found.error[i] < 1e-8 * abs(slope(x)[i])
        assert not found.kink.any()


def test_a_linear_function_is_exact_to_rounding():
    found = differences(lambda x: 3.0 * x, [2.0, -1.0]).entry(0)
    assert found.value[0] == pytest.approx(3.0, rel=1e-13)
    assert found.error[0] < 1e-11


def test_a_small_entry_near_the_end_of_the_domain():
    x = np.array([1e-6, 1.0, 2.0])
    found = differences(np.sqrt, x).entry(0)
    assert found.value[0] == pytest.approx(0.5 / np.sqrt(1e-6), rel=1e-5)


def test_outside_the_domain_nothing_is_claimed():
    with np.errstate(invalid="ignore"):
        found = differences(np.sqrt, [0.0, 1.0]).entry(0)
    assert np.isinf(found.error[0]) or np.isnan(found.value[0])


def test_kinks_are_seen_from_both_sides():
    relu = lambda x: np.maximum(x, 0.0)  # noqa: E731
    at_zero = differences(relu, [0.0, 1.0]).entry(0)
    assert at_zero.kink[0]
    assert (at_zero.left[0], at_zero.right[0]) == pytest.approx((0.0, 1.0))
    assert not differences(relu, [0.5, 1.0]).entry(0).kink.any()


def test_a_kink_between_the_steps_is_not_stepped_over():
    steep = lambda x: np.maximum(x - 1e-3, 0.0)  # noqa: E731
    found = differences(steep, [0.0, 1.0]).entry(0)
    assert abs(found.value[0]) <= found.error[0] + 1e-12
