"""Fully connected layers against literal sums, finite differences and every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxbp
from tests import oracles
from tests.rules.geometry import default_dtype, numbers, small_integers
from tests.tolerance import assert_close, summed_in
from tests.transforms import TRANSFORMS, compiled


def plain(x, w, b=None):
    """The product in float32 at least, rounded once, with autodiff's gradients."""
    z = jnp.matmul(x, w, preferred_element_type=summed_in(x.dtype)).astype(x.dtype)
    return z if b is None else z + b


def arrays(rng, examples, inputs, outputs, draw=numbers):
    return [draw(rng, s) for s in [(examples, inputs), (inputs, outputs), (outputs,)]]


@pytest.mark.parametrize("sizes", [(3, 4, 2), (1, 1, 1), (5, 1, 3)])
def test_value_and_cotangents_are_the_documents_sums(sizes, rng):
    """(2.1) forward; (2.9), (2.10) and (2.12) backward, summed over examples."""
    x, w, b = arrays(rng, *sizes)
    dy = numbers(rng, (sizes[0], sizes[2]))
    y, (dx, dw, db) = compiled(jaxbp.dense, (x, w, b), dy)
    x, w, b, dy = (np.asarray(a, np.float64) for a in (x, w, b, dy))
    size = np.abs
    assert_close(
        y,
        oracles.dense(x, w, b),
        terms=sizes[1] + 1,
        magnitude=oracles.dense(size(x), size(w), size(b)),
        what="y",
    )
    assert_close(
        dx,
        oracles.dense_input_grad(dy, w),
        terms=sizes[2],
        magnitude=oracles.dense_input_grad(size(dy), size(w)),
        what="dx",
    )
    assert_close(
        dw,
        oracles.dense_weight_grad(x, dy),
        terms=sizes[0],
        magnitude=oracles.dense_weight_grad(size(x), size(dy)),
        what="dw",
    )
    assert_close(
        db,
        oracles.dense_bias_grad(dy),
        terms=sizes[0],
        magnitude=oracles.dense_bias_grad(size(dy)),
        what="db",
    )


@given(st.sampled_from([(3, 4, 2), (1, 2, 5)]), st.integers(0, 99))
def test_adjoints_in_whole_numbers(sizes, seed):
    """(2.6), (2.9), (2.10): ⟨dy, J v⟩ = ⟨dx, v⟩ in each argument, and linear in dy, exactly."""
    rng = np.random.default_rng(seed)
    x, w, _ = arrays(rng, *sizes, draw=small_integers)
    dy, other = (small_integers(rng, (sizes[0], sizes[2])) for _ in range(2))
    y = jaxbp.dense(x, w)
    dx, dw = jaxbp.dense_input_grad(dy, w), jaxbp.dense_weight_grad(x, dy)
    assert jnp.sum(dy * y) == jnp.sum(dx * x) == jnp.sum(dw * w)
    for adjoint in (
        lambda dy: jaxbp.dense_input_grad(dy, w),
        lambda dy: jaxbp.dense_weight_grad(x, dy),
        jaxbp.dense_bias_grad,
    ):
        np.testing.assert_array_equal(adjoint(2 * dy - other), 2 * adjoint(dy) - adjoint(other))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformations(transform, rng):
    TRANSFORMS[transform](jaxbp.dense, plain, arrays(rng, 3, 4, 2), terms=8)


@pytest.mark.parametrize("transform", ["plain", "vmap", "shard_map"])
def test_transformations_without_a_bias(transform, rng):
    TRANSFORMS[transform](jaxbp.dense, plain, arrays(rng, 3, 4, 2)[:2], terms=8)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 0), (0,)])
def test_any_leading_axes(leading, rng):
    """(2.12): the parameters' cotangents are sums over all leading axes."""
    x, w, b = numbers(rng, (*leading, 4)), numbers(rng, (4, 2)), numbers(rng, (2,))
    y, (dx, dw, db) = compiled(jaxbp.dense, (x, w, b))
    assert y.shape == (*leading, 2)
    expected, (expected_dx, expected_dw, expected_db) = compiled(plain, (x, w, b))
    for actual, truth in zip(
        (y, dx, dw, db), (expected, expected_dx, expected_dw, expected_db), strict=True
    ):
        assert_close(actual, truth, terms=8)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 2), (3, 0)])
def test_no_features(inputs, outputs):
    x, w, b = jnp.ones((2, inputs)), jnp.ones((inputs, outputs)), jnp.ones((outputs,))
    y, (dx, dw, db) = compiled(jaxbp.dense, (x, w, b))
    np.testing.assert_array_equal(y, np.ones((2, outputs)))  # the bias
    assert (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)


