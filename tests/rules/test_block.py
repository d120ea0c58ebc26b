"""The block as one rule against the composition that (5.5) and (5.6) say it equals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbp
from tests.tolerance import assert_close
from tests.transforms import TRANSFORMS

OPTIONS = {
    "2×2": {},
    "overlapping": {"window": 3, "pool_stride": 2},
    "strided, cropped": {"stride": 2, "padding": [(-1, 2), (1, 0)], "window": (2, 1)},
    "groups": {"groups": 2, "padding": "VALID"},
    "dilated": {"dilation": 2},
}


def arrays(rng, dtype=np.float32, groups=1, batch=3, features=6):
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    return draw(batch, 8, 9, 4), draw(3, 3, 4 // groups, features), draw(features)


def composed(x, w, b=None, *, window=2, pool_stride=None, **options):
    z = jaxbp.relu(jaxbp.conv(x, w, b, **options))
    return jaxbp.max_pool(z, window, stride=pool_stride)


def plain(x, w, b):
    """The 2×2 block without any rule of the library."""
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    z = z + b
    n, h, width, o = z.shape
    z = z[:, : h // 2 * 2, : width // 2 * 2].reshape(n, h // 2, 2, width // 2, 2, o)
    z = jnp.max(z, axis=(2, 4))
    return jnp.where(z <= 0, 0, z)


def results(f, args, dy=None):
    y, pullback = jax.vjp(f, *args)
    dy = (
        jnp.asarray(np.random.default_rng(5).standard_normal(y.shape), y.dtype)
        if dy is None
        else dy
    )
    return y, *pullback(dy)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_composition(name, bias, rng):
    options = OPTIONS[name]
    args = arrays(rng, groups=options.get("groups", 1))[: 3 if bias else 2]
    ours = jax.jit(lambda *a: results(lambda *a: jaxbp.conv_relu_max_pool(*a, **options), a))(*args)
    theirs = jax.jit(lambda *a: results(lambda *a: composed(*a, **options), a))(*args)
    for a, b, terms in zip(ours, theirs, (40, 60, 300, 300), strict=False):
        assert_close(a, np.asarray(b, np.float64), terms=2 * terms)


def test_literal_values():
    """A tie: the first wins. A window below zero: nothing comes back. A bias that decides."""
    x = jnp.asarray([1.0, 1.0, -4.0, -5.0, 2.0, 3.0], jnp.float32).reshape(1, 6, 1)
    w, b = jnp.ones((1, 1, 1), jnp.float32), jnp.asarray([-1.0], jnp.float32)
    y, pullback = jax.vjp(jaxbp.conv_relu_max_pool, x, w, b)
    np.testing.assert_array_equal(y[0, :, 0], [0, 0, 2])
    dx, dw, db = pullback(jnp.asarray([1.0, 10.0, 100.0], jnp.float32).reshape(1, 3, 1))
    np.testing.assert_array_equal(dx[0, :, 0], [0, 0, 0, 0, 0, 100])
    np.testing.assert_array_equal(dw.ravel(), [300])
    np.testing.assert_array_equal(db, [100])
    _, pullback = jax.vjp(lambda x: jaxbp.conv_relu_max_pool(x, w), x)
    (dx,) = pullback(jnp.ones((1, 3, 1), jnp.float32))
    np.testing.assert_array_equal(dx[0, :, 0], [1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformations(transform, rng):
    def rule(x, w, b):
        return jaxbp.conv_relu_max_pool(x, w, b)

    x, w, b = arrays(rng, batch=2, features=128 if transform == "dtypes" else 6)
    if transform == "dtypes":
        # Many features, so that the largest of the bias's rounding errors tells more than luck (the
        # rule sums on a grid of its own), and whole windows, so that both sides convolve one dz.
        x = x[:, :, :8]
    TRANSFORMS[transform](rule, plain, (x, w, b), terms=80)


def test_second_order(rng):
    x, w, b = arrays(rng, batch=1)

    def hessian(f):
        loss = lambda b: jnp.sum(jnp.sin(f(x, w, b)))  # noqa: E731
        return jax.jacfwd(jax.jacrev(loss))(b)

    assert_close(
        hessian(jaxbp.conv_relu_max_pool), np.asarray(hessian(composed), np.float64), terms=100
    )


def test_the_derivative_at_zero_is_zero_without_the_rule_too():
    """(5.6) with the rule taken out, so that both sides of a comparison agree at a kink."""
    x, w, b = jnp.zeros((1, 2, 1)), jnp.ones((1, 1, 1)), jnp.zeros(1)
    for f in (jaxbp.conv_relu_max_pool, jaxbp.plain(jaxbp.conv_relu_max_pool)):
        _, *cotangents = results(f, (x, w, b))
        assert not any(d.any() for d in cotangents)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype, rng):
    args = arrays(rng, dtype)
    ours, theirs = results(jaxbp.conv_relu_max_pool, args), results(composed, args)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert_close(a, np.asarray(b, np.float64), terms=600)


@pytest.mark.parametrize("channels", [(0, 3), (2, 0)])
def test_no_channels(channels):
    c, o = channels
    args = jnp.ones((2, 4, 4, c)), jnp.ones((1, 1, c, o)), jnp.ones((o,))
    y, *cotangents = jax.jit(lambda *a: results(jaxbp.conv_relu_max_pool, a))(*args)
    np.testing.assert_array_equal(y, np.ones((2, 2, 2, o)))  # the bias
    assert [d.shape for d in cotangents] == [a.shape for a in args]


def test_no_example():
    dx, dw, db = results(
        jaxbp.conv_relu_max_pool,
        (jnp.ones((0, 4, 4, 2)), jnp.ones((3, 3, 2, 3)), jnp.ones(3)),
    )[1:]
    assert dx.shape == (0, 4, 4, 2)
    assert not dw.any()
    assert not db.any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window": 0}, "window"),
        ({"pool_stride": 0}, "pool_stride"),
        ({"stride": 0}, "stride"),
        ({"groups": 3}, "groups"),
    ],
)
def test_bad_input_is_named(change, named):
    with pytest.raises(ValueError, match=rf"conv_relu_max_pool: {named} must be"):
        jaxbp.conv_relu_max_pool(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 4)), **change)
