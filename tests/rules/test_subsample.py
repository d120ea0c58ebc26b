"""Subsampling and combination of maps against the formulas of chapter 5, written as loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.rules import subsample as rules
from tests import oracles
from tests.daily import sample
from tests.oracles import places
from tests.tolerance import assert_close, summed_in
from tests.transforms import DTYPES, TRANSFORMS, compiled

# Windows that divide the input, windows that leave a rest, one axis to three, one as large as all.
GEOMETRIES = {
    "1-D": ((6,), (2,)),
    "1-D, remainder": ((7,), (3,)),
    "2-D": ((4, 6), (2, 2)),
    "2-D, remainder": ((5, 7), (2, 3)),
    "2-D, one window": ((3, 4), (3, 4)),
    "2-D, single cells": ((2, 3), (1, 1)),
    "3-D": ((2, 5, 4), (2, 2, 1)),
}


# The oracles: (5.1) to (5.4) in float64, one loop for each index.


def windows(spatial, size):
    """Each window's index i and the places of its cells."""
    for i in places(tuple(n // k for n, k in zip(spatial, size, strict=True))):
        yield i, [tuple(np.multiply(i, size) + m) for m in places(size)]


def means(x, size):
    n, *spatial, c = x.shape
    result = np.zeros((n, *(s // k for s, k in zip(spatial, size, strict=True)), c))
    for i, cells in windows(spatial, size):
        for k in cells:
            for example, channel in places((n, c)):
                result[(example, *i, channel)] += x[(example, *k, channel)] / len(cells)
    return result


def subsample(x, beta, b, size):
    """(5.1) z = β mean(x) + b, one β and one b a map."""
    z = means(x, size)
    for at in places(z.shape):
        z[at] = beta[at[-1]] * z[at] + b[at[-1]]
    return z


def subsample_grads(x, beta, dz, size):
    """(5.2) ∂L/∂β = Σ δ mean(x), ∂L/∂b = Σ δ, ∂L/∂x = β up(δ) / |K|."""
    mean = means(x, size)
    dx, dbeta, db = np.zeros(x.shape), np.zeros(beta.shape), np.zeros(beta.shape)
    for at in places(dz.shape):
        dbeta[at[-1]] += dz[at] * mean[at]
        db[at[-1]] += dz[at]
    for i, cells in windows(x.shape[1:-1], size):
        for k in cells:
            for n, c in places((x.shape[0], x.shape[-1])):
                dx[(n, *k, c)] = beta[c] * dz[(n, *i, c)] / len(cells)
    return dx, dbeta, db


def shares(c):
    """α_co, the softmax over c."""
    alpha = np.zeros(c.shape)
    for i, o in places(c.shape):
        alpha[i, o] = 1 / sum(np.exp(c[k, o] - c[i, o]) for k in range(len(c)))
    return alpha


def combine_maps(x, c):
    """(5.3) z_o = Σ_c α_co x_c."""
    alpha = shares(c)
    z = np.zeros((*x.shape[:-1], c.shape[1]))
    for *at, o in places(z.shape):
        z[(*at, o)] = sum(alpha[i, o] * x[(*at, i)] for i in range(len(c)))
    return z


def combine_maps_grads(x, c, dz):
    """(5.4) ∂L/∂α_co = Σ δ_o x_c, ∂L/∂c_co = α_co (∂L/∂α_co − Σ_k α_ko ∂L/∂α_ko)."""
    alpha, dalpha, dc, dx = shares(c), np.zeros(c.shape), np.zeros(c.shape), np.zeros(x.shape)
    for *at, o in places(dz.shape):
        for i in range(len(c)):
            dalpha[i, o] += dz[(*at, o)] * x[(*at, i)]
            dx[(*at, i)] += dz[(*at, o)] * alpha[i, o]
    for i, o in places(c.shape):
        dc[i, o] = alpha[i, o] * (
            dalpha[i, o] - sum(alpha[k, o] * dalpha[k, o] for k in range(len(c)))
        )
    return dx, dc


# Autodiff's side of the transformations.


def plain_subsample(x, beta, b, size):
    wide = summed_in(x.dtype)
    n, *spatial, c = x.shape
    kept = [s // k * k for s, k in zip(spatial, size, strict=True)]
    x = x.astype(wide)[(slice(None), *map(slice, kept))]
    split = [part for s, k in zip(kept, size, strict=True) for part in (s // k, k)]
    mean = x.reshape(n, *split, c).mean(axis=tuple(range(2, 1 + len(split), 2)))
    return (beta.astype(wide) * mean + b.astype(wide)).astype(b.dtype)


def plain_combine_maps(x, c):
    wide = summed_in(x.dtype)
    alpha = jax.nn.softmax(c.astype(wide), axis=0).astype(x.dtype)
    return jnp.einsum("...c,co->...o", x, alpha, preferred_element_type=wide).astype(x.dtype)


def subsample_args(rng, spatial, dtype=None):
    dtype = jnp.result_type(float) if dtype is None else dtype
    shapes = [(2, *spatial, 3), (3,), (3,)]
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]


def combine_args(rng, spatial, dtype=None):
    dtype = jnp.result_type(float) if dtype is None else dtype
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in [(2, *spatial, 4), (4, 3)]]


def as64(args):
    return [np.asarray(a, np.float64) for a in args]


@pytest.mark.parametrize("transform", sample(TRANSFORMS, every=3, start=1))
def test_transforms_of_subsample(transform, rng):
    rule = partial(jaxbp.subsample, window=2)
    plain = partial(plain_subsample, size=(2, 2))
    TRANSFORMS[transform](rule, plain, subsample_args(rng, (4, 5)), terms=16)


@pytest.mark.parametrize("transform", sample(TRANSFORMS, every=3, start=2))
def test_transforms_of_combine_maps(transform, rng):
    args = combine_args(rng, (2, 3))
    TRANSFORMS[transform](jaxbp.combine_maps, plain_combine_maps, args, terms=32)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_subsample_is_the_documents_sums(name, rng):
    """(5.1) forward, (5.2) backward, by the rule and by its public adjoints."""
    spatial, size = GEOMETRIES[name]
    args = subsample_args(rng, spatial)
    x, beta, b = as64(args)
    z = subsample(x, beta, b, size)
    dz = rng.standard_normal(z.shape)
    dx, dbeta, db = subsample_grads(x, beta, dz, size)
    actual = compiled(partial(jaxbp.subsample, window=size), args, jnp.asarray(dz, args[0].dtype))
    terms = int(np.prod(size)) + 2
    assert_close(actual[0], z, terms=terms)
    assert_close(actual[1][0], dx)
    places_summed = dz[..., 0].size
    size_of_dbeta = subsample_grads(abs(x), beta, abs(dz), size)[1]
    assert_close(actual[1][1], dbeta, terms=terms + places_summed, magnitude=size_of_dbeta)
    assert_close(actual[1][2], db, terms=places_summed, magnitude=abs(dz).sum())
    mean, dz = jnp.asarray(means(x, size), args[0].dtype), jnp.asarray(dz, args[0].dtype)
    assert_close(rules.subsample_input_grad(dz, args[1], x.shape, size), dx)
    adjoint = rules.subsample_beta_grad(mean, dz)
    assert_close(adjoint, dbeta, terms=terms + places_summed, magnitude=size_of_dbeta)


@pytest.mark.parametrize("spatial", [(3,), (2, 3), (2, 1, 3)])
def test_combine_maps_is_the_documents_sums(spatial, rng):
    """(5.3) forward, (5.4) backward, by the rule and by its public adjoint."""
    args = combine_args(rng, spatial)
    x, c = as64(args)
    z = combine_maps(x, c)
    dz = rng.standard_normal(z.shape)
    dx, dc = combine_maps_grads(x, c, dz)
    actual = compiled(jaxbp.combine_maps, args, jnp.asarray(dz, args[0].dtype))
    magnitude = abs(x).sum() * abs(dz).max()
    assert_close(actual[0], z, terms=8, magnitude=abs(x).max())
    assert_close(actual[1][0], dx, terms=8, magnitude=3 * abs(dz).max())
    assert_close(actual[1][1], dc, terms=16, magnitude=magnitude)
    alpha, dz = (jnp.asarray(a, args[0].dtype) for a in (shares(c), dz))
    adjoint = rules.combine_maps_coefficient_grad(args[0], alpha, dz)
    assert_close(adjoint, dc, terms=16, magnitude=magnitude)


def test_subsample_literal_numbers():
    """The rest that no window reaches gets nothing."""
    x = jnp.array([1.0, 3.0, 5.0, 9.0, 100.0]).reshape(1, 5, 1)
    z, (dx, dbeta, db) = compiled(
        partial(jaxbp.subsample, window=2),
        [x, jnp.array([4.0]), jnp.array([0.5])],
        jnp.array([1.0, 10.0]).reshape(1, 2, 1),
    )
    np.testing.assert_array_equal(z.ravel(), [8.5, 28.5])
    np.testing.assert_array_equal(dx.ravel(), [2, 2, 20, 20, 0])
    np.testing.assert_array_equal(dbeta, [2 * 1 + 7 * 10])
    np.testing.assert_array_equal(db, [11])


def test_combine_maps_shares_of_one_map_sum_to_one(rng):
    """Moving a column of c, or equal maps, change nothing; a coefficient of 1e4 takes all."""
    x, c = combine_args(rng, (2, 3))
    moved = jaxbp.combine_maps(x, c + 8)
    assert_close(moved, jaxbp.combine_maps(x, c), terms=32, magnitude=float(abs(x).max()))
    equal = jnp.broadcast_to(x[..., :1], x.shape)
    z, (_, dc) = compiled(jaxbp.combine_maps, [equal, c])
    assert_close(z, np.broadcast_to(x[..., :1], z.shape), terms=8)
    magnitude = float(jnp.abs(x).sum()) * 3
    assert_close(dc, np.zeros(c.shape), terms=32, magnitude=magnitude)
    z = jaxbp.combine_maps(x, jnp.zeros((4, 1)).at[2].set(1e4).astype(x.dtype))
    np.testing.assert_array_equal(z[..., 0], x[..., 2])


@pytest.mark.parametrize("window", [2, (3, 2)])
def test_finite_differences(window, rng, float64):
    args = subsample_args(rng, (4, 5), "float64")
    rule = partial(jaxbp.subsample, window=window)
    dz = rng.standard_normal(rule(*args).shape)
    expected = oracles.finite_differences(rule, [np.array(a) for a in args], dz)
    for ours, theirs in zip(compiled(rule, args, jnp.asarray(dz))[1], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_finite_differences_of_combine_maps(rng, float64):
    args = combine_args(rng, (2, 2), "float64")
    dz = rng.standard_normal((2, 2, 2, 3))
    expected = oracles.finite_differences(jaxbp.combine_maps, [np.array(a) for a in args], dz)
    ours = compiled(jaxbp.combine_maps, args, jnp.asarray(dz))[1]
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_sums_in_float32(dtype):
    """4096 ones: each sum would stall at 256 or 2048, or overflow at 4096 · 100."""
    x, one = jnp.full((1, 64, 64, 1), 100, dtype), jnp.ones(1, dtype)
    z, _ = compiled(partial(jaxbp.subsample, window=64), [x, one, 0 * one])
    assert z.item() == 100
    ones = jnp.ones((1, 64, 64, 1), dtype)
    _, (_, dbeta, db) = compiled(partial(jaxbp.subsample, window=1), [ones, one, one], ones)
    assert (dbeta.item(), db.item()) == (4096, 4096)
    maps = jnp.concatenate([ones, 0 * ones], axis=-1)
    _, (_, dc) = compiled(jaxbp.combine_maps, [maps, jnp.zeros((2, 1), dtype)], ones)
    np.testing.assert_array_equal(np.asarray(dc, np.float64), [[1024], [-1024]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 1, 1, 3), (2, 0, 4, 3), (2, 4, 4, 0)])
def test_empty_and_small(shape, dtype, float64):
    channels = shape[-1]
    x = jnp.ones(shape, dtype)
    scale = jnp.ones(channels, dtype)
    rule = partial(jaxbp.subsample, window=2)
    z, cotangents = compiled(rule, [x, scale, scale])
    assert z.shape == (shape[0], shape[1] // 2, shape[2] // 2, channels)
    assert [a.shape for a in cotangents] == [shape, (channels,), (channels,)]
    if 0 in z.shape:
        assert not any(a.any() for a in cotangents)
    z, cotangents = compiled(jaxbp.combine_maps, [x, jnp.ones((channels, 5), dtype)])
    assert z.shape == (*shape[:-1], 5)
    assert [a.shape for a in cotangents] == [shape, (channels, 5)]
    assert all(jnp.isfinite(a).all() for a in (z, *cotangents))


def test_subsample_keeps_the_means_and_beta():
    x, scale = jnp.ones((2, 8, 8, 3)), jnp.ones(3)
    _, pullback = jax.vjp(partial(jaxbp.subsample, window=2), x, scale, scale)
    assert sum(a.size for a in jax.tree.leaves(pullback)) == 2 * 4 * 4 * 3 + 3


X, SCALE = np.zeros((2, 4, 4, 3), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        *(
            (partial(jaxbp.subsample, *args), kind, f"subsample: {message}")
            for args, kind, message in [
                ((X[0, 0], SCALE, SCALE, 2), ValueError, r"x must be \[N, \*S, C\]"),
                ((X, SCALE[:2], SCALE, 2), ValueError, r"beta must be of shape \(3,\)"),
                ((X, SCALE, SCALE[None], 2), ValueError, r"b must be of shape \(3,\)"),
                ((X, np.float32(1), SCALE, 2), ValueError, r"beta must be of shape \(3,\)"),
                ((X, SCALE.astype(int), SCALE, 2), TypeError, "beta must be a real floating"),
                ((X, SCALE, SCALE.astype("float16"), 2), TypeError, "b must be float32"),
                ((X, SCALE, None, 2), TypeError, "b must be a real floating"),
                ((X, SCALE, SCALE, 0), ValueError, "window must be"),
                ((X, SCALE, SCALE, (2, 2, 2)), ValueError, "window must be"),
                ((X, SCALE, SCALE, 2.0), TypeError, "window must be"),
            ]
        ),
        *(
            (partial(jaxbp.combine_maps, *args), kind, f"combine_maps: {message}")
            for args, kind, message in [
                ((X[0, 0], np.zeros((3, 2), np.float32)), ValueError, "x must be"),
                ((X, np.zeros((2, 3), np.float32)), ValueError, r"c must be \[C, O\] with C 3"),
                ((X, SCALE), ValueError, r"c must be coefficients \[C, O\]"),
                ((X, np.zeros((3, 2), int)), TypeError, "c must be a real floating"),
                ((X, np.zeros((3, 2), "float16")), TypeError, "c must be float32"),
            ]
        ),
        (
            lambda: rules.subsample_input_grad(X, SCALE, (2, 4, 4, 3), 2),
            ValueError,
            "subsample_input_grad: dz must be of shape",
        ),
        (
            lambda: rules.subsample_input_grad(X, SCALE, (2, 8, 3), 2),
            ValueError,
            "subsample_input_grad: input_shape must be",
        ),
        (
            lambda: rules.subsample_input_grad(X, SCALE[:1], (2, 8, 8, 3), 2),
            ValueError,
            "subsample_input_grad: beta must be",
        ),
        (
            lambda: rules.subsample_beta_grad(X, X[:1]),
            ValueError,
            "subsample_beta_grad: dz must be of shape",
        ),
        (
            lambda: rules.combine_maps_coefficient_grad(X, np.zeros((3, 2), np.float32), X),
            ValueError,
            "combine_maps_coefficient_grad: dz must be of shape",
        ),
        (
            lambda: rules.combine_maps_coefficient_grad(X, np.zeros((2, 2), np.float32), X),
            ValueError,
            "combine_maps_coefficient_grad: alpha must be of shape",
        ),
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=rf"^{message}"):
        call()
