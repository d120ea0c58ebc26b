"""Every strategy gives the plain sums, in every case that it says it can do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import lowering
from jaxbp.lowering import blocks, table
from jaxbp.lowering.choice import TABLE
from jaxbp.lowering.convolution import columns, folds, merged, planes, shifts, winograd
from jaxbp.lowering.finite import if_finite
from jaxbp.window import Window, make_window
from tests.daily import sample
from tests.tolerance import assert_close

# Spatial shape, kernel, stride, padding, dilation, groups, C, O, N.
CASES = {
    "1-D strided": ((9,), (3,), 2, "SAME", 1, 1, 3, 4, 5),
    "3×3": ((7, 6), (3, 3), 1, "SAME", 1, 1, 3, 4, 5),
    "3×3 cropped": ((9, 8), (3, 3), 1, [(-1, 2), (0, -1)], 1, 1, 2, 3, 3),
    "strides and one-sided padding": ((9, 8), (3, 2), (2, 3), [(1, 2), (0, 1)], 1, 1, 3, 4, 5),
    "cropped before, padded after": ((9, 8), (3, 3), 1, [(-2, 1), (0, -1)], 1, 1, 2, 3, 3),
    "dilated": ((9, 8), (3, 3), 1, "SAME", 2, 1, 3, 4, 2),
    "stride beyond the window, groups": ((9, 8), (2, 2), 3, "VALID", 1, 2, 4, 6, 2),
    "stride in one axis, dilation in the other": (
        (9, 8),
        (3, 3),
        (1, 2),
        "SAME",
        (2, 1),
        1,
        3,
        4,
        2,
    ),
    "1×1 strided": ((9, 8), (1, 1), 2, "SAME", 1, 1, 4, 6, 2),
    "1×1 padded and cropped": ((9, 8), (1, 1), 1, [(1, 2), (-1, 1)], 1, 1, 4, 6, 2),
    "patches, a remainder": ((7, 9), (3, 2), (3, 2), "VALID", 1, 1, 3, 4, 2),
    "two blocks of the stride": ((9, 8), (4, 3), (2, 1), [(1, 2), (-1, 1)], (1, 2), 1, 3, 4, 2),
    "1-D, four blocks of the stride": ((21,), (12,), 3, [(4, -2)], 1, 1, 2, 3, 2),
    "3-D": ((5, 4, 6), (3, 3, 3), 1, "SAME", 1, 1, 2, 3, 2),
    "3-D strided": ((7, 6, 5), (3, 2, 3), 2, [(1, 0), (-1, 2), (1, 1)], 1, 1, 3, 2, 2),
    "3-D dilated, many channels": (
        (6, 5, 4),
        (3, 1, 2),
        1,
        [(3, 2), (0, 0), (-1, 1)],
        (2, 1, 1),
        1,
        24,
        3,
        2,
    ),
    "3-D patches": ((4, 6, 5), (2, 2, 2), 2, "VALID", 1, 1, 3, 2, 2),
    "depthwise, strided": ((9, 8), (3, 3), (2, 1), "SAME", 1, 4, 4, 4, 3),
    "depthwise, two features a channel": ((9,), (4,), 1, [(6, 0)], 2, 3, 3, 6, 2),
    "depthwise, many cells, strided": ((13, 9), (6, 5), 2, [(3, 2), (-1, 2)], 1, 2, 2, 2, 2),
    "depthwise, cells in a loop": ((25,), (67,), 3, [(40, 35)], 1, 2, 2, 4, 2),
    "two groups": ((6, 5), (3, 2), 2, "SAME", 1, 2, 6, 4, 2),
    "no window": ((2, 2), (5, 5), 1, "VALID", 1, 1, 3, 4, 2),
    "no example": ((7, 8), (3, 3), 2, "SAME", 1, 1, 3, 4, 0),
    "dilated and strided": ((9, 8), (2, 3), (2, 1), "VALID", (3, 2), 1, 3, 4, 2),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several pieces and a rest, in arrays as small as these."""
    monkeypatch.setattr(blocks, "PIECE", 400)
    monkeypatch.setattr(winograd, "PIECE", 4000)
    monkeypatch.setattr(columns, "PIECE", 4000)
    monkeypatch.setattr(shifts, "PIECE", 700)
    monkeypatch.setattr(shifts, "PADDED", 2000)


