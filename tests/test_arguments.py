"""The checks of arguments: what passes, what does not, and in which words."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxbp import arguments
from jaxbp.window import make_pairs
from tests.rules.geometry import default_dtype

WIDE = default_dtype()


def test_a_message_names_function_argument_expectation_and_find():
    error = arguments.reject("conv", "stride", "positive", 0)
    assert type(error) is ValueError
    assert str(error) == "conv: stride must be positive, got 0"
    assert type(arguments.reject("conv", "x", "an array", None, TypeError)) is TypeError


def test_values_are_described_in_few_words():
    assert arguments.describe(jnp.zeros((2, 3), jnp.bfloat16)) == "bfloat16[2,3]"
    assert arguments.describe(np.int32(1)) == "int32[]"
    assert arguments.describe("a") == "'a' (str)"


def test_floats_keep_their_dtype():
    for dtype in ("float32", "bfloat16", "float16"):
        x, y = arguments.floats("f", x=jnp.ones(2, dtype), y=np.ones(3, jnp.dtype(dtype)))
        assert x.dtype == y.dtype == dtype
    assert arguments.floats("f", x=np.ones(2))[0].dtype == WIDE


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn])
def test_floats_of_few_bits_are_refused(dtype):
    with pytest.raises(
        TypeError, match=r"^f: x must be of 16 bits or more, got float[48]_\w+\[2\]$"
    ):
        arguments.floats("f", x=np.ones(2, dtype))


def test_python_numbers_take_the_arrays_dtype():
    x, y = arguments.floats("f", x=2, y=jnp.ones(2, jnp.float16))
    assert x.dtype == y.dtype == jnp.float16
    assert not jax.typeof(x).weak_type
    (alone,) = arguments.floats("f", x=2)
    assert alone.dtype == WIDE
    assert not jax.typeof(alone).weak_type


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "1.0",
        [1.0],
        (1.0,),
        {},
        object(),
        1j,
        np.ones(2, bool),
        np.ones(2, np.int32),
        np.ones(2, complex),
        np.array("a"),
        np.array([None]),
        np.ones(2, ml_dtypes.int4),
        np.ones(2, ">f4"),
        np.ones(2, np.longdouble),
        np.ma.masked_array(np.ones(2, np.float32)),
        jax.random.key(0),
        10**400,
        jnp.float32,
    ],
)
def test_floats_refuse_what_is_no_real_floating_array(bad):
    with pytest.raises(TypeError, match=r"^f: y must be a real floating array, got "):
        arguments.floats("f", x=np.ones(2), y=bad)


def test_floats_refuse_two_dtypes():
    with pytest.raises(TypeError, match=r"^f: y must be float32 as x is, got float16\[2\]"):
        arguments.floats("f", x=jnp.ones(1, jnp.float32), y=jnp.ones(2, jnp.float16))


def test_sums_run_in_float32_at_least():
    for dtype, wide in [("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")]:
        assert arguments.sum_dtype(jnp.dtype(dtype)) == wide


@pytest.mark.parametrize("value", [2, np.int8(2), (2, 2), [2, np.int64(2)], np.array([2, 2])])
def test_ints(value):
    result = arguments.ints("f", "stride", value, 2)
    assert result == (2, 2)
    assert all(type(n) is int for n in result)


INTS = {
    "zero": (0, ValueError),
    "negative": ((1, -1), ValueError),
    "too many": ((1, 1, 1), ValueError),
    "none": ((), ValueError),
    "float": (1.0, TypeError),
    "floats": ((1.0, 1), TypeError),
    "bool": (True, TypeError),
    "bools": ((True, True), TypeError),
    "numpy bool": (np.True_, TypeError),
    "string": ("22", TypeError),
    "nothing": (None, TypeError),
    "float array": (np.ones(2), TypeError),
    "matrix": (np.ones((2, 2), int), TypeError),
    "set of strings": ({"a"}, TypeError),
    "set": ({1, 2}, TypeError),
    "dict": ({1: 1, 2: 2}, TypeError),
    "bytes": (b"ab", TypeError),
}


@pytest.mark.parametrize("name", INTS)
def test_ints_refuse(name):
    value, kind = INTS[name]
    with pytest.raises(kind, match=r"^f: stride must be an int or 2 ints .* at least 1, got "):
        arguments.ints("f", "stride", value, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: arguments.ints("f", "s", n, 2),
        lambda n: arguments.ints("f", "s", (1, n), 2),
        lambda n: arguments.positive("f", "s", n),
        lambda n: arguments.shape_tuple("f", "s", (1, n), (2,), "(N, C)"),
        lambda n: make_pairs("f", n, 2),
        lambda n: make_pairs("f", ((0, n),), 1),
    ],
)
def test_sizes_that_cannot_be_counted_are_refused(call):
    for n in (2**31, 10**30):
        with pytest.raises(ValueError, match=r"^f: (s|padding) must be at most 2147483647, got "):
            call(n)


@pytest.mark.parametrize("bad", [{(1, 1), (2, 2)}, b"ab", ({1, 2}, {1, 2}), [b"ab", b"ab"]])
def test_pairs_have_an_order(bad):
    with pytest.raises(TypeError, match=r"^f: padding must be 'SAME', .* pairs of ints .*, got "):
        make_pairs("f", bad, 2)


def test_ints_refuse_tracers():
    with pytest.raises(TypeError, match=r"^f: stride must be an int"):
        jax.jit(lambda s: arguments.ints("f", "stride", s, 2))(2)


def test_positive():
    assert arguments.positive("f", "groups", np.int32(3)) == 3
    for value, kind in [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]:
        with pytest.raises(kind, match=r"^f: groups must be a positive int, got "):
            arguments.positive("f", "groups", value)


def test_number():
    assert arguments.number("f", "slope", np.float32(0.5)) == 0.5
    for value, kind in [(np.nan, ValueError), (True, TypeError), ("1", TypeError), (1j, TypeError)]:
        with pytest.raises(kind, match=r"^f: slope must be "):
            arguments.number("f", "slope", value)


def test_flag():
    assert arguments.flag("f", "approximate", np.True_) is True
    for value in (1, 0, None, "True"):
        with pytest.raises(TypeError, match=r"^f: approximate must be True or False, got "):
            arguments.flag("f", "approximate", value)


def test_choice():
    assert arguments.choice("f", "ties", "all", ("first", "all")) == "all"
    for value, kind in [("last", ValueError), ("ALL", ValueError), (None, TypeError)]:
        with pytest.raises(kind, match=r"^f: ties must be one of \('first', 'all'\), got "):
            arguments.choice("f", "ties", value, ("first", "all"))


def test_axis():
    assert arguments.axis("f", "axis", -1, 3) == 2
    assert arguments.axis("f", "axis", 0, 3) == 0
    for value, kind in [(3, ValueError), (-4, ValueError), (0.0, TypeError), (True, TypeError)]:
        with pytest.raises(kind, match=r"^f: axis must be an axis of an array of rank 3, got "):
            arguments.axis("f", "axis", value, 3)


def test_a_shape_of_any_rank_but_zero():
    assert arguments.shape_tuple("f", "s", [1, 2, 3, 4, 5, 6], None, "(..., C)") == (
        1,
        2,
        3,
        4,
        5,
        6,
    )
    for value, kind in [((), ValueError), ((-1,), ValueError), (2, TypeError)]:
        with pytest.raises(
            kind, match=r"^f: s must be a shape .* of one or more ints, none negative"
        ):
            arguments.shape_tuple("f", "s", value, None, "(..., C)")


def test_shape_tuple():
    assert arguments.shape_tuple("f", "s", np.array([2, 0]), (2,), "(N, C)") == (2, 0)
    for value, kind in [
        ((2, -1), ValueError),
        ((2, 1, 1), ValueError),
        (2, TypeError),
        ("22", TypeError),
        ((2, 1.0), TypeError),
        ((2, True), TypeError),
        (None, TypeError),
    ]:
        with pytest.raises(kind, match=r"^f: s must be a shape \(N, C\) of 2 ints, none negative"):
            arguments.shape_tuple("f", "s", value, (2,), "(N, C)")
