"""Activations against jax.nn, formulas in Python's own floats, literal limits and kinks."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.rules import activation
from tests import oracles
from tests.daily import sample
from tests.tolerance import assert_close, assert_no_worse
from tests.transforms import DTYPES, TRANSFORMS, compiled, value_and_cotangents

# Rounding x moves exp(x) by |x| roundings, so this many operations for the |x| of the tests. The
# argument u of gelu's tanh grows with x³, and f′ multiplies what 1 − tanh(u) has lost by |x| u′.
TERMS, TERMS_OF_GELU = 24, 160


class Elementwise(NamedTuple):
    rule: object
    reference: object  # JAX's own
    value: object  # f of a Python float
    slope: object  # f′ of a Python float
    limits: tuple  # f′ at −inf, at 0 and at inf
    keeps: str  # what is left for the backward pass
    adjoint: object  # of what it keeps, and dy


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _normal_density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _normal_cdf(x):
    return math.erfc(-x / math.sqrt(2)) / 2


def _tanh_argument(x):
    """u of ½ (1 + tanh(u)) = σ(2u)."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _tanh_gelu_slope(x):
    u, du = _tanh_argument(x), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return _sigmoid(2 * u) + x * 2 * du * _sigmoid(2 * u) * _sigmoid(-2 * u)


ELEMENTWISE = {
    "sigmoid": Elementwise(
        jaxbp.sigmoid, jax.nn.sigmoid,
        _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), (0, 0.25, 0), "y",
        activation.sigmoid_grad,
    ),
    "tanh": Elementwise(
        jaxbp.tanh, jnp.tanh,
        math.tanh, lambda x: 4 * _sigmoid(2 * x) * _sigmoid(-2 * x), (0, 1, 0), "y",
        activation.tanh_grad,
    ),
    "relu": Elementwise(
        jaxbp.relu, jax.nn.relu,
        lambda x: max(x, 0.0), lambda x: float(x > 0), (0, 0, 1), "y",
        activation.relu_grad,
    ),
    "leaky_relu": Elementwise(
        jaxbp.leaky_relu, jax.nn.leaky_relu,
        lambda x: max(x, 0.01 * x), lambda x: 1.0 if x >= 0 else 0.01, (0.01, 1, 1), "x",
        activation.leaky_relu_grad,
    ),
    "leaky_relu, negative slope": Elementwise(
        partial(jaxbp.leaky_relu, slope=-0.5), partial(jax.nn.leaky_relu, negative_slope=-0.5),
        lambda x: max(x, -0.5 * x), lambda x: 1.0 if x >= 0 else -0.5, (-0.5, 1, 1), "x",
        partial(activation.leaky_relu_grad, slope=-0.5),
    ),
    "elu": Elementwise(
        jaxbp.elu, jax.nn.elu,
        lambda x: x if x > 0 else math.expm1(x), lambda x: math.exp(min(x, 0)), (0, 1, 1), "x",
        activation.elu_grad,
    ),
    "gelu": Elementwise(
        jaxbp.gelu, jax.nn.gelu,
        lambda x: x * _sigmoid(2 * _tanh_argument(x)), _tanh_gelu_slope, (0, 0.5, 1), "x",
        activation.gelu_grad,
    ),
    "gelu, exact": Elementwise(
        partial(jaxbp.gelu, approximate=False), partial(jax.nn.gelu, approximate=False),
        lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_density(x),
        (0, 0.5, 1), "x",
        partial(activation.gelu_grad, approximate=False),
    ),
    "silu": Elementwise(
        jaxbp.silu, jax.nn.silu,
        lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
        (0, 0.5, 1), "x",
        activation.silu_grad,
    ),
    "softplus": Elementwise(
        jaxbp.softplus, jax.nn.softplus,
        lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))), _sigmoid, (0, 0.5, 1), "x",
        activation.softplus_grad,
    ),
}  # fmt: skip