def numbers(rng, shape, dtype=np.float32):
    return jnp.asarray(rng.standard_normal(shape), dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def as_one_program(run, static, *operands):
    """Outside jit every operation of a strategy would be a program of its own to compile."""
    return run(*operands, *static)


def operations(rng, case, draw=numbers):
    """Each operation's operands and static arguments."""
    spatial, kernel, stride, padding, dilation, groups, c, o, n = CASES[case]
    window = make_window("test", spatial, kernel, stride=stride, padding=padding, dilation=dilation)
    x, w = draw(rng, (n, *spatial, c)), draw(rng, (*kernel, c // groups, o))
    dy = draw(rng, (n, *window.output(spatial), o))
    pooled = draw(rng, (n, *window.output(spatial), c))
    _, winner = as_one_program(TABLE["max_pool"][-1].run, (window,), x)
    made = {
        "conv": ((x, w), (window, groups)),
        "conv_kernel_grad": ((x, dy), (window, groups)),
        "conv_input_grad": ((dy, w), (x.shape, window, groups)),
        "max_pool": ((x,), (window,)),
        "max_pool_grad": ((pooled, winner), (x.shape, window)),
        "sum_pool": ((x,), (window,)),
        "sum_pool_grad": ((pooled,), (x.shape, window)),
    }
    size = (2,) * len(spatial)
    z_shape = window.output(spatial)
    pool = make_window("test", z_shape, size, stride=size, padding="VALID", dilation=1)
    made["conv_max_pool"] = ((x, w), (window, pool, groups))
    return made


@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [
        ((5,), (5,), (1,)),
        ((2, 3), (3, 3), (1, 1)),
        ((2, 2), (4, 5), (2, 3)),
        ((2, 3, 2), (2, 3, 2), (1, 1, 1)),
        ((43, 41), (43, 41), (1, 1)),
    ],
)
def test_a_winner_is_found_axis_by_axis(size, stride, dilation, rng):
    """Where windows do not overlap and channels are some, `tiles` asks so: every cell may win."""
    window = Window(size, stride, ((0, 0),) * len(size), dilation)
    spatial = [2 * s + span for s, span in zip(stride, window.span, strict=True)]
    shape = (1, *spatial, 16)
    places = (1, *window.output(spatial), 16)
    winner = jnp.asarray(rng.permutation(np.prod(places)).reshape(places) % window.cells)
    dy = numbers(rng, places)
    ours, plain = (
        as_one_program(row_of("max_pool_grad", name).run, (shape, window), dy, winner)
        for name in ("tiles", "scatter")
    )
    np.testing.assert_array_equal(ours, plain)


ROWS = [(operation, row.name) for operation, rows in TABLE.items() for row in rows[:-1]]


def row_of(operation, name):
    return next(row for row in TABLE[operation] if row.name == name)


@pytest.mark.parametrize(("operation", "name"), ROWS)
def test_gives_the_plain_sum(operation, name, rng):
    tried = 0
    for case in CASES:
        operands, static = operations(rng, case)[operation]
        row = row_of(operation, name)
        if not row.can(*operands, *static):
            continue
        tried += 1
        ours = as_one_program(row.run, static, *operands)
        wide = [
            a.astype(np.float64) if a.dtype == np.float32 else a for a in map(np.asarray, operands)
        ]
        with jax.enable_x64(True):
            truth = as_one_program(TABLE[operation][-1].run, static, *wide)
        for mine, true in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
            if jnp.issubdtype(mine.dtype, jnp.integer):
                np.testing.assert_array_equal(mine, true)
            else:
                # Sixteen sums and differences of the transforms at most, beside a sum's own terms.
                assert_close(mine, true, terms=400, what=f"{operation} by {name}, {case}")
    assert tried >= 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("strategy", "case"),
    [
        (winograd, "3×3"),
        (folds, "3×3"),
        (merged, "two groups"),
        (shifts, "depthwise, strided"),
        (shifts, "depthwise, many cells, strided"),
    ],
)
@pytest.mark.parametrize("operation", ["conv", "conv_input_grad"])
def test_what_is_not_finite_stays_in_its_place(operation, strategy, case, bad, rng):
    (x, w), static = operations(rng, case)[operation]
    x = x.at[1, 1, 1, 0].set(bad) if case != "3×3" else x.at[1, 2, 3, 0].set(bad)
    ours = as_one_program(getattr(strategy, operation), static, x, w)
    plain = as_one_program(TABLE[operation][-1].run, static, x, w)
    assert_close(ours, np.asarray(plain, np.float64), terms=200)
    assert not np.isfinite(np.asarray(ours)).all()
    assert np.isfinite(np.asarray(ours)).mean() > 0.9


@pytest.mark.parametrize("strategy", [winograd, folds])
@pytest.mark.parametrize("operation", ["conv", "conv_input_grad", "conv_kernel_grad"])
@pytest.mark.parametrize("bad", [np.inf, 2e38])
def test_what_is_finite_in_the_plain_sum_stays_finite(operation, strategy, bad, rng):
    """An infinity in the second operand, and numbers that overflow when they are only added."""
    (first, second), static = operations(rng, "3×3")[operation]
    if np.isinf(bad):
        middle = tuple(n // 2 for n in second.shape)  # it meets no padding
        second = second.at[middle].set(bad)
    else:
        first, second = first * 1e-12, jnp.full_like(second, bad)
    ours = as_one_program(getattr(strategy, operation), static, first, second)
    plain = as_one_program(TABLE[operation][-1].run, static, first, second)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(plain))
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(plain))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_at_the_border_reaches_the_cells_that_meet_it(bad, rng):
    """Planes of zeros beside those of dy would carry it to every cell of the kernel."""
    (x, dy), static = operations(rng, "3-D")["conv_kernel_grad"]
    x = x.at[0, 0, 1, 2, 0].set(bad)
    ours = as_one_program(planes.conv_kernel_grad, static, x, dy)
    plain = as_one_program(TABLE["conv_kernel_grad"][-1].run, static, x, dy)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(plain))
    assert np.isfinite(np.asarray(ours)[2, :, :, 0]).all()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_guard_sees_one_bad_number_among_thousands(dtype, bad):
    """In vector lanes XLA's maximum of floats drops a NaN on a CPU."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-3, 3, 8 * 28 * 28, dtype=dtype).reshape(8, 28, 28, 1)
        quick, plain = (lambda x, v=v: jnp.full((), v) for v in (1, 2))
        guarded = jax.jit(lambda x: if_finite(quick, plain, x))
        assert guarded(x) == 1
        for place in ((0, 0, 0, 0), (3, 7, 21, 0), (7, 27, 27, 0)):
            assert guarded(x.at[place].set(bad)) == 2


@pytest.mark.parametrize("strategy", [winograd, folds])
def test_a_batch_of_none_under_vmap(strategy, rng):
    (x, w), static = operations(rng, "3×3")["conv"]
    batched = jax.vmap(lambda x: strategy.conv(x, w, *static))
    assert batched(x[None][:0]).shape == (0, *strategy.conv(x, w, *static).shape)


def test_one_guard_serves_a_whole_batch_under_vmap(rng):
    (x, w), static = operations(rng, "3×3")["conv"]
    batched = jax.vmap(lambda x: folds.conv(x, w, *static))
    program = str(jax.make_jaxpr(batched)(x[None]))
    assert "cond[" in program
    assert "select_n" not in program
    assert_close(batched(x[None])[0], np.asarray(folds.conv(x, w, *static), np.float64), terms=200)


@pytest.mark.parametrize(("operation", "name"), ROWS)
def test_is_differentiable_both_ways(operation, name, rng):
    for case in CASES:
        operands, static = operations(rng, case)[operation]
        row = row_of(operation, name)
        if row.can(*operands, *static) and all(a.size for a in operands):
            break
    inexact = [a for a in operands if jnp.issubdtype(a.dtype, jnp.floating)]
    rest = operands[len(inexact) :]
    tangents = [numbers(rng, a.shape) for a in inexact]

    def value(run):
        return lambda *a: jax.tree.leaves(run(*a, *rest, *static))[0]

    dy = numbers(rng, jax.eval_shape(value(row.run), *inexact).shape)

    @functools.partial(jax.jit, static_argnums=0)
    def both_ways(run, inexact, tangents, dy):
        f = value(run)
        return jax.jvp(f, inexact, tangents)[1], jax.vjp(f, *inexact)[1](dy)

    mine = both_ways(row.run, inexact, tangents, dy)
    true = both_ways(TABLE[operation][-1].run, inexact, tangents, dy)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(true), strict=True):
        assert_close(a, np.asarray(b, np.float64), terms=800)


@pytest.mark.parametrize(
    ("operation", "name", "dtype"),
    sample(((*row, dtype) for row in ROWS for dtype in ("bfloat16", "float16")), every=3),
)
def test_half_precision_sums_in_float32(operation, name, dtype, rng):
    apart = {
        "pointwise": "1×1 strided",
        "phases": "1-D strided",
        "strides": "3-D patches",
        "merged": "two groups",
    }
    case = apart.get(name, "3×3")
    draw = lambda rng, shape: numbers(rng, shape, dtype)  # noqa: E731
    operands, static = operations(rng, case, draw)[operation]
    row = row_of(operation, name)
    assert row.can(*operands, *static)
    ours = jax.tree.leaves(as_one_program(row.run, static, *operands))[0]
    wide = [a.astype(jnp.float32) if a.dtype == dtype else a for a in operands]
    truth = jax.tree.leaves(as_one_program(TABLE[operation][-1].run, static, *wide))[0]
    assert ours.dtype == (jnp.float32 if operation == "sum_pool" else dtype)
    assert_close(ours, np.asarray(truth, np.float64), terms=400)


@pytest.mark.parametrize("name", ["axes", "xla"])
def test_max_pool_takes_the_first_largest_and_nan_before_all(name):
    nan, inf = np.nan, np.inf
    x = jnp.asarray([[1, 3, 3, 0], [nan, inf, nan, 0], [-inf, -inf, -inf, -inf]], jnp.float32)
    window = make_window("test", (4,), (4,), stride=1, padding="VALID", dilation=1)
    y, winner = row_of("max_pool", name).run(x[..., None], window)
    np.testing.assert_array_equal(y[:, 0, 0], [3, nan, -inf])
    np.testing.assert_array_equal(winner[:, 0, 0], [1, 0, 0])


def test_large_windows_are_not_written_out(rng):
    x = numbers(rng, (1, 56, 56, 2))

    def loss(x):
        return jnp.sum(jaxbp.global_max_pool(x)) + jnp.sum(jaxbp.global_avg_pool(x))

    equations = str(jax.make_jaxpr(jax.grad(loss))(x)).count("\n")
    assert equations < 500
    dx = np.asarray(jax.jit(jax.grad(loss))(x))
    winners = dx > 0.5
    assert winners.sum() == 2
    np.testing.assert_array_equal(np.asarray(x)[winners], np.asarray(x).max(axis=(0, 1, 2)))


def test_use_forces_by_name_and_enters_jits_cache(rng):
    (x, w), static = operations(rng, "3×3")["conv"]
    f = jax.jit(lambda x, w: lowering.conv(x, w, *static))
    plain = jax.make_jaxpr(f)(x, w)
    with lowering.use("winograd"):
        forced = jax.make_jaxpr(f)(x, w)
        assert_close(
            f(x, w), np.asarray(TABLE["conv"][-1].run(x, w, *static), np.float64), terms=200
        )
    assert "scan" in str(forced)
    assert "scan" not in str(plain)
    assert str(jax.make_jaxpr(f)(x, w)) == str(plain)


def test_use_falls_back_where_the_strategy_cannot(rng):
    (x, w), static = operations(rng, "dilated")["conv"]
    with lowering.use("winograd"):
        y = lowering.conv(x, w, *static)
    np.testing.assert_array_equal(y, TABLE["conv"][-1].run(x, w, *static))


def test_use_names_the_strategies():
    with (
        pytest.raises(ValueError, match=r"use: name must be one of \(.*'winograd'.*got 'fast'"),
        lowering.use("fast"),
    ):
        pass


def test_the_program_keeps_one_way_a_platform():
    """XLA's convolution on an accelerator, minimal filtering on a CPU, both from one trace."""
    window = make_window("test", (64, 64), (3, 3), stride=1, padding="SAME", dilation=1)
    x = jax.ShapeDtypeStruct((32, 64, 64, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)
    traced = jax.jit(lambda x, w: lowering.conv(x, w, window, 1)).trace(x, w)
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    on_gpu = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "while" in on_cpu
    assert "while" not in on_gpu
    assert on_gpu.count("stablehlo.convolution") == 1


def test_every_operation_ends_in_a_row_for_everything():
    assert all(rows[-1].name == "xla" for rows in table.TABLE.values())
