"""Other inputs like the given ones: their promises are kept, their ties and symmetries left."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.arguments import Subject
from tests.verify.rules import normal


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
