"""Convolution against the document's sums, lax, finite differences and every transformation."""

import inspect
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jaxbp
from jaxbp.lowering.choice import TABLE
from tests import oracles
from tests.rules.geometry import CASES, Case, default_dtype, numbers, small_integers, windows
from tests.tolerance import assert_close, summed_in
from tests.transforms import TRANSFORMS, compiled, value_and_cotangents

SPATIAL = {1: "X", 2: "YX", 3: "ZYX"}
CHANNELS = {"one group": (2, 3, 1), "two groups": (4, 2, 2), "depthwise": (3, 6, 3)}  # C, O, groups


def plain_conv(x, w, b=None, *, stride=1, padding="SAME", dilation=1, groups=1):
    """lax's own convolution and autodiff's gradients, summed in float32 at least."""
    s = SPATIAL[x.ndim - 2]
    z = lax.conv_general_dilated(
        x,
        w,
        _each(stride, x.ndim - 2),
        padding if isinstance(padding, str) else _pairs(padding, x.ndim - 2),
        rhs_dilation=_each(dilation, x.ndim - 2),
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        feature_group_count=groups,
    )
    return z if b is None else z + b


def _each(value, axes):
    return (value,) * axes if isinstance(value, int) else value


def _pairs(padding, axes):
    return ((padding, padding),) * axes if isinstance(padding, int) else padding


