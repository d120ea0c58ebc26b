"""The checker's smaller parts: data that keep promises, tolerances, names of numbers, power."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import check_vjp
from jaxbp.verify.compare import power
from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.diagnose import naming
from jaxbp.verify.report import Finding, Report
from jaxbp.verify.subject import compiler, inputs
from jaxbp.verify.subject.subject import Leaf, Subject
from tests.verify.rules import normal

LEAF = Leaf("x", 0, (3,), np.dtype(float), 0, 3)


def moved(value, spread=0.3, seed=0):
    subject = Subject(lambda x: x, (jnp.asarray(value),), {})
    x = inputs.another_point(subject, np.random.default_rng(seed), spread)
    return x.reshape(np.shape(value))


def test_new_data_keep_what_the_given_ones_promise():
    rows = np.random.default_rng(1).dirichlet(np.ones(4), 3).astype("float32")
    np.testing.assert_allclose(moved(rows).sum(-1), 1.0, rtol=1e-6)
    one_hot = np.eye(4, dtype="float32")[[0, 2, 2]]
    assert (moved(one_hot) >= 0).all()
    np.testing.assert_allclose(moved(one_hot).sum(-1), 1.0, rtol=1e-6)
    square = np.asarray(normal(3, 3))
    symmetric = moved(square + square.T)
    np.testing.assert_array_equal(symmetric, symmetric.T)
    columns = np.random.default_rng(1).dirichlet(np.ones(3), 4).astype("float32").T
    np.testing.assert_allclose(moved(columns).sum(0), 1.0, rtol=1e-6)
    positive = np.asarray(square @ square.T + 0.01 * np.eye(3), "float32")
    for spread in (0.01, 0.1, 0.7):
        other = moved(positive, spread)
        np.testing.assert_array_equal(other, other.T)
        assert np.linalg.eigvalsh(other).min() > 0
        assert not np.allclose(other, positive, rtol=1e-3)
    np.testing.assert_array_equal(moved(np.tril(square)), np.tril(moved(np.tril(square))))
    for rising in ([1.0, 2, 3, 4, 5, 6], [0.5, 1, 3], [-1.0, 2], [[0.0, 1, 2, 4], [2, 5, 7, 8]]):
        for way in (1, -1):
            rows = way * np.asarray(rising, "float32")
            assert all((way * np.diff(moved(rows, 0.7, seed)) > 0).all() for seed in range(9))
    assert (moved(np.ones(5, "float32")) > 0).all()


def zeroed(value, seed):
    subject = Subject(lambda x: x, (jnp.asarray(value),), {})
    x = inputs.with_zeros(subject, np.random.default_rng(seed))
    return x.reshape(np.shape(value))


@pytest.mark.parametrize("seed", range(9))
def test_zeros_among_the_data_break_no_promise_either(seed):
    for rising in (
        [1.0, 2, 3, 4, 5],
        [-2.0, -1, 0.5, 3],
        [0.5, 3],
        [-1.0, 1],
        [[1.0, 2, 3, 4], [-2, 1, 2, 3]],
    ):
        for way in (1, -1):
            rows = zeroed(way * np.asarray(rising, "float32"), seed)
            assert (way * np.diff(rows) > 0).all()
            assert (rows == 0).any()
    for shape, axis in (((3, 4), -1), ((2, 2), -1), ((4, 3), 0)):
        rows = np.random.default_rng(1).dirichlet(np.ones(shape[axis]), shape[1 + axis])
        rows = np.asarray(rows if axis else rows.T, "float32")
        np.testing.assert_allclose(zeroed(rows, seed).sum(axis), 1.0, rtol=1e-6)
    square = np.asarray(normal(3, 3))
    symmetric = zeroed(square + square.T, seed)
    np.testing.assert_array_equal(symmetric, symmetric.T)
    lower = zeroed(np.tril(square), seed)
    np.testing.assert_array_equal(lower, np.tril(lower))
    assert (zeroed(np.asarray(normal(40)), seed) == 0).any()


def test_real_data_keep_their_promises_beside_complex_ones():
    rows, other = np.array([0.5, 1, 3], "float32"), np.array([1j, 2, 3 - 1j], "complex64")
    subject = Subject(lambda x, z: x * z, (rows, other), {})
    for seed in range(9):
        x = inputs.another_point(subject, np.random.default_rng(seed), 0.7)[:3]
        assert (x.imag == 0).all()
        assert (np.diff(x.real) > 0).all()


def test_what_sums_to_one_is_not_made_larger():
    rows = np.random.default_rng(1).dirichlet(np.ones(4), 3).astype("float32")
    subject = Subject(lambda p, x: p + x, (rows, normal(3, 4)), {})
    larger = inputs.enlarged(subject, 100.0)
    np.testing.assert_array_equal(larger[:12], subject.x[:12])
    np.testing.assert_array_equal(larger[12:], 100.0 * subject.x[12:])


def test_new_data_leave_ties_and_symmetries():
    assert len(np.unique(moved(np.ones(6, "float32")))) == 6
    assert len(np.unique(moved(np.zeros(6, "float32")))) == 6


def test_the_tolerance_follows_the_conditioning_and_not_the_size():
    eps = float(np.finfo(float).eps)
    rng = np.random.default_rng(0)
    tolerances = []
    for n in (3, 3000):
        leaf = Leaf("x", 0, (n,), np.dtype(float), 0, n)
        f = lambda x, c: c * x  # noqa: E731
        sample = compare(f, f, np.ones(n), np.ones(n), [leaf], eps, rng, "")
        tolerances.append(sample.tolerance.max())
    assert tolerances[1] < 2 * tolerances[0] < 1e-11
    difference = lambda x, c: c * ((x + 1e8) - 1e8)  # noqa: E731
    sample = compare(difference, difference, np.ones(3), np.ones(3), [LEAF], eps, rng, "")
    assert sample.tolerance.max() < 1e-5


def test_two_nans_agree_and_one_does_not():
    nan = np.full(3, np.nan)
    both = Sample(np.ones(3), np.ones(3), nan, nan, np.ones(3), "")
    assert not both.wrong(LEAF).any()
    one = Sample(np.ones(3), np.ones(3), nan, np.ones(3), np.ones(3), "")
    assert one.wrong(LEAF).all()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.25, "1/4"), (-3.0, "-3"), (2 / 9, "2/9"), (np.pi, "3.14159"), (1 + 2e-10, "1 + 2e-10")],
)
def test_factors_are_spelled_as_people_write_them(number, text):
    assert naming.spelled(number) == text


def test_power_is_what_the_tolerance_lets_through():
    expected = np.array([1.0, 0.5, 0.0])
    sample = Sample(np.ones(3), np.ones(3), expected, expected, np.full(3, 1e-6), "")
    found = power.measure([sample], [LEAF], (), np.random.default_rng(0))[0]
    assert 1e-6 < found.smallest_error < 1e-5
    blind = Sample(np.ones(3), np.ones(3), np.zeros(3), np.zeros(3), np.full(3, 1e-6), "")
    assert np.isinf(power.measure([blind], [LEAF], (), np.random.default_rng(0))[0].smallest_scale)


def test_this_build_of_jax_computes_right():
    assert compiler.warnings() == ()


def convolved(padding, strides=(1, 1)):
    x, w = jnp.ones((2, 5, 4, 2), "float32"), jnp.ones((2, 2, 2, 3), "float32")
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.make_jaxpr(
        lambda x: jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout)
    )(x)


def test_a_convolution_that_a_build_gets_wrong_is_warned_of_where_there_is_one(monkeypatch):
    cropping = convolved(((-2, 1), (0, 0)))
    assert compiler.crops_and_pads(cropping)
    for padding in (((0, 1), (0, 0)), ((-2, 1), (1, 1)), ((-2, -1), (0, 0)), ((1, -2), (0, 0))):
        assert not compiler.crops_and_pads(convolved(padding))
    right = jax.__version_info__ >= (0, 12) or jax.default_backend() != "cpu"
    assert len(compiler.warnings([cropping])) == (0 if right else 1)
    monkeypatch.setattr(compiler, "_reads_beyond_a_crop", lambda: True)
    assert "crops an axis" in compiler.warnings([cropping])[0]
    assert compiler.warnings([convolved(((0, 1), (0, 0)))]) == ()


def test_the_report_has_the_warning(monkeypatch):
    monkeypatch.setattr(compiler, "_reads_beyond_a_crop", lambda: True)
    layout = ("NHWC", "HWIO", "NHWC")

    def cropped(x, w):
        padding = ((-2, 1), (0, 0))
        return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=layout)

    x, w = normal(1, 4, 3, 1), normal(2, 2, 1, 1)
    assert len(check_vjp(cropped, x, w, checks=("structure",)).warnings) == 1
    assert not check_vjp(jnp.sin, x, checks=("structure",)).warnings


def test_the_report_is_json_even_where_numbers_are_not_finite():
    finding = Finding("gradient", "x", "nan", "…", "rule", (0,), float("nan"), 1.0)
    report = Report("f", ("x: float32[3]",), (), (finding,))
    assert not report.ok
    assert json.loads(report.to_json())["findings"][0]["got"] == "nan"