ALONG_AXIS = {
    "softmax": (jaxbp.softmax, jax.nn.softmax),
    "softmax, axis 1": (partial(jaxbp.softmax, axis=1), partial(jax.nn.softmax, axis=1)),
    "log_softmax": (jaxbp.log_softmax, jax.nn.log_softmax),
    "log_softmax, axis 1": (
        partial(jaxbp.log_softmax, axis=1), partial(jax.nn.log_softmax, axis=1)
    ),
}  # fmt: skip

ALL = {name: (e.rule, e.reference) for name, e in ELEMENTWISE.items()} | ALONG_AXIS


# What another slope or axis goes through once more; the rest would run the same lines again.
AGAIN = {
    "leaky_relu, negative slope": ("plain",),
    "softmax, axis 1": ("plain", "vmap"),
    "log_softmax, axis 1": ("plain", "vmap"),
}


def slope(rule, x):
    """f′, entry by entry."""
    return jax.vjp(rule, x)[1](jnp.ones_like(x))[0]


def in_every_dtype(fn, x):
    """fn(x) for x in each dtype, by one program: that compiles quicker than many small ones."""
    versions = {dtype: jnp.asarray(x, dtype) for dtype in DTYPES}
    return jax.jit(lambda versions: {d: fn(x) for d, x in versions.items()})(versions)