def arrays(rng, case, channels, batch=2, draw=numbers):
    c, o, groups = channels
    x = draw(rng, (batch, *case.spatial, c))
    w = draw(rng, (*case.size, c // groups, o))
    return x, w, draw(rng, (o,))


def options(case, groups=1):
    return {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "groups": groups,
    }


def literal(case, groups=1):
    """The same options, as the oracles take them."""
    return {
        "stride": case.strides,
        "padding": case.pairs,
        "dilation": case.dilations,
        "groups": groups,
    }


def as64(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


@pytest.mark.parametrize("name", CASES)
def test_value_and_cotangents_are_the_documents_sums(name, rng):
    """(3.5) forward, (3.6), (3.7) and (3.8) backward."""
    case = CASES[name]
    channels = list(CHANNELS.values())[len(name) % 3]
    groups = channels[-1]
    x, w, b = arrays(rng, case, channels)
    rule = jax.jit(lambda *args: value_and_cotangents(_with(case, groups), args[:3], args[3]))
    dy = numbers(rng, jax.eval_shape(_with(case, groups), x, w, b).shape)
    y, (dx, dw, db) = rule(x, w, b, dy)

    given, sizes = as64(x, w, b, dy), np.abs
    x, w, b, dy = given
    geometry = literal(case, groups)
    assert_close(
        y,
        oracles.conv(x, w, **geometry) + b,
        terms=w[..., 0].size + 1,
        magnitude=oracles.conv(sizes(x), sizes(w), **geometry) + sizes(b),
        what="y",
    )
    assert_close(
        dx,
        oracles.conv_input_grad(dy, w, x.shape, **geometry),
        terms=w[..., 0, :].size,
        magnitude=oracles.conv_input_grad(sizes(dy), sizes(w), x.shape, **geometry),
        what="dx",
    )
    assert_close(
        dw,
        oracles.conv_kernel_grad(x, dy, w.shape, **geometry),
        terms=dy[..., 0].size,
        magnitude=oracles.conv_kernel_grad(sizes(x), sizes(dy), w.shape, **geometry),
        what="dw",
    )
    assert_close(
        db,
        oracles.conv_bias_grad(dy),
        terms=dy[..., 0].size,
        magnitude=oracles.conv_bias_grad(sizes(dy)),
        what="db",
    )


def _with(case, groups=1):
    return lambda x, w, b=None: jaxbp.conv(x, w, b, **options(case, groups))


@given(windows(), st.sampled_from(list(CHANNELS.values())), st.integers(0, 99))
def test_adjoints_are_the_documents_sums_exactly(case, channels, seed):
    """(3.5), (3.6), (3.7) for any geometry: whole numbers, so every order of summing is exact.

    With them ⟨dy, J v⟩ = ⟨dx, v⟩ holds exactly too, in each argument.
    """
    rng = np.random.default_rng(seed)
    groups = channels[-1]
    x, w, _ = arrays(rng, case, channels, batch=1, draw=small_integers)
    y = jaxbp.conv(x, w, **options(case, groups))
    dy = small_integers(rng, y.shape)
    dx = jaxbp.conv_input_grad(dy, w, x.shape, **options(case, groups))
    dw = jaxbp.conv_kernel_grad(x, dy, w.shape, **options(case, groups))

    x, w, y, dy, dx, dw = as64(x, w, y, dy, dx, dw)
    geometry = literal(case, groups)
    np.testing.assert_array_equal(y, oracles.conv(x, w, **geometry))
    np.testing.assert_array_equal(dx, oracles.conv_input_grad(dy, w, x.shape, **geometry))
    np.testing.assert_array_equal(dw, oracles.conv_kernel_grad(x, dy, w.shape, **geometry))
    assert np.sum(dy * y) == np.sum(dx * x) == np.sum(dw * w)


@given(st.integers(0, 99), st.sampled_from(["2d same stride", "1d dilation"]))
def test_cotangents_are_linear(seed, name):
    """(3.6), (3.7), (3.8): twice dy less another dy', exactly, in whole numbers."""
    rng = np.random.default_rng(seed)
    x, w, b = arrays(rng, CASES[name], CHANNELS["two groups"], draw=small_integers)
    y, pullback = jax.vjp(_with(CASES[name], 2), x, w, b)
    first, second = small_integers(rng, y.shape), small_integers(rng, y.shape)
    jax.tree.map(
        lambda both, one, other: np.testing.assert_array_equal(both, 2 * one - other),
        pullback(2 * first - second),
        pullback(first),
        pullback(second),
    )


@given(windows())
def test_shapes_are_those_of_lax(case):
    x = jax.ShapeDtypeStruct((2, *case.spatial, 3), default_dtype())
    w = jax.ShapeDtypeStruct((*case.size, 3, 4), default_dtype())
    ours = jax.eval_shape(lambda x, w: jaxbp.conv(x, w, **options(case)), x, w)
    theirs = jax.eval_shape(lambda x, w: plain_conv(x, w, **options(case)), x, w)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


TRANSFORMED = {
    "1d": (Case((5,), (3,), padding="SAME", dilation=2), CHANNELS["depthwise"]),
    "2d": (Case((4, 5), (3, 2), stride=(2, 1), padding=((1, 0), (0, 2))), CHANNELS["two groups"]),
    "3d": (Case((2, 3, 2), (2, 2, 1), padding="SAME"), CHANNELS["one group"]),
}


# One and three axes go through the same lines as two, so not through everything.
AGAIN = {"1d": ("plain", "vmap", "second order", "sums"), "3d": ("plain", "second order", "sums")}


@pytest.mark.parametrize(
    ("transform", "name"),
    [(transform, name) for name in TRANSFORMED for transform in AGAIN.get(name, TRANSFORMS)],
)
def test_transformations(transform, name, rng):
    case, channels = TRANSFORMED[name]
    x, w, b = arrays(rng, case, channels)

    def plain(x, w, b):
        return plain_conv(x, w, b, **options(case, channels[-1]))

    TRANSFORMS[transform](_with(case, channels[-1]), plain, (x, w, b), terms=40)


@pytest.mark.parametrize("transform", ["plain", "vmap", "shard_map"])
def test_transformations_without_a_bias(transform, rng):
    case = Case((4, 4), (2, 2), stride=2)
    x, w, _ = arrays(rng, case, CHANNELS["one group"])
    TRANSFORMS[transform](
        _with(case), lambda x, w: plain_conv(x, w, **options(case)), (x, w), terms=30
    )


def test_finite_differences(float64, rng):
    case = Case((3, 4), (2, 2), stride=(2, 1), padding=((1, 0), (0, 1)))
    args = as64(*arrays(rng, case, CHANNELS["one group"], batch=1))
    fn = jax.jit(_with(case))
    dy = rng.standard_normal(fn(*args).shape)
    _, pullback = jax.vjp(fn, *map(jnp.asarray, args))
    for actual, slope in zip(
        pullback(jnp.asarray(dy)), oracles.finite_differences(fn, args, dy), strict=True
    ):
        # conv is linear in each argument: only rounding is left, magnified by the step.
        assert_close(actual, slope, terms=int(30 / 1e-3))


def test_a_batch_of_none(rng):
    case = CASES["2d same stride"]
    x, w, b = arrays(rng, case, CHANNELS["one group"], batch=0)
    y, (dx, dw, db) = compiled(_with(case), (x, w, b))
    assert y.shape == (0, 3, 3, 3)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros(w.shape))
    np.testing.assert_array_equal(db, np.zeros(b.shape))


@pytest.mark.parametrize("kernel", [2, 1])
@pytest.mark.parametrize("channels", [(0, 3), (2, 0)])
def test_no_channels(channels, kernel):
    c, o = channels
    x, w, b = jnp.ones((2, 3, 3, c)), jnp.ones((kernel, kernel, c, o)), jnp.ones((o,))
    y, (dx, dw, db) = compiled(jaxbp.conv, (x, w, b))
    assert (y.shape, dx.shape, dw.shape, db.shape) == ((2, 3, 3, o), x.shape, w.shape, b.shape)
    np.testing.assert_array_equal(y, np.ones(y.shape))  # the bias


def test_a_window_larger_than_the_input_gives_no_places(rng):
    case = Case((2, 2), (3, 3))
    x, w, b = arrays(rng, case, CHANNELS["one group"])
    y, (dx, dw, db) = compiled(_with(case), (x, w, b))
    assert y.shape == plain_conv(x, w, padding="VALID").shape == (2, 0, 0, 3)
    for cotangent, primal in ((dx, x), (dw, w), (db, b)):
        np.testing.assert_array_equal(cotangent, np.zeros(primal.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_what_they_touch_and_nothing_else(bad):
    x = jnp.zeros((1, 5, 1)).at[0, 4, 0].set(bad)
    y = jaxbp.conv(x, jnp.ones((2, 1, 1)), padding="VALID")
    np.testing.assert_array_equal(y[0, :, 0], [0, 0, 0, bad])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_bias_sum_in_half_precision_does_not_stall(dtype):
    """(3.8): 4096 ones are 4096, where a sum in bfloat16 stays at 256."""
    dy = jnp.ones((1, 64, 64, 1), dtype)
    assert jaxbp.conv_bias_grad(dy).astype(float) == 4096
    x, w, b = (jnp.zeros(s, dtype) for s in [(1, 64, 64, 1), (1, 1, 1, 1), (1,)])
    _, pullback = jax.vjp(jaxbp.conv, x, w, b)
    assert pullback(dy)[2].astype(float) == 4096


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_kernel_sums_in_half_precision_run_in_float32(dtype):
    """(3.6): 4096 products of one."""
    ones = jnp.ones((1, 64, 64, 1), dtype)
    assert jaxbp.conv_kernel_grad(ones, ones, (1, 1, 1, 1)).astype(float) == 4096


def test_python_integers_and_numpy_integers_are_options_alike(rng):
    x, w, _ = arrays(rng, Case((4, 4), (2, 2)), CHANNELS["two groups"])
    one = jaxbp.conv(x, w, stride=2, padding=1, dilation=1, groups=2)
    other = jaxbp.conv(
        x,
        w,
        stride=np.array([2, 2]),
        padding=((np.int64(1), 1), [1, np.int32(1)]),
        dilation=np.int8(1),
        groups=np.int64(2),
    )
    np.testing.assert_array_equal(one, other)


def test_numpy_arrays_are_taken(rng):
    x, w, b = arrays(rng, CASES["2d"], CHANNELS["one group"])
    np.testing.assert_array_equal(
        jaxbp.conv(np.asarray(x), np.asarray(w), np.asarray(b)), jaxbp.conv(x, w, b)
    )


X, W, B = np.ones((2, 5, 5, 4)), np.ones((3, 3, 4, 6)), np.ones(6)
DY = np.ones((2, 5, 5, 6))

# Call, the argument at fault, the kind of error.
BAD_CALLS = {
    "x a list": (lambda: jaxbp.conv([[1.0]], W), "x", TypeError),
    "x None": (lambda: jaxbp.conv(None, W), "x", TypeError),
    "x a string": (lambda: jaxbp.conv("x", W), "x", TypeError),
    "x integers": (lambda: jaxbp.conv(X.astype(np.int32), W), "x", TypeError),
    "x bools": (lambda: jaxbp.conv(X.astype(bool), W), "x", TypeError),
    "x complex": (lambda: jaxbp.conv(X.astype(complex), W), "x", TypeError),
    "x of rank 2": (lambda: jaxbp.conv(np.ones((5, 4)), W), "x", ValueError),
    "x of rank 6": (lambda: jaxbp.conv(np.ones((1,) * 6), np.ones((1,) * 6)), "x", ValueError),
    "w of another rank": (lambda: jaxbp.conv(X, np.ones((3, 4, 6))), "w", ValueError),
    "w of another dtype": (lambda: jaxbp.conv(X, W.astype(np.float16)), "w", TypeError),
    "w of other channels": (lambda: jaxbp.conv(X, np.ones((3, 3, 3, 6))), "w", ValueError),
    "w without cells": (lambda: jaxbp.conv(X, np.ones((0, 3, 4, 6))), "w", ValueError),
    "w a list": (lambda: jaxbp.conv(X, [1.0]), "w", TypeError),
    "b of another length": (lambda: jaxbp.conv(X, W, np.ones(5)), "b", ValueError),
    "b of rank 2": (lambda: jaxbp.conv(X, W, np.ones((1, 6))), "b", ValueError),
    "b a number": (lambda: jaxbp.conv(X, W, 1.0), "b", ValueError),
    "b integers": (lambda: jaxbp.conv(X, W, np.ones(6, np.int32)), "b", TypeError),
    "b a string": (lambda: jaxbp.conv(X, W, "b"), "b", TypeError),
    "stride zero": (lambda: jaxbp.conv(X, W, stride=0), "stride", ValueError),
    "stride negative": (lambda: jaxbp.conv(X, W, stride=(1, -1)), "stride", ValueError),
    "stride a float": (lambda: jaxbp.conv(X, W, stride=1.0), "stride", TypeError),
    "stride a bool": (lambda: jaxbp.conv(X, W, stride=True), "stride", TypeError),
    "stride bools": (lambda: jaxbp.conv(X, W, stride=(True, 1)), "stride", TypeError),
    "stride None": (lambda: jaxbp.conv(X, W, stride=None), "stride", TypeError),
    "stride a string": (lambda: jaxbp.conv(X, W, stride="22"), "stride", TypeError),
    "stride too long": (lambda: jaxbp.conv(X, W, stride=(1, 1, 1)), "stride", ValueError),
    "stride empty": (lambda: jaxbp.conv(X, W, stride=()), "stride", ValueError),
    "dilation zero": (lambda: jaxbp.conv(X, W, dilation=0), "dilation", ValueError),
    "dilation a float": (lambda: jaxbp.conv(X, W, dilation=2.0), "dilation", TypeError),
    "padding unknown": (lambda: jaxbp.conv(X, W, padding="FULL"), "padding", ValueError),
    "padding in lower case": (lambda: jaxbp.conv(X, W, padding="same"), "padding", ValueError),
    "padding a float": (lambda: jaxbp.conv(X, W, padding=1.0), "padding", TypeError),
    "padding None": (lambda: jaxbp.conv(X, W, padding=None), "padding", TypeError),
    "padding a bool": (lambda: jaxbp.conv(X, W, padding=True), "padding", TypeError),
    "padding ints": (lambda: jaxbp.conv(X, W, padding=(1, 1)), "padding", (TypeError, ValueError)),
    "padding one pair": (lambda: jaxbp.conv(X, W, padding=((1, 1),)), "padding", ValueError),
    "padding triples": (lambda: jaxbp.conv(X, W, padding=((1, 1, 1),) * 2), "padding", ValueError),
    "padding of floats": (lambda: jaxbp.conv(X, W, padding=((1.0, 1),) * 2), "padding", TypeError),
    "padding of strings": (
        lambda: jaxbp.conv(X, W, padding=("SAME", "SAME")),
        "padding",
        (TypeError, ValueError),
    ),
    "padding crops too much": (lambda: jaxbp.conv(X, W, padding=-3), "padding", ValueError),
    "groups zero": (lambda: jaxbp.conv(X, W, groups=0), "groups", ValueError),
    "groups a float": (lambda: jaxbp.conv(X, W, groups=1.0), "groups", TypeError),
    "groups a bool": (lambda: jaxbp.conv(X, W, groups=True), "groups", TypeError),
    "groups None": (lambda: jaxbp.conv(X, W, groups=None), "groups", TypeError),
    "groups no divisor": (lambda: jaxbp.conv(X, W, groups=3), "groups", ValueError),
    "groups no divisor of O": (
        lambda: jaxbp.conv(X, np.ones((3, 3, 2, 5)), groups=2),
        "groups",
        ValueError,
    ),
    "groups and w disagree": (lambda: jaxbp.conv(X, W, groups=2), "w", ValueError),
    "input_grad: dy of another shape": (
        lambda: jaxbp.conv_input_grad(DY[:, 1:], W, X.shape),
        "dy",
        ValueError,
    ),
    "input_grad: dy integers": (
        lambda: jaxbp.conv_input_grad(DY.astype(np.int32), W, X.shape),
        "dy",
        TypeError,
    ),
    "input_grad: input_shape an int": (
        lambda: jaxbp.conv_input_grad(DY, W, 5),
        "input_shape",
        TypeError,
    ),
    "input_grad: input_shape negative": (
        lambda: jaxbp.conv_input_grad(DY, W, (2, -5, 5, 4)),
        "input_shape",
        ValueError,
    ),
    "input_grad: input_shape of floats": (
        lambda: jaxbp.conv_input_grad(DY, W, (2, 5.0, 5, 4)),
        "input_shape",
        TypeError,
    ),
    "input_grad: input_shape of another rank": (
        lambda: jaxbp.conv_input_grad(DY, W, (2, 5, 4)),
        "input_shape",
        ValueError,
    ),
    "input_grad: w of other channels": (
        lambda: jaxbp.conv_input_grad(DY, W, (2, 5, 5, 3)),
        "w",
        ValueError,
    ),
    "kernel_grad: dy of another batch": (
        lambda: jaxbp.conv_kernel_grad(X, DY[:1], W.shape),
        "dy",
        ValueError,
    ),
    "kernel_grad: dy of other channels": (
        lambda: jaxbp.conv_kernel_grad(X, DY[..., 1:], W.shape),
        "dy",
        ValueError,
    ),
    "kernel_grad: kernel_shape a string": (
        lambda: jaxbp.conv_kernel_grad(X, DY, "3346"),
        "kernel_shape",
        TypeError,
    ),
    "kernel_grad: kernel_shape of another rank": (
        lambda: jaxbp.conv_kernel_grad(X, DY, (3, 3, 4)),
        "kernel_shape",
        ValueError,
    ),
    "kernel_grad: kernel_shape of other channels": (
        lambda: jaxbp.conv_kernel_grad(X, DY, (3, 3, 3, 6)),
        "kernel_shape",
        ValueError,
    ),
    "bias_grad: dy of rank 2": (lambda: jaxbp.conv_bias_grad(np.ones((2, 6))), "dy", ValueError),
    "bias_grad: dy None": (lambda: jaxbp.conv_bias_grad(None), "dy", TypeError),
}
FUNCTION = {"input_grad": "conv_input_grad", "kernel_grad": "conv_kernel_grad"}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name):
    call, argument, kind = BAD_CALLS[name]
    start = name.split(":")[0]
    function = f"conv_{start}" if ":" in name else "conv"
    with pytest.raises(kind, match=rf"^{function}: {argument} must be .*, got .+"):
        call()


def test_half_precision_is_no_worse_than_autodiff_over_many_channels(rng):
    """The dtypes' check of the transformations, on sums long enough for rounding to add up."""
    case = Case((8, 8), (3, 3), padding="SAME")
    x, w, b = arrays(rng, case, (16, 8, 1), batch=4)
    TRANSFORMS["dtypes"](
        _with(case), lambda x, w, b: plain_conv(x, w, b, **options(case)), (x, w, b), terms=1
    )


def test_sums_run_in_float32_at_least():
    for dtype in ("bfloat16", "float16", "float32"):
        assert jnp.dtype(summed_in(dtype)) == jnp.float32
    assert jnp.dtype(summed_in("float64")) == "float64"


def test_the_map_of_the_chapter_is_true():
    """Each row of its docstring: formulas that the function cites, a sum of the table, a loop."""
    chapter = inspect.getdoc(sys.modules[jaxbp.conv.__module__])
    rows = re.findall(r"^ +((?:\(3\.\d\) )+) +(\w+) +(\S+) +oracles\.(\w+)$", chapter, re.M)
    assert len(rows) == chapter.count("oracles.") - 1  # and the file of them all
    for formulas, function, total, loop in rows:
        sources = getattr(jaxbp, function).__doc__.partition("Source: ")[2].partition("\n")[0]
        for formula in formulas.split():
            assert formula in sources, f"{function} does not cite {formula}"
        assert total == "jnp.sum" or total.removeprefix("lowering.") in TABLE
        assert inspect.isfunction(getattr(oracles, loop))
