"""Transposed convolution against a literal sum, lax, its adjoint and every transformation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jaxbp
from tests import oracles
from tests.daily import sample
from tests.rules.geometry import Case, default_dtype, numbers, small_integers
from tests.tolerance import assert_close
from tests.transforms import TRANSFORMS, compiled, value_and_cotangents

SPATIAL = {1: "X", 2: "YX", 3: "ZYX"}

CASES = {
    "1d": Case((4,), (3,)),
    "1d stride": Case((3,), (2,), stride=3),
    "1d same": Case((4,), (3,), stride=2, padding="SAME"),
    "1d dilation": Case((3,), (2,), stride=2, padding=2, dilation=3),
    "2d": Case((3, 2), (2, 3), stride=(1, 2)),
    "2d same": Case((3, 3), (3, 2), stride=2, padding="SAME"),
    "2d int padding": Case((3, 4), (3, 3), stride=2, padding=1),
    "2d pairs": Case((3, 3), (2, 2), stride=2, padding=((1, 0), (0, 2))),
    "2d crop": Case((4, 3), (2, 2), stride=2, padding=((-1, 0), (1, -1))),
    "2d stride larger than window": Case((2, 3), (1, 2), stride=(3, 3), padding="SAME"),
    "2d kernel larger than all": Case((2, 2), (4, 4), padding=0),
    "1x1": Case((3, 3), (1, 1), stride=2),
    "3d": Case((2, 2, 1), (2, 1, 2), stride=(2, 1, 2), padding="SAME"),
}
CHANNELS = {"one group": (3, 2, 1), "two groups": (4, 6, 2), "depthwise": (3, 3, 3)}  # C, O, groups


def lax_conv_transpose(x, w, b=None, *, stride, padding, dilation):
    """lax's function, which knows no groups, with the kernel [*K, O, C]."""
    axes = x.ndim - 2
    s = SPATIAL[axes]
    z = lax.conv_transpose(
        x,
        w,
        (stride,) * axes if isinstance(stride, int) else stride,
        ((padding, padding),) * axes if isinstance(padding, int) else padding,
        rhs_dilation=(dilation,) * axes if isinstance(dilation, int) else dilation,
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        transpose_kernel=True,
    )
    return z if b is None else z + b


def plain(x, w, b=None, *, groups=1, **options):
    """lax's function, group by group."""
    parts = [
        lax_conv_transpose(*pair, **options)
        for pair in zip(jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True)
    ]
    z = jnp.concatenate(parts, axis=-1)
    return z if b is None else z + b