@pytest.mark.parametrize(
    ("name", "transform"),
    sample(
        (
            (name, transform)
            for name in ALL
            for transform in AGAIN.get(name, TRANSFORMS)
            if transform != "dtypes"  # test_precision_over_the_whole_range
        ),
        every=4,
    ),
)
def test_transforms(name, transform, rng):
    rule, reference = ALL[name]
    x = jnp.asarray(rng.standard_normal((2, 3, 2)) * 2, jnp.result_type(float))
    terms = TERMS_OF_GELU if name == "gelu" else TERMS
    TRANSFORMS[transform](rule, reference, (x,), terms=terms)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_are_the_formulas_and_no_worse_than_those_of_jax_nn(name, float64):
    e = ELEMENTWISE[name]
    x = np.array([-1e4, -100.0, -20.0, -3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0, 20.0, 1e4])
    values = in_every_dtype(lambda x: (x, e.rule(x), e.reference(x)), x)
    for dtype, (x, y, theirs) in values.items():
        assert y.dtype == dtype
        for number, ours, their in zip(*map(np.asarray, (x, y, theirs)), strict=True):
            number = float(number)
            what = f"f({number}) in {dtype}"
            if dtype == "float64":
                # exp(−u²) of u = x √½ grows each of u's two roundings, of √½ and of the product, by
                # 2u² = x², until it is 0.
                terms = TERMS_OF_GELU if name == "gelu" else TERMS + 2 * min(number**2, 400)
                assert_close(ours, e.value(number), terms=terms, what=what)
            else:
                assert_no_worse(ours, their, e.value(number), what=what)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_at_infinity_and_nan_are_those_of_jax_nn(name, float64):
    e = ELEMENTWISE[name]
    x = np.array([-np.inf, -0.0, 0.0, np.inf, np.nan])
    for dtype, both in in_every_dtype(lambda x: (e.rule(x), e.reference(x)), x).items():
        ours, theirs = (np.asarray(a, np.float64) for a in both)
        np.testing.assert_array_equal(ours, theirs, dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_their_limits_far_out_and_literal_at_zero(name, float64):
    e = ELEMENTWISE[name]

    def slopes(x):
        far = jnp.finfo(x.dtype).max
        x = jnp.concatenate([x, jnp.stack([-far, far])])
        # Autodiff of the rule's own derivative too.
        return slope(e.rule, x), jax.vmap(jax.grad(jax.grad(e.rule)))(x)

    x = np.array([-np.inf, -1e4, -1000.0, -0.0, 0.0, 1000.0, 1e4, np.inf])
    for dtype, (once, twice) in in_every_dtype(slopes, x).items():
        low, zero, high = (float(jnp.asarray(a, dtype)) for a in e.limits)
        expected = [low] * 3 + [zero] * 2 + [high] * 3 + [low, high]
        np.testing.assert_array_equal(np.asarray(once, np.float64), expected, dtype)
        assert np.isfinite(np.asarray(twice, np.float64)).all(), dtype


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_the_formulas(name, float64):
    """(2.5) f′(z), relative to its own size: in the far tails too."""
    e = ELEMENTWISE[name]
    x = [-30.0, -12.5, -6.0, -3.0, -1.0, -0.1, -1e-9, 1e-9, 0.1, 1.0, 3.0, 6.0]
    slopes = jax.jit(partial(slope, e.rule))(jnp.asarray(x))
    for number, ours in zip(x, np.asarray(slopes), strict=True):
        if e.keeps == "y":  # a rounding of y, which is of the size of 1, and nothing else
            assert_close(ours, e.slope(number), magnitude=1, what=f"f′({number})")
        else:
            # What exp(u) loses by the rounding of u, and the parts that f′ is a difference of.
            terms = TERMS + number**2 if name != "gelu" else TERMS_OF_GELU + abs(number) ** 3
            magnitude = abs(e.slope(number)) + abs(number) * _normal_density(number)
            assert_close(
                ours, e.slope(number), terms=terms, magnitude=magnitude, what=f"f′({number})"
            )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_adjoint_is_the_rules_backward_pass(name, rng):
    """(3.9) δ = dy ⊙ f′(z), by the public adjoint from what the rule keeps."""
    e = ELEMENTWISE[name]
    x, dy = (jnp.asarray(rng.standard_normal((3, 4)), jnp.result_type(float)) for _ in range(2))
    y, pullback = jax.vjp(e.rule, x)
    np.testing.assert_array_equal(e.adjoint(y if e.keeps == "y" else x, dy), *pullback(dy))


# What an adjoint takes, dy, and dx.
ADJOINTS = {
    "sigmoid": (activation.sigmoid_grad, [0.5, 1.0], [2.0, 2.0], [0.5, 0.0]),
    "tanh": (activation.tanh_grad, [0.0, 0.5, 1.0], [2.0, 2.0, 2.0], [2.0, 1.5, 0.0]),
    "relu": (activation.relu_grad, [0.0, 3.0], [2.0, 2.0], [0.0, 2.0]),
    "leaky_relu": (
        partial(activation.leaky_relu_grad, slope=0.5), [-1.0, 0.0], [2.0, 2.0], [1.0, 2.0]
    ),
    "elu": (activation.elu_grad, [-np.inf, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 2.0, 2.0]),
    "gelu": (activation.gelu_grad, [-np.inf, 0.0, np.inf], [2.0, 2.0, 2.0], [0.0, 1.0, 2.0]),
    "silu": (activation.silu_grad, [0.0, np.inf], [2.0, 2.0], [1.0, 2.0]),
    "softplus": (
        activation.softplus_grad, [-np.inf, 0.0, np.inf], [2.0, 2.0, 2.0], [0.0, 1.0, 2.0]
    ),
    "softmax": (activation.softmax_grad, [0.5, 0.5], [3.0, 1.0], [0.5, -0.5]),
    "log_softmax": (activation.log_softmax_grad, [0.25, 0.75], [4.0, 0.0], [3.0, -3.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", ADJOINTS)
def test_adjoints_of_literal_numbers(name):
    """(2.5), and (5.4) for softmax, where every number is exact."""
    adjoint, kept, dy, expected = ADJOINTS[name]
    dx = adjoint(jnp.float32(kept), jnp.float32(dy))
    assert dx.dtype == np.float32
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_rule_keeps_one_array(name, dtype, float64):
    """Least of all: y or x, in float32 for the sums of half precision."""
    rule, _ = ALL[name]
    x = jax.ShapeDtypeStruct((8, 16), jnp.dtype(dtype))
    residuals = jax.eval_shape(lambda x: jax.vjp(rule, x)[1], x)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(residuals))
    wide = 4 if name in ALONG_AXIS else 0
    assert kept == x.size * max(x.dtype.itemsize, wide)


def test_tanh_grad_loses_no_digits_near_one():
    """Outside of jit: within it, XLA may compute 1 − y² in one operation that rounds once."""
    y = np.float32(1) - np.arange(1, 4096, dtype=np.float32) * np.float32(2**-24)
    slope = activation.tanh_grad(y, np.ones_like(y))
    assert_close(slope, 1 - np.square(y, dtype=np.float64), terms=4)


def test_relu_passes_dy_at_nan():
    x = jnp.array([np.nan, -1.0, 1.0])
    y, pullback = jax.vjp(jaxbp.relu, x)
    np.testing.assert_array_equal(y, [np.nan, 0, 1])
    np.testing.assert_array_equal(*pullback(jnp.array([2.0, 3.0, 5.0])), [2, 0, 5])


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if "relu" not in name])
def test_derivative_at_nan_is_nan(name):
    e = ELEMENTWISE[name]
    assert jnp.isnan(jax.jit(partial(slope, e.rule))(jnp.array([np.nan]))).all()


@pytest.mark.parametrize("name", ALL)
def test_finite_differences(name, rng, float64):
    rule, _ = ALL[name]
    x = rng.standard_normal((2, 3, 2)) * 2
    x += np.sign(x) * 0.01  # no kink within a step
    dy = rng.standard_normal(x.shape)
    rule = jax.jit(rule)
    (expected,) = oracles.finite_differences(rule, [x], dy)
    _, (dx,) = compiled(rule, [jnp.asarray(x)], jnp.asarray(dy))
    # Extrapolated differences of a step h = 1e-3 err by a few h⁴ and u/h.
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_softmax_sums_in_float32(dtype, float64):
    """4096 equal logits: a sum in half precision stalls far below."""
    x = jnp.zeros(4096, dtype)
    np.testing.assert_array_equal(np.asarray(jaxbp.softmax(x), np.float64), 1 / 4096)
    (dx,) = jax.vjp(jaxbp.log_softmax, x)[1](jnp.ones_like(x))
    np.testing.assert_array_equal(np.asarray(dx, np.float64), 0)  # 1 − 4096 / 4096


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_large_and_masked_logits(name, dtype, float64):
    rule, reference = ALL[name]
    x = jnp.asarray([[1e4, 0, -1e4], [-np.inf, 0, 0], [3, -np.inf, -np.inf]], dtype)
    dy = jnp.asarray([[1, 2, 3], [0, 1, 3], [1, 0, 0]], dtype)
    y, (dx,) = jax.jit(partial(value_and_cotangents, rule))([x], dy)
    truth = jax.jit(reference)(x.astype("float64")).astype(dtype)
    assert_close(y, truth, terms=TERMS)
    p, dy = np.array([[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]), np.asarray(dy, np.float64)
    if name == "softmax":
        expected = p * (dy - np.sum(p * dy, axis=-1, keepdims=True))
    else:
        expected = dy - p * np.sum(dy, axis=-1, keepdims=True)
    np.testing.assert_array_equal(np.asarray(dx, np.float64), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_nan_stays_in_its_row(name, bad):
    rule, reference = ALL[name]
    x = jnp.array([[1.0, 2.0], [bad, 0.0], [3.0, 1.0]])
    y, (dx,) = compiled(rule, [x])
    for rows in (y, dx):
        np.testing.assert_array_equal(jnp.isnan(rows).any(axis=1), [False, True, False])
    np.testing.assert_array_equal(jnp.isnan(y), jnp.isnan(reference(x)))


def test_softmax_literal_numbers(float64):
    """Logarithms of 1, 2 and 5: probabilities of 1/8, 2/8, 5/8."""
    x = jnp.log(jnp.array([1.0, 2.0, 5.0]))
    dy = jnp.array([8.0, 0.0, 0.0])
    y, (dx,) = compiled(jaxbp.softmax, [x], dy)
    assert_close(y, [0.125, 0.25, 0.625], terms=TERMS)
    assert_close(dx, [0.875, -0.25, -0.625], terms=TERMS)  # y_i (dy_i − 1)
    y, (dx,) = compiled(jaxbp.log_softmax, [x], dy)
    assert_close(y, np.log([0.125, 0.25, 0.625]), terms=TERMS)
    assert_close(dx, [7.0, -2.0, -5.0], terms=TERMS)  # dy_i − 8 p_i
    assert_close(activation.softmax_grad(jnp.exp(y), dy), [0.875, -0.25, -0.625], terms=TERMS)
    assert_close(activation.log_softmax_grad(jnp.exp(y), dy), [7.0, -2.0, -5.0], terms=TERMS)


@pytest.mark.parametrize("name", sample(ALL, every=2))
def test_precision_over_the_whole_range(name, rng):
    """Against autodiff of jax.nn's function in the same dtype, on a wide range of numbers."""
    rule, reference = ALL[name]
    x = rng.standard_normal((8, 16, 8)) * 8
    narrow = ("float32", "bfloat16", "float16")  # in float64: the formulas, above
    TRANSFORMS["dtypes"](rule, reference, (x,), terms=TERMS, dtypes=narrow)


@pytest.mark.parametrize("name", ALL)
def test_empty_arrays(name):
    rule, _ = ALL[name]
    given = [jnp.zeros(shape) for shape in [(0, 3), (3, 0), (1, 1)]]
    results = jax.jit(lambda given: [value_and_cotangents(rule, [x]) for x in given])(given)
    for x, (y, (dx,)) in zip(given, results, strict=True):
        assert y.shape == dx.shape == x.shape
        assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_scalars(name):
    e = ELEMENTWISE[name]
    y = e.rule(0.5)
    assert y.shape == ()
    assert_close(y, e.value(0.5), terms=TERMS)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "x", [[1.0], None, "x", True, jnp.arange(3), jnp.ones(3, complex)], ids=repr
)
def test_wrong_types(name, x):
    rule, _ = ALL[name]
    word = name.split(",")[0]
    with pytest.raises(TypeError, match=rf"^{word}: x must be a real floating array, got "):
        rule(x)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: jaxbp.leaky_relu(x, jnp.float32(0.1)), TypeError, "leaky_relu: slope must be"),
        (lambda x: jaxbp.leaky_relu(x, "0.1"), TypeError, "leaky_relu: slope must be"),
        (lambda x: jaxbp.leaky_relu(x, np.inf), ValueError, "leaky_relu: slope must be finite"),
        (lambda x: jaxbp.gelu(x, "tanh"), TypeError, "gelu: approximate must be True or False"),
        (lambda x: jaxbp.gelu(x, 1), TypeError, "gelu: approximate must be True or False"),
        (lambda x: jaxbp.softmax(x, 2), ValueError, "softmax: axis must be an axis"),
        (lambda x: jaxbp.softmax(x, (0, 1)), TypeError, "softmax: axis must be an axis"),
        (lambda x: jaxbp.softmax(x[0, 0]), ValueError, "softmax: axis must be an axis"),
        (lambda x: jaxbp.log_softmax(x, -3), ValueError, "log_softmax: axis must be an axis"),
        (lambda x: activation.relu_grad(x, x[0]), ValueError, r"relu_grad: dy must be of shape"),
        (lambda x: activation.tanh_grad(x, x.astype("float16")), TypeError, "tanh_grad: dy must"),
        (lambda x: activation.softmax_grad(x, x, 2), ValueError, "softmax_grad: axis must be"),
        (lambda x: activation.gelu_grad(x, x, 0), TypeError, "gelu_grad: approximate must be"),
        (lambda x: activation.leaky_relu_grad(x, x, None), TypeError, "leaky_relu_grad: slope"),
    ],
)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=rf"^{message}"):
        call(jnp.ones((2, 3)))