def test_finite_differences(float64, rng):
    args = [np.asarray(a, np.float64) for a in arrays(rng, 2, 3, 2)]
    dy = rng.standard_normal((2, 2))
    _, pullback = jax.vjp(jaxbp.dense, *map(jnp.asarray, args))
    for actual, slope in zip(
        pullback(jnp.asarray(dy)), oracles.finite_differences(jaxbp.dense, args, dy), strict=True
    ):
        # dense is linear in each argument: only rounding is left, magnified by the step.
        assert_close(actual, slope, terms=int(10 / 1e-3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_in_half_precision_do_not_stall(dtype):
    """(2.9), (2.10): 4096 ones are 4096, where a sum in bfloat16 stays at 256."""
    ones = jnp.ones((4096, 1), dtype)
    assert jaxbp.dense_bias_grad(ones.reshape(64, 64, 1)).astype(float) == 4096
    assert jaxbp.dense_weight_grad(ones, ones).astype(float) == 4096
    assert jaxbp.dense_input_grad(ones.T, ones.T).astype(float) == 4096
    assert jaxbp.dense(ones.T, ones).astype(float) == 4096


def test_nan_stays_in_its_example(rng):
    x, w, b = arrays(rng, 3, 4, 2)
    y = jaxbp.dense(x.at[1, 2].set(jnp.nan), w, b)
    np.testing.assert_array_equal(jnp.isnan(y), [[False] * 2, [True] * 2, [False] * 2])


def test_python_numbers_and_numpy_arrays_are_taken(rng):
    x, w, b = (np.asarray(a) for a in arrays(rng, 3, 4, 2))
    np.testing.assert_array_equal(jaxbp.dense(x, w, b), jaxbp.dense(*map(jnp.asarray, (x, w, b))))
    assert jaxbp.dense(x, w, b).dtype == default_dtype()


X, W, B, DY = np.ones((3, 4)), np.ones((4, 2)), np.ones(2), np.ones((3, 2))

BAD_CALLS = {
    "dense: x a list": (lambda: jaxbp.dense([1.0], W), "x", TypeError),
    "dense: x None": (lambda: jaxbp.dense(None, W), "x", TypeError),
    "dense: x integers": (lambda: jaxbp.dense(X.astype(np.int32), W), "x", TypeError),
    "dense: x complex": (lambda: jaxbp.dense(X.astype(complex), W), "x", TypeError),
    "dense: x bools": (lambda: jaxbp.dense(X.astype(bool), W), "x", TypeError),
    "dense: x a number": (lambda: jaxbp.dense(1.0, W), "x", ValueError),
    "dense: x of other features": (lambda: jaxbp.dense(X[:, :3], W), "x", ValueError),
    "dense: w of rank 1": (lambda: jaxbp.dense(X, W[:, 0]), "w", ValueError),
    "dense: w of another dtype": (lambda: jaxbp.dense(X, W.astype(np.float16)), "w", TypeError),
    "dense: w a string": (lambda: jaxbp.dense(X, "w"), "w", TypeError),
    "dense: b of another length": (lambda: jaxbp.dense(X, W, np.ones(3)), "b", ValueError),
    "dense: b a number": (lambda: jaxbp.dense(X, W, 1.0), "b", ValueError),
    "dense: b of rank 2": (lambda: jaxbp.dense(X, W, B[None]), "b", ValueError),
    "dense: b integers": (lambda: jaxbp.dense(X, W, B.astype(int)), "b", TypeError),
    "dense_input_grad: dy of other features": (
        lambda: jaxbp.dense_input_grad(DY[:, :1], W),
        "dy",
        ValueError,
    ),
    "dense_input_grad: dy None": (lambda: jaxbp.dense_input_grad(None, W), "dy", TypeError),
    "dense_input_grad: w of rank 3": (
        lambda: jaxbp.dense_input_grad(DY, W[None]),
        "w",
        ValueError,
    ),
    "dense_weight_grad: dy of another batch": (
        lambda: jaxbp.dense_weight_grad(X, DY[:2]),
        "dy",
        ValueError,
    ),
    "dense_weight_grad: dy of another dtype": (
        lambda: jaxbp.dense_weight_grad(X, DY.astype(np.float16)),
        "dy",
        TypeError,
    ),
    "dense_weight_grad: dy a number": (lambda: jaxbp.dense_weight_grad(X, 1.0), "dy", ValueError),
    "dense_weight_grad: x a number": (lambda: jaxbp.dense_weight_grad(1.0, DY), "x", ValueError),
    "dense_weight_grad: x bools": (
        lambda: jaxbp.dense_weight_grad(X.astype(bool), DY),
        "x",
        TypeError,
    ),
    "dense_bias_grad: dy a number": (lambda: jaxbp.dense_bias_grad(1.0), "dy", ValueError),
    "dense_bias_grad: dy a list": (lambda: jaxbp.dense_bias_grad([1.0]), "dy", TypeError),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name):
    call, argument, kind = BAD_CALLS[name]
    function = name.split(":")[0]
    with pytest.raises(kind, match=rf"^{function}: {argument} must be .*, got .+"):
        call()
