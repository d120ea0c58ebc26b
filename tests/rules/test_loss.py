"""Losses against the document's sums, literal numbers, infinite logits and every transformation."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.rules import loss
from tests import oracles
from tests.daily import sample
from tests.tolerance import assert_close, summed_in
from tests.transforms import DTYPES, TRANSFORMS, differentiable, value_and_cotangents

TERMS = 24  # roundings of a row of a few logits, exp and log among them


def plain_half_squared_error(y, t):
    y, t = (a.astype(summed_in(a.dtype)) for a in (y, t))
    return jnp.sum((t - y) ** 2, axis=-1) / 2


def plain_softmax_cross_entropy(logits, labels):
    wide = logits.astype(summed_in(logits.dtype))
    if jnp.issubdtype(labels.dtype, jnp.integer):
        t = jax.nn.one_hot(labels, logits.shape[-1], dtype=wide.dtype)
    else:
        t = labels.astype(wide.dtype)
    return -jnp.sum(t * jax.nn.log_softmax(wide), axis=-1)


def plain_sigmoid_cross_entropy(logits, labels):
    x, t = (a.astype(summed_in(a.dtype)) for a in (logits, labels))
    return -t * jax.nn.log_sigmoid(x) - (1 - t) * jax.nn.log_sigmoid(-x)


def rounded(plain):
    """The plain loss in the dtype of its first argument."""
    return lambda first, second: plain(first, second).astype(first.dtype)


def half_squared(rng):
    return tuple(rng.standard_normal((3, 4)) for _ in range(2))


def classes(rng):
    return rng.standard_normal((3, 4)) * 2, rng.integers(0, 4, 3)


def probabilities(rng):
    return rng.standard_normal((3, 4)) * 2, rng.uniform(size=(3, 4))


LOSSES = {
    "half_squared_error": (jaxbp.half_squared_error, plain_half_squared_error, half_squared),
    "softmax_cross_entropy, classes": (
        jaxbp.softmax_cross_entropy, plain_softmax_cross_entropy, classes
    ),
    "softmax_cross_entropy, probabilities": (
        jaxbp.softmax_cross_entropy, plain_softmax_cross_entropy, probabilities
    ),
    "sigmoid_cross_entropy": (
        jaxbp.sigmoid_cross_entropy, plain_sigmoid_cross_entropy, probabilities
    ),
}  # fmt: skip


def arrays(make, rng, dtype=None):
    dtype = jnp.result_type(float) if dtype is None else dtype
    args = make(rng)
    return [jnp.asarray(a, dtype if a.dtype == np.float64 else None) for a in args]


def in_one_program(rule, args, dloss=None):
    """Value and cotangents under jit, which compiles quicker than the same call op by op."""
    return jax.jit(lambda args, dloss: value_and_cotangents(rule, args, dloss))(args, dloss)


# The dtypes have test_precision_with_large_numbers to themselves.
@pytest.mark.parametrize(
    ("name", "transform"),
    sample(itertools.product(LOSSES, [t for t in TRANSFORMS if t != "dtypes"]), every=2),
)
def test_transforms(name, transform, rng):
    rule, plain, make = LOSSES[name]
    args = arrays(make, rng)
    options = {"batched": (0, 1)} if transform in ("scan", "shard_map") else {}
    TRANSFORMS[transform](rule, rounded(plain), args, terms=TERMS, **options)


@pytest.mark.parametrize("name", LOSSES)
def test_replicated_targets_under_shard_map(name, rng):
    """Two devices with their own outputs and one target for both: its cotangent is the sum."""
    rule, plain, make = LOSSES[name]
    y, t = arrays(make, rng)

    def one_target(loss):
        return lambda y, t: loss(y, jnp.broadcast_to(t, (len(y), *t.shape)))

    TRANSFORMS["shard_map"](one_target(rule), one_target(plain), (y, t[0]), terms=3 * TERMS)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_differences(name, rng, float64):
    rule, _, make = LOSSES[name]
    args = arrays(make, rng)
    floating = differentiable(args)

    @jax.jit
    def of_floats(*values):
        these = list(args)
        for i, value in zip(floating, values, strict=True):
            these[i] = jnp.asarray(value)
        return rule(*these)

    dy = jnp.full(jax.eval_shape(rule, *args).shape, 3.0)
    _, cotangents = in_one_program(rule, args, dy)
    values = [np.array(args[i]) for i in floating]
    expected = oracles.finite_differences(of_floats, values, np.asarray(dy))
    for ours, theirs in zip(cotangents, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_dtype_of_loss_and_cotangents(name, dtype, rng, float64):
    rule, _, make = LOSSES[name]
    args = arrays(make, rng, dtype)
    y, cotangents = jax.eval_shape(lambda *args: value_and_cotangents(rule, args), *args)
    assert {a.dtype for a in (y, *cotangents)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", LOSSES)
def test_empty_batch(name, rng):
    rule, plain, make = LOSSES[name]
    args = [a[:0] for a in arrays(make, rng)]
    y, cotangents = in_one_program(rule, args)
    assert y.shape == jax.eval_shape(plain, *args).shape
    for i, cotangent in zip(differentiable(args), cotangents, strict=True):
        assert cotangent.shape == args[i].shape


@pytest.mark.parametrize("name", LOSSES)
def test_nan_stays_in_its_row(name, rng):
    rule, _, make = LOSSES[name]
    args = arrays(make, rng)
    args[0] = args[0].at[1, 2].set(jnp.nan)
    y, (dx, *_) = in_one_program(rule, args)
    rows = jnp.isnan(y) if y.ndim == 1 else jnp.isnan(y).any(axis=1)
    np.testing.assert_array_equal(rows, [False, True, False])
    np.testing.assert_array_equal(jnp.isnan(dx).any(axis=1), [False, True, False])


# Half squared error


def test_half_squared_error_is_the_documents_sum(rng, float64):
    """(2.2), and (2.4): the gradient is y − t."""
    y, t = half_squared(rng)
    dloss = rng.standard_normal(3)
    value, (dy, dt) = in_one_program(
        jaxbp.half_squared_error, [jnp.asarray(y), jnp.asarray(t)], jnp.asarray(dloss)
    )
    assert_close(value, oracles.half_squared_error(y, t), terms=4)
    expected = np.array([[-(t[n, j] - y[n, j]) * dloss[n] for j in range(4)] for n in range(3)])
    assert_close(dy, expected)
    assert_close(dt, -expected)
    np.testing.assert_array_equal(loss.half_squared_error_grad(y, t, dloss), dy)


def test_a_mean_puts_one_nth_into_the_first_sensitivity():
    y, t = jnp.ones((4, 2)), jnp.zeros((4, 2))
    dy = jax.grad(lambda y: jnp.mean(jaxbp.half_squared_error(y, t)))(y)
    np.testing.assert_array_equal(dy, np.full((4, 2), 0.25))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_squared_error_sums_in_float32(dtype):
    """4096 terms of ½: a sum in half precision stalls."""
    y = jnp.ones(4096, dtype)
    assert jaxbp.half_squared_error(y, jnp.zeros_like(y)) == 2048


# Softmax and cross-entropy


def test_softmax_cross_entropy_literal_numbers(float64):
    """Probabilities of 1/8, 2/8 and 5/8: the loss is log 4 for the second class."""
    logits = jnp.log(jnp.array([1.0, 2.0, 5.0])) + 7
    value, (dlogits,) = in_one_program(
        jaxbp.softmax_cross_entropy, [logits, jnp.array(1)], jnp.array(8.0)
    )
    assert_close(value, math.log(4), terms=TERMS)
    assert_close(dlogits, [1, 2 - 8, 5], terms=TERMS)
    t = jnp.array([0.5, 1.5, 0.0])  # need not sum to one: p Σ t − t
    value, (dlogits, dt) = in_one_program(jaxbp.softmax_cross_entropy, [logits, t], jnp.array(8.0))
    assert_close(value, 0.5 * math.log(8) + 1.5 * math.log(4), terms=TERMS)
    assert_close(dlogits, [2 - 4, 4 - 12, 10], terms=TERMS)
    assert_close(dt, [8 * math.log(8), 8 * math.log(4), 8 * math.log(8 / 5)], terms=TERMS)
    p = jnp.array([1, 2, 5]) / 8
    for labels, expected in ((jnp.array(1), [1, -6, 5]), (t, [-2, -8, 10])):
        adjoint = loss.softmax_cross_entropy_grad(p, labels, jnp.array(8.0))
        assert_close(adjoint, expected, terms=TERMS)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_labels_of_every_integer_dtype(dtype):
    """More classes than int8 and uint8 can count."""
    logits = jnp.zeros((2, 300)).at[1, 100].set(1e4)
    value, (dlogits,) = in_one_program(
        jaxbp.softmax_cross_entropy, [logits, jnp.array([3, 100], dtype)], jnp.ones(2)
    )
    assert_close(value, [math.log(300), 0], terms=300)
    assert_close(dlogits[0, :5], np.array([1, 1, 1, -299, 1]) / 300, terms=300)
    np.testing.assert_array_equal(dlogits[1], 0)


def test_integer_labels_get_no_cotangent():
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, 2])
    _, pullback = jax.vjp(jaxbp.softmax_cross_entropy, logits, labels)
    assert pullback(jnp.ones(2))[1].dtype == jax.dtypes.float0
    _, pullback = jax.vjp(jaxbp.sigmoid_cross_entropy, logits, jnp.zeros((2, 3), bool))
    assert pullback(jnp.ones((2, 3)))[1].dtype == jax.dtypes.float0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", ["classes", "probabilities"])
def test_infinite_and_large_logits(labels, dtype, float64):
    """0 log 0 = 0, all the probability to +inf, and finite gradients of an infinite loss."""
    inf = np.inf
    logits = jnp.asarray(
        [[1e4, 0, 0], [0, 1e4, 0], [-inf, 0, 0], [0, -inf, 0], [inf, 0, 0], [0, 0, inf]], dtype
    )
    t = np.tile([0.0, 1.0, 0.0], (6, 1))
    t = jnp.full(6, 1) if labels == "classes" else jnp.asarray(t, dtype)
    value, (dlogits, *dlabels) = in_one_program(
        jaxbp.softmax_cross_entropy, [logits, t], jnp.ones(6, dtype)
    )
    log2 = jnp.asarray(math.log(2), dtype)
    large = jnp.asarray(1e4, dtype)
    np.testing.assert_array_equal(value, [large, 0, log2, inf, inf, inf])
    expected = [[1, -1, 0], [0, 0, 0], [0, -0.5, 0.5], [0.5, -1, 0.5], [1, -1, 0], [0, -1, 1]]
    np.testing.assert_array_equal(np.asarray(dlogits, np.float64), expected)
    assert not any(jnp.isnan(a).any() for a in dlabels)

    # A masked class leaves no NaN at second order either.
    def norm(logits):
        return jnp.sum(jax.grad(lambda z: jaxbp.softmax_cross_entropy(z, t[2]))(logits) ** 2)

    assert jnp.isfinite(jax.jit(jax.grad(norm))(logits[2])).all()


def test_nothing_but_minus_infinity_is_nan():
    logits = jnp.full((2, 2), -jnp.inf).at[1, 0].set(0.0)
    value, (dlogits,) = in_one_program(jaxbp.softmax_cross_entropy, [logits, jnp.array([0, 0])])
    np.testing.assert_array_equal(value, [np.nan, 0])
    np.testing.assert_array_equal(jnp.isnan(dlogits), [[True, True], [False, False]])


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_labels_out_of_range(bad):
    """An error where the values are known, NaN in their row where they are not."""
    logits, labels = jnp.zeros((2, 3)), jnp.array([bad, 1])
    message = rf"^softmax_cross_entropy: labels must be from 0 to 2, got {bad}$"
    with pytest.raises(ValueError, match=message):
        jaxbp.softmax_cross_entropy(logits, labels)
    with pytest.raises(ValueError, match=message):
        jaxbp.softmax_cross_entropy(logits, np.array([bad, 1]))
    value, dlogits = jax.jit(
        lambda labels: jax.vjp(lambda z: jaxbp.softmax_cross_entropy(z, labels), logits)
    )(labels)
    (dlogits,) = dlogits(jnp.ones(2))
    np.testing.assert_array_equal(jnp.isnan(value), [True, False])
    np.testing.assert_array_equal(jnp.isnan(dlogits), [[True] * 3, [False] * 3])
    adjoint = loss.softmax_cross_entropy_grad(logits, labels, jnp.ones(2))
    np.testing.assert_array_equal(jnp.isnan(adjoint), [[True] * 3, [False] * 3])


def test_labels_that_do_not_fit_jaxs_integers_are_out_of_range():
    """In float32 mode 2³² + 1 becomes 1 as soon as JAX has it."""
    with pytest.raises(ValueError, match=r"from 0 to 2, got 4294967297$"):
        jaxbp.softmax_cross_entropy(jnp.zeros((1, 3)), np.array([2**32 + 1]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_softmax_cross_entropy_sums_in_float32(dtype):
    """65,536 equal logits: the loss is log 65536 = 16 log 2."""
    value = jaxbp.softmax_cross_entropy(jnp.zeros(65536, dtype), jnp.array(7))
    assert value == jnp.asarray(16 * math.log(2), dtype)


def test_softmax_cross_entropy_keeps_no_array_of_its_own():
    """The logits and labels that it was given, and two numbers a row."""
    logits, labels = jnp.zeros((8, 100)), jnp.zeros(8, jnp.int32)
    kept = jax.tree.leaves(jax.vjp(jaxbp.softmax_cross_entropy, logits, labels)[1])
    assert sum(a.size for a in kept) == logits.size + labels.size + 2 * 8


# Sigmoid and cross-entropy


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_sigmoid_cross_entropy_slope_at_logit_zero(t):
    """½ − t, where `max(x, 0) − x t + log1p(exp(−|x|))` has −t."""
    assert jax.grad(jaxbp.sigmoid_cross_entropy)(0.0, t) == 0.5 - t


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_cross_entropy_at_infinite_and_large_logits(dtype, float64):
    inf = np.inf
    x = jnp.asarray([-inf, -1e4, 1e4, inf, -inf, inf, 1e4], dtype)
    t = jnp.asarray([0, 0, 1, 1, 1, 0, 0.5], dtype)
    value, (dx, _) = in_one_program(jaxbp.sigmoid_cross_entropy, [x, t], jnp.ones_like(x))
    np.testing.assert_array_equal(value, [0, 0, 0, 0, inf, inf, x[2] / 2])
    np.testing.assert_array_equal(np.asarray(dx, np.float64), [0, 0, 0, 0, -1, 1, 0.5])


def test_sigmoid_cross_entropy_keeps_the_digits_of_a_good_answer(float64):
    """σ(x) − t in float32 is 0 at x = 30, t = 1; the truth is −exp(−30)."""
    x, t = jnp.float32(30), jnp.float32(1)
    dx = jax.grad(jaxbp.sigmoid_cross_entropy)(x, t)
    assert_close(dx, -math.exp(-30) / (1 + math.exp(-30)), terms=TERMS)
    assert_close(jaxbp.sigmoid_cross_entropy(x, t), math.log1p(math.exp(-30)), terms=TERMS)


def test_sigmoid_cross_entropy_formula(rng, float64):
    x, t = probabilities(rng)
    dloss = rng.standard_normal((3, 4))
    s = oracles.sigmoid(x)
    value, (dx, dt) = value_and_cotangents(
        jaxbp.sigmoid_cross_entropy, [jnp.asarray(x), jnp.asarray(t)], jnp.asarray(dloss)
    )
    assert_close(value, -t * np.log(s) - (1 - t) * np.log(oracles.sigmoid(-x)), terms=TERMS)
    assert_close(dx, (s - t) * dloss, terms=TERMS)
    assert_close(dt, -x * dloss, terms=TERMS)
    np.testing.assert_array_equal(loss.sigmoid_cross_entropy_grad(x, t, dloss), dx)


@pytest.mark.parametrize("dtype", [bool, "int32", "uint8"])
def test_sigmoid_cross_entropy_with_yes_and_no(dtype):
    x = jnp.array([0.5, -2.0])
    labels = np.array([1, 0])
    value = jaxbp.sigmoid_cross_entropy(x, jnp.asarray(labels, dtype))
    np.testing.assert_array_equal(value, jaxbp.sigmoid_cross_entropy(x, labels.astype(x.dtype)))


def test_sigmoid_labels_out_of_range():
    x, labels = jnp.zeros(3), jnp.array([0, 2, 1])
    with pytest.raises(ValueError, match=r"^sigmoid_cross_entropy: labels must be from 0 to 1"):
        jaxbp.sigmoid_cross_entropy(x, labels)
    value, pullback = jax.vjp(lambda x: jax.jit(jaxbp.sigmoid_cross_entropy)(x, labels), x)
    np.testing.assert_array_equal(jnp.isnan(value), [False, True, False])
    np.testing.assert_array_equal(jnp.isnan(*pullback(jnp.ones(3))), [False, True, False])


@pytest.mark.parametrize("name", LOSSES)
def test_precision_with_large_numbers(name, rng):
    """No further from the float64 truth than twice autodiff, on rows of 64 and large numbers."""
    rule, plain, _ = LOSSES[name]
    first, second = rng.standard_normal((16, 64)) * 10, rng.uniform(size=(16, 64))
    if name.endswith("classes"):
        second = np.argmax(second, axis=-1)
    narrow = ("float32", "bfloat16", "float16")  # in float64: the formulas and literal numbers
    TRANSFORMS["dtypes"](rule, rounded(plain), (first, second), terms=TERMS, dtypes=narrow)


X = np.zeros((2, 3), np.float32)
HALF = X.astype(np.float16)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: jaxbp.half_squared_error(X, X[0]), ValueError, "half_squared_error: t must be"),
        (lambda: jaxbp.half_squared_error(X, X[:1]), ValueError, "half_squared_error: t must be"),
        (lambda: jaxbp.half_squared_error(X, HALF), TypeError, "half_squared_error: t must be"),
        (lambda: jaxbp.half_squared_error(1.0, 2.0), ValueError, "half_squared_error: y must be"),
        (
            lambda: jaxbp.half_squared_error(X, X.astype(int)),
            TypeError,
            "half_squared_error: t must be a real floating array",
        ),
        (
            lambda: loss.half_squared_error_grad(X, X, X),
            ValueError,
            "half_squared_error_grad: dloss must be of shape",
        ),
        *(
            (partial(jaxbp.softmax_cross_entropy, *args), kind, f"softmax_cross_entropy: {message}")
            for args, kind, message in [
                ((X.astype(int), np.zeros(2, int)), TypeError, "logits must be a real floating"),
                ((X, [0, 1]), TypeError, "labels must be an integer array"),
                ((X, None), TypeError, "labels must be an integer array"),
                ((X, np.array(["a", "b"])), TypeError, "labels must be an integer array"),
                ((X, np.array([None, None])), TypeError, "labels must be an integer array"),
                ((X, jax.random.key(0)), TypeError, "labels must be an integer array"),
                ((X, np.zeros(2, bool)), TypeError, "labels must be an integer array"),
                ((X, np.zeros(3, int)), ValueError, r"labels must be of shape \(2,\)"),
                ((X, np.zeros((2, 1), int)), ValueError, r"labels must be of shape \(2,\)"),
                ((X, X.astype(int)), ValueError, r"labels must be of shape \(2,\)"),
                ((X, X[0]), ValueError, r"labels must be of shape \(2, 3\)"),
                ((X, 0.5), ValueError, r"labels must be of shape \(2, 3\)"),
                ((X, HALF), TypeError, "labels must be float32"),
                ((np.float32(1), 0), ValueError, "logits must be"),
                ((X[:, :0], np.zeros(2, int)), ValueError, "logits must be"),
            ]
        ),
        *(
            (
                partial(loss.softmax_cross_entropy_grad, *args),
                kind,
                f"softmax_cross_entropy_grad: {message}",
            )
            for args, kind, message in [
                ((X, np.zeros(3, int), X[:, 0]), ValueError, "labels must be of shape"),
                ((X, np.zeros(2, int), X), ValueError, "dloss must be of shape"),
                ((X, X, HALF[:, 0]), TypeError, "dloss must be float32"),
            ]
        ),
        *(
            (partial(jaxbp.sigmoid_cross_entropy, *args), kind, f"sigmoid_cross_entropy: {message}")
            for args, kind, message in [
                ((X, X[0]), ValueError, r"labels must be of shape \(2, 3\)"),
                ((X, X[:, :1].astype(int)), ValueError, r"labels must be of shape \(2, 3\)"),
                ((X, HALF), TypeError, "labels must be float32"),
                ((X, "yes"), TypeError, "labels must be a real floating array"),
                ((X, np.array(["a"])), TypeError, "labels must be a real floating array"),
                ((X, np.array([None])), TypeError, "labels must be a real floating array"),
                ((X, jax.random.key(0)), TypeError, "labels must be a real floating array"),
                ((None, X), TypeError, "logits must be a real floating array"),
            ]
        ),
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=rf"^{message}"):
        call()