def arrays(rng, case, channels, batch=2, draw=numbers):
    c, o, groups = channels
    x = draw(rng, (batch, *case.spatial, c))
    w = draw(rng, (*case.size, o // groups, c))
    return x, w, draw(rng, (o,))


def options(case):
    return {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}


def pairs_of_lax(case):
    """The padding of the dilated input, as lax documents "SAME" and "VALID" and reads pairs."""
    if not isinstance(case.padding, str):
        return case.pairs
    pairs = []
    for k, s, d in zip(case.size, case.strides, case.dilations, strict=True):
        span = d * (k - 1) + 1
        if case.padding == "SAME":  # n·s places
            total = span + s - 2
            low = span - 1 if s > span - 1 else -(-total // 2)
        else:  # every place that the kernel touches
            total = span + s - 2 + max(span - s, 0)
            low = span - 1
        pairs.append((low, total - low))
    return tuple(pairs)


@pytest.mark.parametrize("name", CASES)
def test_value_is_that_of_lax_and_of_the_sum(name, rng):
    """(3.7) used as a layer."""
    case = CASES[name]
    x, w, b = arrays(rng, case, CHANNELS["one group"])
    y = jaxbp.conv_transpose(x, w, b, **options(case))
    assert_close(y, lax_conv_transpose(x, w, b, **options(case)), terms=w[..., 0, :].size)
    x, w, b = (np.asarray(a, np.float64) for a in (x, w, b))
    geometry = {"stride": case.strides, "padding": pairs_of_lax(case), "dilation": case.dilations}
    assert_close(
        y,
        oracles.conv_transpose(x, w, **geometry) + b,
        terms=w[..., 0, :].size + 1,
        magnitude=oracles.conv_transpose(np.abs(x), np.abs(w), **geometry) + np.abs(b),
    )


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", ["1d same", "1d dilation", "2d pairs", "2d crop"])
def test_whole_numbers_are_exact(name, channels, rng):
    """(3.7) forward, by groups; (3.5), (3.6), (3.8) backward: ⟨dy, y⟩ = ⟨dx, x⟩ = ⟨dw, w⟩."""
    case, groups = CASES[name], CHANNELS[channels][-1]
    x, w, b = arrays(rng, case, CHANNELS[channels], draw=small_integers)

    def rule(x, w, b):
        return jaxbp.conv_transpose(x, w, b, groups=groups, **options(case))

    dy = small_integers(rng, jax.eval_shape(rule, x, w, b).shape)
    y, (dx, dw, db) = jax.jit(lambda args, dy: value_and_cotangents(rule, args, dy))((x, w, b), dy)
    literal = oracles.conv_transpose(
        np.asarray(x, np.float64),
        np.asarray(w, np.float64),
        stride=case.strides,
        padding=pairs_of_lax(case),
        dilation=case.dilations,
        groups=groups,
    )
    np.testing.assert_array_equal(y - b, literal)
    assert np.sum(dy * literal) == np.sum(dx * x) == np.sum(dw * w)
    np.testing.assert_array_equal(db, oracles.conv_bias_grad(np.asarray(dy, np.float64)))


def test_shapes_are_those_of_lax():
    """Every stride, padding, dilation and size of a grid, by shape only."""
    paddings = ["SAME", "VALID", 0, 2, ((-1, 2),), ((0, -1),)]
    grid = itertools.product((1, 2, 4), (1, 2, 3), (1, 2, 4), paddings, (1, 2))
    for n, k, stride, padding, dilation in grid:
        given = {"stride": stride, "padding": padding, "dilation": dilation}
        x = jax.ShapeDtypeStruct((1, n, 2), default_dtype())
        w = jax.ShapeDtypeStruct((k, 3, 2), default_dtype())
        ours, theirs = (
            jax.eval_shape(lambda x, w, fn=fn, given=given: fn(x, w, **given), x, w).shape
            for fn in (jaxbp.conv_transpose, lax_conv_transpose)
        )
        assert ours == theirs, f"input {n}, kernel {k}, {given}"


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(0, 99),
)
def test_it_is_the_adjoint_of_the_convolution(n, k, stride, crop, dilation, seed):
    """(3.7) is the adjoint of (3.5): ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩ exactly."""
    span = dilation * (k - 1) + 1
    low = high = span - 1 - min(crop, span - 1)  # of conv: conv_transpose's pair is the rest
    rng = np.random.default_rng(seed)
    y, w = small_integers(rng, (2, n, 3)), small_integers(rng, (k, 2, 3))
    spread = jaxbp.conv_transpose(
        y, w, stride=stride, padding=((span - 1 - low, span - 1 - high),), dilation=dilation
    )
    x = small_integers(rng, spread.shape)
    if not x.size:
        return
    z = jaxbp.conv(x, w, stride=stride, padding=((low, high),), dilation=dilation)
    assert z.shape == y.shape
    assert jnp.sum(z * y) == jnp.sum(x * spread)


@pytest.mark.parametrize("transform", sample(TRANSFORMS, every=3))
def test_transformations(transform, rng):
    case = Case((3, 2), (3, 2), stride=(2, 1), padding=((1, 2), (0, 1)))
    x, w, b = arrays(rng, case, CHANNELS["two groups"])
    TRANSFORMS[transform](
        lambda x, w, b: jaxbp.conv_transpose(x, w, b, groups=2, **options(case)),
        lambda x, w, b: plain(x, w, b, groups=2, **options(case)),
        (x, w, b),
        terms=40,
    )


def test_a_batch_of_none(rng):
    case = CASES["2d same"]
    x, w, b = arrays(rng, case, CHANNELS["one group"], batch=0)
    y, (dx, dw, db) = compiled(
        lambda *args: jaxbp.conv_transpose(*args, **options(case)), (x, w, b)
    )
    assert (y.shape, dx.shape) == ((0, 6, 6, 2), x.shape)
    np.testing.assert_array_equal(dw, np.zeros(w.shape))
    np.testing.assert_array_equal(db, np.zeros(b.shape))


@pytest.mark.parametrize("kernel", [2, 1])
@pytest.mark.parametrize("channels", [(0, 3), (2, 0)])
def test_no_channels(channels, kernel):
    c, o = channels
    x, w, b = jnp.ones((2, 3, 3, c)), jnp.ones((kernel, kernel, o, c)), jnp.ones((o,))
    y, (dx, dw, db) = compiled(jaxbp.conv_transpose, (x, w, b))
    assert (y.shape, dx.shape, dw.shape, db.shape) == ((2, 3, 3, o), x.shape, w.shape, b.shape)
    np.testing.assert_array_equal(y, np.ones(y.shape))  # the bias


def test_a_kernel_larger_than_all_gives_no_places(rng):
    case = CASES["2d kernel larger than all"]
    x, w, b = arrays(rng, case, CHANNELS["one group"])
    y, (dx, dw, _) = compiled(lambda *args: jaxbp.conv_transpose(*args, **options(case)), (x, w, b))
    assert y.shape == (2, 0, 0, 2)
    np.testing.assert_array_equal(dx, np.zeros(x.shape))
    np.testing.assert_array_equal(dw, np.zeros(w.shape))


X, W, B = np.ones((2, 3, 3, 4)), np.ones((2, 2, 6, 4)), np.ones(6)
ct = jaxbp.conv_transpose

BAD_CALLS = {
    "x a list": (lambda: ct([1.0], W), "x", TypeError),
    "x integers": (lambda: ct(X.astype(np.int32), W), "x", TypeError),
    "x complex": (lambda: ct(X.astype(complex), W), "x", TypeError),
    "x of rank 2": (lambda: ct(X[0, 0], W), "x", ValueError),
    "w None": (lambda: ct(X, None), "w", TypeError),
    "w of another dtype": (lambda: ct(X, W.astype(np.float16)), "w", TypeError),
    "w of another rank": (lambda: ct(X, W[0]), "w", ValueError),
    "w with O and C exchanged": (lambda: ct(X, W.swapaxes(2, 3)), "w", ValueError),
    "w without cells": (lambda: ct(X, W[:0]), "w", ValueError),
    "b of another length": (lambda: ct(X, W, np.ones(4)), "b", ValueError),
    "b a string": (lambda: ct(X, W, "b"), "b", TypeError),
    "stride zero": (lambda: ct(X, W, stride=0), "stride", ValueError),
    "stride a float": (lambda: ct(X, W, stride=2.0), "stride", TypeError),
    "dilation zero": (lambda: ct(X, W, dilation=(1, 0)), "dilation", ValueError),
    "dilation None": (lambda: ct(X, W, dilation=None), "dilation", TypeError),
    "padding unknown": (lambda: ct(X, W, padding="FULL"), "padding", ValueError),
    "padding None": (lambda: ct(X, W, padding=None), "padding", TypeError),
    "padding three pairs": (lambda: ct(X, W, padding=((0, 0),) * 3), "padding", ValueError),
    "padding crops too much": (lambda: ct(X, W, padding=-9), "padding", ValueError),
    "groups zero": (lambda: ct(X, W, groups=0), "groups", ValueError),
    "groups a float": (lambda: ct(X, W, groups=2.0), "groups", TypeError),
    "groups a bool": (lambda: ct(X, W, groups=True), "groups", TypeError),
    "groups no divisor": (lambda: ct(X, W, groups=3), "groups", ValueError),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name):
    call, argument, kind = BAD_CALLS[name]
    with pytest.raises(kind, match=rf"^conv_transpose: {argument} must be .*, got .+"):
        call()
