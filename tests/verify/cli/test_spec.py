"""Specs: what they draw, and what is said of a wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.cli.spec import Array, SpecError, draw, needs_x64, parse


def _draw(text):
    return draw(parse(text), np.random.default_rng(3))


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("f32[2,5,5,3]", jnp.float32, (2, 5, 5, 3)),
        ("float32[2]", jnp.float32, (2,)),
        ("f32[]", jnp.float32, ()),
        ("bf16[0,3]", jnp.bfloat16, (0, 3)),
        ("f16[ 4 ]", jnp.float16, (4,)),
        ("i32[8]", jnp.int32, (8,)),
        ("u8[8]", jnp.uint8, (8,)),
        ("bool[3]", jnp.bool_, (3,)),
        ("c64[3]", jnp.complex64, (3,)),
    ],
)
def test_dtype_and_shape(text, dtype, shape):
    array = _draw(text)
    assert isinstance(array, jax.Array)
    assert array.dtype == dtype
    assert array.shape == shape


def test_64_bits_where_jax_has_them():
    with jax.enable_x64(True):
        assert _draw("f64[2]").dtype == jnp.float64
        assert _draw("i64[2]").dtype == jnp.int64
    assert needs_x64(parse("(f32[2], {k: i64[2]})"))
    assert not needs_x64(parse("(f32[2], {k: i32[2]})"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("i32[200]", {0, 1}),
        ("i32[200]<3", {0, 1, 2}),
        ("i32[200]<=3>0", {1, 2, 3}),
        ("i32[200]>=-1<1", {-1, 0}),
        ("i32[200]<0", {-2, -1}),
        ("u8[200]>=254", {254, 255}),
        ("i32[200]>16777216", {16777217, 16777218}),
        ("bool[200]", {False, True}),
    ],
)
def test_integers_take_every_value_between_their_bounds_and_no_other(text, values):
    assert set(_draw(text).tolist()) == values


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("f32[500]>0", 0, np.inf), ("f32[500]<-1", -np.inf, -1), ("f32[500]>=2<3", 2, 3)],
)
def test_reals_keep_to_their_bounds(text, low, high):
    values = np.asarray(_draw(text))
    assert (values >= low).all()
    assert (values <= high).all()
    assert np.unique(values).size > 400


@pytest.mark.parametrize("text", ["f32[500]<3.4e38", "f16[500]>=65504", "bf16[500]>-3e38<3e38"])
def test_bounds_near_the_ends_of_a_dtype_draw_finite_values(text):
    assert jnp.isfinite(_draw(text)).all()


def test_integer_bounds_beyond_what_a_float_tells_apart():
    with jax.enable_x64(True):
        assert set(_draw("u64[200]>18446744073709551613").tolist()) == {2**64 - 2, 2**64 - 1}
        assert set(_draw("i64[200]>9007199254740992").tolist()) == {2**53 + 1, 2**53 + 2}


def test_nested_specs_keep_their_tree():
    tree = _draw("{w: f32[3,2], rest: (f32[], [i32[2]<5, None, -2.5e1, 3]), k: key}")
    assert sorted(tree) == ["k", "rest", "w"]
    assert tree["w"].shape == (3, 2)
    scalar, (labels, nothing, real, whole) = tree["rest"]
    assert scalar.shape == ()
    assert labels.dtype == jnp.int32
    assert nothing is None
    assert (real, whole) == (-25.0, 3)
    assert isinstance(whole, int)
    assert jnp.issubdtype(tree["k"].dtype, jax.dtypes.prng_key)


def test_one_seed_draws_one_array_and_two_arguments_differ():
    first, second = _draw("(f32[9], f32[9])")
    assert (first == _draw("(f32[9], f32[9])")[0]).all()
    assert (first != second).all()


def test_parse_gives_plain_data():
    assert parse("i32[8]<=10") == Array("int32", (8,), high=10.0, closed=(True, True))


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 1, "a dtype such as f32"),
        ("f32", 4, "'[' and a shape"),
        ("g32[2]", 1, "a dtype (f64, f32"),
        ("f32[2,,3]", 7, "a size"),
        ("f32[2,]", 7, "a size"),
        ("f32[2", 6, "',' or ']'"),
        ("f32[-1]", 5, "a size or ']'"),
        ("f32[1.5]", 5, "a size or ']'"),
        ("f32[2]x", 7, "the end"),
        ("f32[2]$", 7, "the end"),
        ("f32[2] f32[3]", 8, "the end"),
        ("f32[2]<", 8, "a number after '<'"),
        ("f32[1]>2<1", 10, "a bound that leaves float32 a value"),
        ("i32[3]>2<3", 10, "a bound that leaves int32 a value"),
        ("u8[3]<1000", 7, "a bound that leaves uint8 a value"),
        ("u8[3]>=-1", 8, "a bound that leaves uint8 a value"),
        ("bool[2]<1", 8, "no bound on a bool array"),
        ("(f32[2]", 8, "',' or ')'"),
        ("{3: f32[]}", 2, "a name"),
        ("{w f32[]}", 4, "':'"),
        ("{w: f32[3], w: f32[4]}", 13, "a name that does not stand there already"),
        ("i32[3]<1e999", 8, "a finite number"),
        ("f32[3]<1e999", 8, "a finite number"),
        ("f32[3]>-1e999", 8, "a finite number"),
        ("f32[3]<1e39", 8, "a bound that a float32 can be"),
        ("f16[3]>-65505", 8, "a bound that a float16 can be"),
        ("(1e999, 2)", 2, "a finite number"),
        (f"{'9' * 400}", 1, "a finite number"),
        (f"{'9' * 5000}", 1, "a finite number"),
        ("f32[99999999999999999999]", 5, "a size that an array can have"),
        (f"f32[{'9' * 5000}]", 5, "a size that an array can have"),
        (f"{'(' * 3000}f32[]{')' * 3000}", 101, "at most 100 brackets inside one another"),
        (f"{'{a:' * 3000}f32[]{'}' * 3000}", 301, "at most 100 brackets inside one another"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_place(text, position, expected):
    with pytest.raises(SpecError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"{text!r}, position {position}: expected {expected}")
    assert "\n" not in message
