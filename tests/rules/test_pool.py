"""Pooling against the document's sums, lax, literal ties and every transformation."""

import math

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
from tests.rules.geometry import CASES, Case, default_dtype, numbers, small_integers, windows
from tests.tolerance import assert_close
from tests.transforms import TRANSFORMS, compiled, equations, value_and_cotangents

TIES = ("first", "split", "all")
UNDILATED = {name: case for name, case in CASES.items() if case.dilations == (1,) * len(case.size)}


def as64(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def avg_options(case):
    return {"stride": case.stride, "padding": case.padding}


def max_options(case):
    return {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}


def literal(case, *, dilated):
    """The same options, as the oracles take them."""
    pooled = {"stride": case.strides, "padding": case.pairs}
    return pooled | {"dilation": case.dilations} if dilated else pooled


def reduce_window(x, initial, operation, case):
    """lax's own pooling; with a constant to begin with, or lax does not know its gradient."""
    return lax.reduce_window(
        x,
        np.asarray(initial, x.dtype),
        operation,
        (1, *case.size, 1),
        (1, *case.strides, 1),
        ((0, 0), *case.pairs, (0, 0)),
        window_dilation=(1, *case.dilations, 1),
    )


def plain_avg(case):
    """lax's sums and autodiff's gradients, without the cells in the padding or with them."""

    def pool(x, count_include_pad=True):
        total = reduce_window(x, 0, lax.add, case)
        if count_include_pad:
            return total / math.prod(case.size)
        return total / reduce_window(jnp.ones_like(x), 0, lax.add, case)

    return pool


def plain_max(case):
    return lambda x: reduce_window(x, -np.inf, lax.max, case)


def distinct(rng, shape, dtype=None):
    """Numbers of which no two are equal, in half precision either."""
    size = int(np.prod(shape))
    return jnp.asarray(
        (rng.permutation(size).reshape(shape) - size // 2) / 8, dtype or default_dtype()
    )


def few(rng, shape):
    """Numbers of which many are equal."""
    return jnp.asarray(rng.integers(0, 3, shape), default_dtype())


def pooled_shape(case, n, c):
    """The shape of the output of x[n, *S, c]."""
    windows = oracles.count_windows(
        case.spatial, case.size, case.strides, case.pairs, case.dilations
    )
    return (n, *windows, c)


def value_and_cotangent(fn, x, dy):
    """As one program, which compiles quicker than the same call op by op."""
    y, (dx,) = jax.jit(lambda x, dy: value_and_cotangents(fn, (x,), dy))(x, dy)
    return np.asarray(y), np.asarray(dx)


# Average pooling


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("name", UNDILATED)
def test_avg_pool_is_the_documents_sum(name, count_include_pad, rng):
    """(4.1) forward, (4.2) backward."""
    case = UNDILATED[name]
    x = numbers(rng, (2, *case.spatial, 3))

    def rule(x):
        return jaxbp.avg_pool(
            x, case.size, count_include_pad=count_include_pad, **avg_options(case)
        )

    dy = numbers(rng, jax.eval_shape(rule, x).shape)
    y, (dx,) = jax.jit(lambda x, dy: value_and_cotangents(rule, (x,), dy))(x, dy)
    x, dy = as64(x, dy)
    given = literal(case, dilated=False) | {"count_include_pad": count_include_pad}
    terms = int(np.prod(case.size)) + 1
    assert_close(
        y,
        oracles.avg_pool(x, case.size, **given),
        terms=terms,
        magnitude=oracles.avg_pool(np.abs(x), case.size, **given),
        what="y",
    )
    assert_close(
        dx,
        oracles.avg_pool_grad(dy, x.shape, case.size, **given),
        terms=terms,
        magnitude=oracles.avg_pool_grad(np.abs(dy), x.shape, case.size, **given),
        what="dx",
    )


@given(windows(dilated=False), st.booleans(), st.integers(0, 99))
def test_avg_pool_grad_is_the_documents_sum_for_any_geometry(case, count_include_pad, seed):
    """(4.2), with the adjoint called by its own name."""
    shape = (1, *case.spatial, 2)
    dy = small_integers(np.random.default_rng(seed), pooled_shape(case, 1, 2))
    dx = jaxbp.avg_pool_grad(
        dy, shape, case.size, count_include_pad=count_include_pad, **avg_options(case)
    )
    given = literal(case, dilated=False) | {"count_include_pad": count_include_pad}
    (dy,) = as64(dy)
    assert_close(
        dx,
        oracles.avg_pool_grad(dy, shape, case.size, **given),
        terms=case.size[0] ** 2 + 1,
        magnitude=oracles.avg_pool_grad(np.abs(dy), shape, case.size, **given),
    )


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_avg_pool_conserves_the_cotangents_mass(size, stride, seed):
    """(4.2): without padding, what goes in at dy comes out at dx; by powers of two, exactly."""
    window = 2 ** (size // 2)
    dy = small_integers(np.random.default_rng(seed), (2, 3, 2))
    length = (3 - 1) * stride + window
    dx = jaxbp.avg_pool_grad(dy, (2, length, 2), window, stride=stride)
    np.testing.assert_array_equal(jnp.sum(dx, axis=1), jnp.sum(dy, axis=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_mean_in_half_precision_neither_stalls_nor_overflows(dtype):
    """(4.1), (4.2): the sum of 4096 hundreds is beyond float16, their mean is not."""
    x = jnp.full((1, 64, 64, 1), 100, dtype)
    assert jaxbp.global_avg_pool(x).astype(float) == 100
    # 256 windows of stride one lie over the middle, each of which gives a 256th.
    dy = jnp.ones((1, 17, 17, 1), dtype)
    dx = jaxbp.avg_pool_grad(dy, (1, 32, 32, 1), 16, stride=1)
    assert dx[0, 15, 15, 0].astype(float) == 1


def test_a_window_in_the_padding_has_mean_zero():
    x = jnp.full((1, 2, 1), 3.0)
    for count_include_pad in (True, False):
        y, (dx,) = compiled(
            lambda x, pad=count_include_pad: jaxbp.avg_pool(x, 2, padding=2, count_include_pad=pad),
            (x,),
            jnp.ones((1, 3, 1)),
        )
        np.testing.assert_array_equal(y[0, :, 0], [0, 3, 0])
        np.testing.assert_array_equal(dx[0, :, 0], [0.5, 0.5])


def test_the_padding_counts_or_not():
    x = jnp.array([2.0, 4.0, 6.0]).reshape(1, 3, 1)
    with_padding = jaxbp.avg_pool(x, 2, stride=2, padding="SAME")
    without = jaxbp.avg_pool(x, 2, stride=2, padding="SAME", count_include_pad=False)
    np.testing.assert_array_equal(with_padding[0, :, 0], [3, 3])
    np.testing.assert_array_equal(without[0, :, 0], [3, 6])


# Max pooling


@pytest.mark.parametrize("name", CASES)
def test_max_pool_is_the_documents_choice(name, rng):
    """(4.3) forward, (4.4) backward; where lax has the gradient too, it is the same."""
    case = CASES[name]
    x = distinct(rng, (2, *case.spatial, 3))

    def rule(x):
        return jaxbp.max_pool(x, case.size, **max_options(case))

    dy = small_integers(rng, jax.eval_shape(rule, x).shape)
    y, (dx,) = jax.jit(lambda x, dy: value_and_cotangents(rule, (x,), dy))(x, dy)
    expected, winners = oracles.max_pool(np.asarray(x), case.size, **literal(case, dilated=True))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(
        dx, oracles.max_pool_grad(dy, winners, x.shape, case.size, **literal(case, dilated=True))
    )
    np.testing.assert_array_equal(y, jax.jit(plain_max(case))(x))
    if case.dilations == (1,) * len(case.size) and min(min(pair) for pair in case.pairs) >= 0:
        by_lax = jax.jit(lambda x, dy: jax.vjp(plain_max(case), x)[1](dy)[0])(x, dy)
        np.testing.assert_array_equal(dx, by_lax)


@given(windows(), st.sampled_from(TIES), st.integers(0, 99))
def test_ties_for_any_geometry(case, ties, seed):
    """(4.3), (4.4) by each tie rule, in whole numbers."""
    rng = np.random.default_rng(seed)
    x = few(rng, (1, *case.spatial, 2))
    geometry = literal(case, dilated=True)
    dy = small_integers(rng, pooled_shape(case, 1, 2))
    y, dx = value_and_cotangent(
        lambda x: jaxbp.max_pool(x, case.size, ties=ties, **max_options(case)), x, dy
    )
    expected, winners = oracles.max_pool(np.asarray(x), case.size, **geometry)
    np.testing.assert_array_equal(y, expected)
    by_rule = oracles.max_pool_grad(dy, winners, x.shape, case.size, ties=ties, **geometry)
    size = oracles.max_pool_grad(np.abs(dy), winners, x.shape, case.size, ties="all", **geometry)
    assert_close(dx, by_rule, terms=case.size[0] ** 2 + 1, magnitude=size)
    if ties != "split":
        np.testing.assert_array_equal(dx, by_rule)


@given(windows(), st.integers(0, 99))
def test_max_pool_grad_takes_any_winner(case, seed):
    """(4.4) for the adjoint itself: an index of any integer dtype, of a cell in the padding too."""
    rng = np.random.default_rng(seed)
    shape = (2, *case.spatial, 1)
    geometry = literal(case, dilated=True)
    places = oracles.count_windows(case.spatial, case.size, **geometry)
    cells = int(np.prod(case.size))
    winner = rng.integers(0, cells, (2, *places, 1))
    dy = small_integers(rng, winner.shape)
    # In the padding nobody wins: the oracle, which knows only cells in the input, is told so.
    winners = np.zeros((*winner.shape, cells), bool)
    for index in oracles.places(winner.shape):
        m = list(oracles.places(case.size))[winner[index]]
        k = oracles.place(index[1:-1], m, **geometry)
        winners[(*index, winner[index])] = oracles.inside(k, case.spatial)
    expected = oracles.max_pool_grad(dy, winners, shape, case.size, **geometry)
    dtype = [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64][seed % 6]
    for ties in TIES:
        dx = jaxbp.max_pool_grad(
            dy, winner.astype(dtype), shape, case.size, ties=ties, **max_options(case)
        )
        np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("ties", ["split", "all"])
def test_max_pool_grad_takes_a_mask_of_all_winners(ties, rng):
    """(4.4) with more than one winner a window."""
    case = Case((5, 4), (2, 3), stride=(2, 1), padding=((0, 1), (1, 0)))
    x = few(rng, (2, *case.spatial, 3))
    geometry = literal(case, dilated=True)
    y, winners = oracles.max_pool(np.asarray(x), case.size, **geometry)
    dy = small_integers(rng, y.shape)
    dx = jaxbp.max_pool_grad(dy, winners, x.shape, case.size, ties=ties, **max_options(case))
    _, pullback = jax.vjp(lambda x: jaxbp.max_pool(x, case.size, ties=ties, **max_options(case)), x)
    np.testing.assert_array_equal(dx, pullback(dy)[0])
    assert_close(
        dx,
        oracles.max_pool_grad(dy, winners, x.shape, case.size, ties=ties, **geometry),
        terms=7,
        magnitude=np.abs(dy).max() * 6,
    )


LITERAL_TIES = {"first": [12, 0, 0, 0], "split": [4, 4, 0, 4], "all": [12, 12, 0, 12]}


@pytest.mark.parametrize("ties", TIES)
def test_three_equal_cells(ties):
    """(4.4) by literal numbers: 12 to the first, 4 to each, 12 to each."""
    x = jnp.array([5.0, 5.0, 1.0, 5.0]).reshape(1, 2, 2, 1)
    y, (dx,) = compiled(
        lambda x: jaxbp.max_pool(x, 2, ties=ties), (x,), jnp.full((1, 1, 1, 1), 12.0)
    )
    assert y.item() == 5
    np.testing.assert_array_equal(dx.reshape(-1), LITERAL_TIES[ties])


@pytest.mark.parametrize("ties", ["split", "all"])
def test_the_parts_of_a_tie_add_up(ties, rng):
    """(4.4) conserves the cotangent's mass by "first" and "split"; "all" multiplies it."""
    x = jnp.ones((2, 4, 4, 3))
    _, pullback = jax.vjp(lambda x: jaxbp.max_pool(x, 2, ties=ties), x)
    dy = small_integers(rng, (2, 2, 2, 3))
    times = 4 if ties == "all" else 1
    assert jnp.sum(pullback(dy)[0]) == times * jnp.sum(dy)


@given(windows(), st.integers(0, 99))
def test_max_pool_conserves_the_cotangents_mass(case, seed):
    """(4.4): every window with a cell in the input hands on its whole δ, padded or dilated."""
    rng = np.random.default_rng(seed)
    x = distinct(rng, (1, *case.spatial, 2))
    dy = small_integers(rng, pooled_shape(case, 1, 2))
    y, dx = value_and_cotangent(lambda x: jaxbp.max_pool(x, case.size, **max_options(case)), x, dy)
    assert np.sum(dx) == np.sum(np.where(y == -np.inf, 0, dy))


@pytest.mark.parametrize("ties", TIES)
def test_second_order_at_ties_agrees_with_the_first(ties, rng):
    """With J the rule's own choice at x, the Hessian of Σ c sin(y) is Jᵀ diag(-c sin y) J."""
    case = Case((4, 3), (2, 2), stride=(2, 1), padding=((0, 0), (1, 0)))
    x = few(rng, (1, *case.spatial, 1))
    geometry = literal(case, dilated=True)
    y, winners = oracles.max_pool(np.asarray(x), case.size, **geometry)
    c = rng.standard_normal(y.shape)
    rows = [
        oracles.max_pool_grad(
            row.reshape(y.shape), winners, x.shape, case.size, ties=ties, **geometry
        )
        for row in np.eye(y.size)
    ]
    jacobian = np.stack(rows).reshape(y.size, x.size)
    expected = jacobian.T @ np.diag((-c * np.sin(y)).reshape(-1)) @ jacobian

    def scalar(x):
        pooled = jaxbp.max_pool(x, case.size, ties=ties, **max_options(case))
        return jnp.sum(jnp.sin(pooled) * jnp.asarray(c, pooled.dtype))

    for second in (jax.jacfwd(jax.jacrev(scalar)), jax.jacrev(jax.jacrev(scalar))):
        hessian = jax.jit(second)(x)
        assert_close(hessian.reshape(x.size, x.size), expected, terms=8)


@pytest.mark.parametrize("ties", TIES)
def test_nan_wins(ties):
    """(4.3), (4.4): the value is NaN, and δ goes to the (first) NaN, not past it."""
    x = jnp.array([1.0, np.nan, 7.0, np.nan]).reshape(1, 4, 1)
    y, (dx,) = compiled(lambda x: jaxbp.max_pool(x, 4, ties=ties), (x,), jnp.full((1, 1, 1), 2.0))
    assert np.isnan(y.item())
    expected = {"first": [0, 2, 0, 0], "split": [0, 1, 0, 1], "all": [0, 2, 0, 2]}[ties]
    np.testing.assert_array_equal(dx.reshape(-1), expected)


@pytest.mark.parametrize("ties", TIES)
def test_a_window_of_minus_infinity_reaching_into_the_padding(ties):
    """(4.4): δ goes to the first cell of the input, not into the padding before it."""
    x = jnp.full((1, 3, 1), -np.inf)
    y, (dx,) = compiled(
        lambda x: jaxbp.max_pool(x, 3, stride=3, padding=((2, 1),), ties=ties),
        (x,),
        jnp.array([[[2.0], [4.0]]]),
    )
    np.testing.assert_array_equal(y.reshape(-1), [-np.inf, -np.inf])
    expected = {"first": [2, 4, 0], "split": [2, 2, 2], "all": [2, 4, 4]}[ties]
    np.testing.assert_array_equal(dx.reshape(-1), expected)


def test_infinity_among_numbers():
    x = jnp.array([-np.inf, 3.0, np.inf, np.inf]).reshape(1, 4, 1)
    y, (dx,) = compiled(lambda x: jaxbp.max_pool(x, 2), (x,), jnp.ones((1, 2, 1)))
    np.testing.assert_array_equal(y.reshape(-1), [3, np.inf])
    np.testing.assert_array_equal(dx.reshape(-1), [0, 1, 1, 0])


def test_the_padding_is_no_zero():
    """(4.3): of negative numbers the largest is negative, whatever the padding."""
    x = jnp.full((1, 3, 3, 1), -5.0)
    np.testing.assert_array_equal(jaxbp.max_pool(x, 3, stride=1, padding="SAME"), x)


@pytest.mark.parametrize("ties", TIES)
def test_a_window_in_the_padding_sends_nothing(ties):
    x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    y, (dx,) = compiled(
        lambda x: jaxbp.max_pool(x, 2, padding=2, ties=ties), (x,), jnp.ones((1, 3, 1))
    )
    np.testing.assert_array_equal(y.reshape(-1), [-np.inf, 2, -np.inf])
    np.testing.assert_array_equal(dx.reshape(-1), [0, 1])


def test_more_cells_than_a_byte_counts(rng):
    """(4.4): the winner's number does not fit uint8 here."""
    x = jnp.zeros((1, 17, 16, 1)).at[0, 16, 3, 0].set(1.0)  # cell 259
    dx = jax.grad(lambda x: jnp.sum(jaxbp.global_max_pool(x)))(x)
    np.testing.assert_array_equal(dx, x)


def test_minus_infinity_and_padding_in_a_window_of_many_cells():
    """(4.4): the 64 cells in the input share δ; those in the padding, −inf as well, get no part."""
    x = jnp.full((1, 64, 1), -np.inf)
    _, (dx,) = compiled(
        lambda x: jaxbp.max_pool(x, 128, padding=((64, 0),), ties="split"),
        (x,),
        jnp.full((1, 1, 1), 64.0),
    )
    np.testing.assert_array_equal(dx, np.ones(x.shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("ties", TIES)
def test_overlapping_windows_add_in_float32(ties, dtype):
    """(4.4): 2048, seven ones and −2048 are 7, where a sum in half precision loses the ones."""
    x = jnp.zeros((1, 5, 5, 1), dtype).at[0, 2, 2, 0].set(1)
    dy = jnp.array([2048.0, *[1.0] * 7, -2048.0], dtype).reshape(1, 3, 3, 1)

    def cotangent(dy):
        return jax.vjp(lambda x: jaxbp.max_pool(x, 3, stride=1, ties=ties), x)[1](dy)[0]

    assert cotangent(dy)[0, 2, 2, 0] == 7
    # By numbers alone it does not show everywhere: XLA may keep more digits than the dtype has.
    for equation in equations(jax.make_jaxpr(cotangent)(dy).jaxpr):
        if equation.primitive.name in ("add", "add_any", "scatter-add", "reduce_sum"):
            assert equation.outvars[0].aval.dtype != dtype, equation


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_winner_of_fewer_bits_than_the_window_has_cells(dtype):
    """(4.4): the numbers of later cells do not wrap, so that cell 259 is not cell 3."""
    dy, winner = jnp.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 3, dtype)
    for window in ((17, 16), (200, 400)):
        dx = jaxbp.max_pool_grad(dy, winner, (1, *window, 1), window)
        np.testing.assert_array_equal(np.flatnonzero(dx), [3])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_winner_of_few_bits_beside_the_number_of_each_cell(dtype):
    """(4.4), one slice a cell: the winner is compared with 271, which its dtype does not hold."""
    dy, winner = jnp.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 3, dtype)
    with jaxbp.lowering.use("xla"):
        dx = jaxbp.max_pool_grad(dy, winner, (1, 17, 16, 1), (17, 16))
    np.testing.assert_array_equal(np.flatnonzero(dx), [3])


@pytest.mark.parametrize("ties", ["split", "all"])
def test_a_tie_in_a_window_of_many_cells(ties, rng):
    """(4.4) for 40×40 cells, some in the padding: right, and no slice for each of them."""
    case = Case((43, 41), (40, 40), stride=2, padding=((1, 0), (0, 2)))
    x = few(rng, (1, *case.spatial, 1))
    geometry = literal(case, dilated=True)

    def rule(x):
        return jaxbp.max_pool(x, case.size, ties=ties, **max_options(case))

    y, winners = oracles.max_pool(np.asarray(x), case.size, **geometry)
    dy = small_integers(rng, y.shape)
    ours, dx = value_and_cotangent(rule, x, dy)
    np.testing.assert_array_equal(ours, y)
    expected = oracles.max_pool_grad(
        np.asarray(dy), winners, x.shape, case.size, ties=ties, **geometry
    )
    assert_close(dx, expected, terms=y.size, magnitude=np.abs(dy).sum())
    # At second order: y is J x, so the Hessian of Σ ½ y² is Jᵀ J.
    rows = [
        oracles.max_pool_grad(
            row.reshape(y.shape), winners, x.shape, case.size, ties=ties, **geometry
        )
        for row in np.eye(y.size)
    ]
    v = small_integers(rng, x.shape)
    along = np.array([np.sum(row * v) for row in rows])
    gradient = jax.grad(lambda x: jnp.sum(rule(x) ** 2) / 2)
    ours = jax.jit(lambda x, v: jax.jvp(gradient, (x,), (v,))[1])(x, v)
    expected = sum(a * row for a, row in zip(along, rows, strict=True))
    size = sum(np.abs(row) * np.sum(np.abs(row * v)) for row in rows)
    assert_close(ours, expected, terms=x.size, magnitude=size)
    text = str(jax.make_jaxpr(lambda x, dy: value_and_cotangents(rule, (x,), dy))(x, dy))
    assert len(text.splitlines()) < 40 * 40


@pytest.mark.parametrize("name", ["2d same stride", "1d dilation", "2d crop"])
@pytest.mark.parametrize("ties", TIES)
def test_every_dtype_keeps_its_own(name, ties):
    case = CASES[name]
    for dtype in ("float32", "bfloat16", "float16"):
        x = jax.ShapeDtypeStruct((1, *case.spatial, 1), dtype)
        y, (dx,) = jax.eval_shape(
            lambda x, case=case: value_and_cotangents(
                lambda x: jaxbp.max_pool(x, case.size, ties=ties, **max_options(case)), (x,)
            ),
            x,
        )
        assert y.dtype == dx.dtype == dtype


@given(windows())
def test_shapes_are_those_of_lax(case):
    x = jax.ShapeDtypeStruct((2, *case.spatial, 3), default_dtype())
    ours = jax.eval_shape(lambda x: jaxbp.max_pool(x, case.size, **max_options(case)), x)
    theirs = jax.eval_shape(plain_max(case), x)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if case.dilations == (1,) * len(case.size):
        ours = jax.eval_shape(lambda x: jaxbp.avg_pool(x, case.size, **avg_options(case)), x)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_the_stride_is_the_window_if_none_is_given(rng):
    x = distinct(rng, (1, 6, 7, 2))
    for pool in (jaxbp.max_pool, jaxbp.avg_pool):
        np.testing.assert_array_equal(pool(x, (2, 3)), pool(x, (2, 3), stride=(2, 3)))
        assert pool(x, 2).shape == (1, 3, 3, 2)


# Both


def overlapping(x):
    return jaxbp.max_pool(x, (3, 2), stride=(2, 1), padding="SAME")


TRANSFORMED = {
    "max": (
        overlapping,
        plain_max(Case((4, 5), (3, 2), stride=(2, 1), padding="SAME")),
        (4, 5),
    ),
    "max split": (
        lambda x: jaxbp.max_pool(x, 2, padding=1, ties="split"),
        plain_max(Case((4, 3), (2, 2), stride=2, padding=1)),
        (4, 3),
    ),
    "max all 1d": (
        lambda x: jaxbp.max_pool(x, 3, stride=1, ties="all"),
        plain_max(Case((5,), (3,))),
        (5,),
    ),
    "avg": (
        lambda x: jaxbp.avg_pool(x, (3, 2), stride=(2, 1), padding="SAME"),
        plain_avg(Case((4, 5), (3, 2), stride=(2, 1), padding="SAME")),
        (4, 5),
    ),
    "avg 3d": (
        lambda x: jaxbp.avg_pool(x, 2, stride=1, padding=1, count_include_pad=False),
        lambda x: plain_avg(Case((2, 3, 2), (2, 2, 2), padding=1))(x, False),
        (2, 3, 2),
    ),
    "global max": (jaxbp.global_max_pool, lambda x: jnp.max(x, axis=(1, 2)), (3, 2)),
    "global avg": (jaxbp.global_avg_pool, lambda x: jnp.mean(x, axis=(1, 2)), (3, 2)),
}


# What these go through once more; the rest would run the same lines again.
AGAIN = {
    "max all 1d": ("plain", "vmap", "dtypes"),
    "avg 3d": ("plain", "vmap", "dtypes", "sums"),
    "global max": ("plain", "vmap"),
    "global avg": ("plain", "vmap"),
}


@pytest.mark.parametrize(
    ("transform", "name"),
    sample(
        ((transform, name) for name in TRANSFORMED for transform in AGAIN.get(name, TRANSFORMS)),
        every=3,
    ),
)
def test_transformations(transform, name, rng):
    rule, plain, spatial = TRANSFORMED[name]
    x = distinct(rng, (2, *spatial, 2))
    TRANSFORMS[transform](rule, plain, (x,), terms=20)


def test_the_dilated_gradient_that_lax_refuses_under_transformations(rng):
    """(4.4) where `jax.grad` of reduce_window raises: vmap, scan and jit against one call each."""
    xs = distinct(rng, (3, 1, 6, 2))

    def slope(x):
        return jax.grad(lambda x: jnp.sum(jaxbp.max_pool(x, 2, stride=1, dilation=3) ** 2))(x)

    singly = jnp.stack([slope(x) for x in xs])
    np.testing.assert_array_equal(jax.jit(jax.vmap(slope))(xs), singly)
    np.testing.assert_array_equal(lax.scan(lambda c, x: (c, slope(x)), 0, xs)[1], singly)


def test_finite_differences(float64, rng):
    x = np.asarray(distinct(rng, (1, 4, 4, 1), "float64"))
    for pool in (
        lambda x: jaxbp.max_pool(x, 3, stride=1, padding="SAME", dilation=2),
        lambda x: jaxbp.avg_pool(x, 3, stride=1, padding="SAME", count_include_pad=False),
    ):
        fn = jax.jit(pool)
        dy = rng.standard_normal(fn(x).shape)
        (slopes,) = oracles.finite_differences(fn, [x], dy)
        # Piecewise linear: only rounding is left, magnified by the step.
        assert_close(
            jax.vjp(fn, jnp.asarray(x))[1](jnp.asarray(dy))[0], slopes, terms=int(30 / 1e-3)
        )


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (2, 4, 4, 0), (2, 0, 4, 2), (2, 1, 4, 2)])
def test_empty_arrays(shape):
    """No examples, no channels, no places, and fewer places than the window has."""
    x = jnp.ones(shape)
    for pool in (jaxbp.max_pool, jaxbp.avg_pool):
        y, (dx,) = compiled(lambda x, pool=pool: pool(x, 2), (x,))
        assert y.shape == (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
        np.testing.assert_array_equal(dx, np.zeros(shape))


@pytest.mark.parametrize("padding", ["SAME", ((3, 9), (3, 9))])
@pytest.mark.parametrize("ties", TIES)
def test_a_window_of_many_cells_over_no_places(ties, padding):
    """Every window, if there is one, lies in the padding altogether."""
    x = jnp.ones((2, 0, 4, 1))
    y, (dx,) = compiled(
        lambda x: jaxbp.max_pool(x, (9, 8), stride=1, padding=padding, ties=ties), (x,)
    )
    shape = (2, 0, 4, 1) if padding == "SAME" else (2, 4, 9, 1)
    np.testing.assert_array_equal(y, np.full(shape, -np.inf))
    assert dx.shape == x.shape


X, DY, WINNER = np.ones((2, 4, 4, 3)), np.ones((2, 2, 2, 3)), np.zeros((2, 2, 2, 3), np.uint8)
SHAPE = (2, 4, 4, 3)
mx, av, mg, ag = jaxbp.max_pool, jaxbp.avg_pool, jaxbp.max_pool_grad, jaxbp.avg_pool_grad

BAD_CALLS = {
    "max_pool: x a list": (lambda: mx([1.0], 2), "x", TypeError),
    "max_pool: x None": (lambda: mx(None, 2), "x", TypeError),
    "max_pool: x integers": (lambda: mx(X.astype(np.int32), 2), "x", TypeError),
    "max_pool: x complex": (lambda: mx(X.astype(complex), 2), "x", TypeError),
    "max_pool: x of rank 2": (lambda: mx(X[0, 0], 2), "x", ValueError),
    "max_pool: x a number": (lambda: mx(1.0, 2), "x", ValueError),
    "max_pool: window zero": (lambda: mx(X, 0), "window", ValueError),
    "max_pool: window negative": (lambda: mx(X, (2, -2)), "window", ValueError),
    "max_pool: window a float": (lambda: mx(X, 2.0), "window", TypeError),
    "max_pool: window a bool": (lambda: mx(X, True), "window", TypeError),
    "max_pool: window None": (lambda: mx(X, None), "window", TypeError),
    "max_pool: window a string": (lambda: mx(X, "2"), "window", TypeError),
    "max_pool: window with the channels": (lambda: mx(X, (2, 2, 1)), "window", ValueError),
    "max_pool: stride zero": (lambda: mx(X, 2, stride=0), "stride", ValueError),
    "max_pool: stride a float": (lambda: mx(X, 2, stride=1.5), "stride", TypeError),
    "max_pool: padding unknown": (lambda: mx(X, 2, padding="PADDED"), "padding", ValueError),
    "max_pool: padding None": (lambda: mx(X, 2, padding=None), "padding", TypeError),
    "max_pool: padding crops too much": (lambda: mx(X, 2, padding=-3), "padding", ValueError),
    "max_pool: dilation zero": (lambda: mx(X, 2, dilation=0), "dilation", ValueError),
    "max_pool: dilation a bool": (lambda: mx(X, 2, dilation=True), "dilation", TypeError),
    "max_pool: ties unknown": (lambda: mx(X, 2, ties="last"), "ties", ValueError),
    "max_pool: ties None": (lambda: mx(X, 2, ties=None), "ties", TypeError),
    "avg_pool: x bools": (lambda: av(X.astype(bool), 2), "x", TypeError),
    "avg_pool: x of rank 6": (lambda: av(X[None, None], 2), "x", ValueError),
    "avg_pool: window zero": (lambda: av(X, (0, 1)), "window", ValueError),
    "avg_pool: stride negative": (lambda: av(X, 2, stride=-1), "stride", ValueError),
    "avg_pool: padding one pair": (lambda: av(X, 2, padding=((0, 0),)), "padding", ValueError),
    "avg_pool: count_include_pad a string": (
        lambda: av(X, 2, count_include_pad="no"),
        "count_include_pad",
        TypeError,
    ),
    "avg_pool: count_include_pad an int": (
        lambda: av(X, 2, count_include_pad=0),
        "count_include_pad",
        TypeError,
    ),
    "max_pool_grad: dy of another shape": (lambda: mg(DY[:1], WINNER, SHAPE, 2), "dy", ValueError),
    "max_pool_grad: dy integers": (lambda: mg(WINNER, WINNER, SHAPE, 2), "dy", TypeError),
    "max_pool_grad: dy of rank 2": (lambda: mg(DY[0, 0], WINNER, SHAPE, 2), "dy", ValueError),
    "max_pool_grad: winner of floats": (lambda: mg(DY, DY, SHAPE, 2), "winner", TypeError),
    "max_pool_grad: winner a list": (lambda: mg(DY, [0], SHAPE, 2), "winner", TypeError),
    "max_pool_grad: winner None": (lambda: mg(DY, None, SHAPE, 2), "winner", TypeError),
    "max_pool_grad: winner of another shape": (
        lambda: mg(DY, WINNER[:1], SHAPE, 2),
        "winner",
        ValueError,
    ),
    "max_pool_grad: winner a mask where the first wins": (
        lambda: mg(DY, np.ones((*DY.shape, 4), bool), SHAPE, 2),
        "winner",
        TypeError,
    ),
    "max_pool_grad: winner a mask of other cells": (
        lambda: mg(DY, np.ones((*DY.shape, 9), bool), SHAPE, 2, ties="all"),
        "winner",
        ValueError,
    ),
    "max_pool_grad: input_shape of another rank": (
        lambda: mg(DY, WINNER, (4, 4), 2),
        "input_shape",
        ValueError,
    ),
    "max_pool_grad: input_shape an int": (lambda: mg(DY, WINNER, 4, 2), "input_shape", TypeError),
    "max_pool_grad: window a float": (lambda: mg(DY, WINNER, SHAPE, 2.0), "window", TypeError),
    "max_pool_grad: ties unknown": (lambda: mg(DY, WINNER, SHAPE, 2, ties=""), "ties", ValueError),
    "avg_pool_grad: dy of another shape": (lambda: ag(DY, (2, 6, 4, 3), 2), "dy", ValueError),
    "avg_pool_grad: dy a string": (lambda: ag("dy", SHAPE, 2), "dy", TypeError),
    "avg_pool_grad: input_shape negative": (
        lambda: ag(DY, (2, -4, 4, 3), 2),
        "input_shape",
        ValueError,
    ),
    "avg_pool_grad: input_shape None": (lambda: ag(DY, None, 2), "input_shape", TypeError),
    "avg_pool_grad: count_include_pad None": (
        lambda: ag(DY, SHAPE, 2, count_include_pad=None),
        "count_include_pad",
        TypeError,
    ),
    "global_max_pool: x of rank 2": (lambda: jaxbp.global_max_pool(X[0, 0]), "x", ValueError),
    "global_max_pool: x without places": (lambda: jaxbp.global_max_pool(X[:, :0]), "x", ValueError),
    "global_avg_pool: x without places": (lambda: jaxbp.global_avg_pool(X[:, :0]), "x", ValueError),
    "global_avg_pool: x integers": (
        lambda: jaxbp.global_avg_pool(X.astype(np.int64)),
        "x",
        TypeError,
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name):
    call, argument, kind = BAD_CALLS[name]
    function = name.split(":")[0]
    with pytest.raises(kind, match=rf"^{function}: {argument} must be .*, got .+"):
        call()
