"""`check_vjp` from outside: what it takes, whom it blames, what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import assert_vjp, check_vjp
from tests.verify.rules import layer, layer_arguments, layer_rule, normal, rule

QUICK = ("structure", "gradient")
AT_A_POINT = (*QUICK, "finite-differences", "kinks", "linear", "nan")


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


def test_a_right_rule_passes_every_check():
    report = check_vjp(layer_rule(), *layer_arguments())
    assert report.ok, str(report)
    undecided = {c.name for c in report.checks if c.ok is None}
    assert undecided == {"shard-map"}  # a textbook dw varies over the batch's devices
    assert {p.argument for p in report.powers} == {"x", "w"}
    assert max(p.smallest_error for p in report.powers) < 1e-9
    assert {p.dtype for p in report.precisions} == {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda dx, dw, dy: (2 * dx, dw), {("x", "scale")}),
        (lambda dx, dw, dy: (dx, dw / 4), {("w", "averaged")}),
        (lambda dx, dw, dy: (dx, dw.T), {("w", "transposed")}),
        (lambda dx, dw, dy: (-dx, dw), {("x", "sign")}),
        (lambda dx, dw, dy: (dx, dw.at[1, 1].add(1e-6)), {("w", "nonlinear")}),
        (lambda dx, dw, dy: (dx, dw.at[1, 1].multiply(1 + 1e-6)), {("w", "local")}),
        (lambda dx, dw, dy: (dx[::-1], dw), {("x", "flipped")}),
    ],
)
def test_the_wrong_argument_is_named_with_its_mistake(change, expected):
    checks = (*QUICK, "linear")
    assert words(check_vjp(layer_rule(change), *layer_arguments(), checks=checks)) == expected


def test_a_tiny_leaf_among_huge_ones_is_judged_by_itself():
    forward = lambda p: p["small"].sum() * 1e-6 + p["large"].sum() * 1e6  # noqa: E731

    def bwd(_, dy):
        return (
            {
                "small": jnp.full(3, 1.01e-6, dy.dtype) * dy,
                "large": jnp.full(4, 1e6, dy.dtype) * dy,
            },
        )

    tree = {"small": normal(3), "large": normal(4)}
    report = check_vjp(rule(forward, bwd), tree, checks=QUICK)
    assert [f.argument for f in report.findings] == ["p['small']"]


SOME = np.array([0.3, -1.0, 2.0], "float32")


@pytest.mark.parametrize(
    ("forward", "derivative", "x"),
    [
        (lambda x: 1e-30 * jnp.sin(x), lambda x: 2e-30 * jnp.cos(x), SOME),
        (lambda x: 1e-37 * jnp.sin(x), lambda x: 0.0 * x, SOME),
        (lambda x: 1e-12 * jnp.cos(x), lambda x: 0.0 * x, 0 * SOME),
        (lambda x: jnp.cos(x), lambda x: jnp.sin(x), 1e-17 * SOME),
        (lambda x: 1.0 + x**2, lambda x: x, 1e-30 * SOME),
        (lambda x: jnp.mean(x**2), lambda x: x / x.size, np.tile(SOME, 7000)),
    ],
    ids=["sine", "nearly-none", "at-zero", "tiny-argument", "beside-one", "mean"],
)
def test_truly_small_gradients_are_judged(forward, derivative, x):
    wrong = rule(forward, lambda r, dy: (dy * derivative(r[0]),))
    assert not check_vjp(wrong, x, checks=("gradient",)).ok


@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_what_is_tiny_beside_another_argument_is_judged(scale):
    def forward(a, b):
        return scale * jnp.sin(a) + b

    wrong = rule(forward, lambda r, dy: (scale * dy * jnp.cos(r[0]), 2 * dy))
    a = normal(3)
    report = check_vjp(wrong, a, a * (1e-20 if scale == 1 else 1e-3), checks=("gradient",))
    assert [f.argument for f in report.findings] == ["b"]


def test_a_rule_inside_an_ordinary_function_is_compared_with_its_primal():
    wrong = layer_rule(lambda dx, dw, dy: (dx, 3 * dw))
    public = jax.jit(lambda x, w: {"y": wrong(x, w) + 1, "n": x.shape[0]})
    report = check_vjp(public, *layer_arguments(), checks=QUICK)
    assert words(report) == {("w", "scale")}
    assert report.reference == "the primal inside the rule"


def test_without_a_rule_autodiff_is_on_trial():
    assert check_vjp(layer, *layer_arguments(), checks=("gradient",)).ok
    wrong = jax.custom_jvp(jnp.sin)
    wrong.defjvp(lambda primals, tangents: (jnp.sin(*primals), 2 * jnp.cos(*primals) * tangents[0]))
    report = check_vjp(wrong, normal(5), checks=("gradient",))
    assert [(f.diagnosis, f.side) for f in report.findings] == [("scale", "rule")]


def test_integers_static_and_keyword_arguments():
    def pick(table, rows, power, *, scale, mode=None):
        return scale * table[rows] ** power

    report = check_vjp(
        pick,
        normal(5, 2),
        jnp.array([0, 3, 3]),
        2,
        kwargs={"scale": 1.5, "mode": "x"},
        checks=QUICK,
    )
    assert report.ok, str(report)
    assert [name.split(":")[0] for name in report.arguments] == ["table", "scale"]


def test_nondiff_arguments_are_held():
    made = rule(
        lambda power, x: x**power, lambda power, res, dy: (power * res ** (power - 1) * dy,),
        fwd=lambda power, x: (x**power, x), nondiff_argnums=(0,),
    )  # fmt: skip
    assert check_vjp(made, 3, normal(4), checks=QUICK).ok


def test_a_reference_whose_gradient_is_wrong_is_the_odd_one_out():
    detached = lambda x: x * jax.lax.stop_gradient(x)  # noqa: E731
    report = check_vjp(lambda x: x * x, normal(4), reference=detached, checks=QUICK)
    assert {f.side for f in report.findings} == {"reference"}


def test_a_reference_with_another_value_is_the_forward_s_fault():
    report = check_vjp(jnp.sin, normal(4), reference=jnp.tanh, checks=QUICK)
    assert [(f.diagnosis, f.side) for f in report.findings] == [("value", "forward")]


def test_what_it_refuses():
    with pytest.raises(ValueError, match="args"):
        check_vjp(lambda n: n, jnp.arange(3))
    with pytest.raises(TypeError, match="fn"):
        check_vjp(lambda x: x > 0, normal(3))
    with pytest.raises(ValueError, match="checks"):
        check_vjp(jnp.sin, normal(3), checks=("gradients",))
    with pytest.raises(ValueError, match="check_vjp: seed must be at least 0; got -1"):
        check_vjp(jnp.sin, normal(3), seed=-1)
    for seed in (1.5, "a", None):
        with pytest.raises(TypeError, match=f"check_vjp: seed must be an integer; got {seed!r}"):
            check_vjp(jnp.sin, normal(3), seed=seed)


def test_the_seed_of_a_report_is_plain():
    report = check_vjp(jnp.sin, normal(3), checks=("gradient",), seed=np.int64(7))
    assert json.dumps(report.to_dict()["seed"]) == "7"


SPEC = jax.ShapeDtypeStruct((3,), jnp.float32)


@pytest.mark.parametrize(
    ("fn", "args", "options", "named"),
    [
        (3, (1.0,), {}, "fn must"),
        (jnp.sin, (1.0,), {"reference": 3}, "reference must"),
        (jnp.sin, (1.0,), {"kwargs": [1]}, "kwargs must"),
        (jnp.sin, (1.0,), {"kwargs": {1: 2}}, "kwargs must"),
        (jnp.sin, (1.0,), {"checks": 3}, "checks must"),
        (lambda x, y: x, (1.0, np.array([1, None], object)), {}, "`y` must hold numbers"),
        (lambda x, y: x, (1.0, [np.array(["a"])]), {}, r"`y\[0\]` must hold numbers"),
        (jnp.sin, (SPEC,), {}, "`x` must be data; got the spec"),
        (lambda x, w: x, (1.0,), {"kwargs": {"w": {"a": SPEC}}}, r"`w\['a'\]` must be data"),
    ],
)
def test_what_has_no_such_type_is_named(fn, args, options, named):
    with pytest.raises(TypeError, match=f"check_vjp: {named}"):
        check_vjp(fn, *args, **options)


def test_a_spec_may_be_an_argument_that_is_held():
    fn = rule(
        lambda x, like: x * like.size,
        lambda like, _, dy: (like.size * dy,),
        lambda x, like: (x * like.size, None),
        nondiff_argnums=(1,),
    )
    assert check_vjp(fn, normal(3), SPEC, checks=QUICK).ok


def test_assert_vjp_says_what_is_wrong():
    assert_vjp(layer_rule(), *layer_arguments(), checks=QUICK)
    with pytest.raises(AssertionError, match="w"):
        assert_vjp(layer_rule(lambda dx, dw, dy: (dx, dw * 0)), *layer_arguments(), checks=QUICK)


def test_empty_arrays_are_nothing_to_complain_of():
    report = check_vjp(
        layer_rule(), jnp.zeros((0, 3)), normal(3, 3), checks=("structure", "gradient", "linear")
    )
    assert report.ok, str(report)


def test_a_rule_that_is_narrow_inside_is_not_refuted_in_float64():
    inside = lambda x: jnp.sin(x.astype("float32")).astype(x.dtype)  # noqa: E731
    made = rule(inside, lambda res, dy: (dy * jnp.cos(res[0].astype("float32")).astype(dy.dtype),))
    report = check_vjp(made, normal(6), checks=(*QUICK, "linear", "finite-differences"))
    assert report.ok, str(report)
    assert np.any(["does not compute in float64" in note for note in report.notes])


def test_rows_that_the_gradient_has_decided_claim_nothing():
    without_n = rule(lambda x: jnp.mean(x**2), lambda kept, dy: (2 * kept[0] * dy,))
    report = check_vjp(without_n, jnp.arange(1.0, 6.0), checks=AT_A_POINT)
    (finding,) = report.findings
    assert (finding.argument, finding.diagnosis) == ("x", "scale")
    assert "5 times the truth, which is the size of `x`'s axis 0" in finding.message
    rows = {row.name: row for row in report.checks}
    for name in ("finite-differences", "kinks"):
        assert rows[name].ok is None
        assert rows[name].detail == "the gradient is wrong already"


def test_each_row_blames_only_what_no_row_before_it_has_blamed():
    doubled = rule(lambda x, w: x * w, lambda kept, dy: (2 * dy * kept[1], dy * kept[0]))
    report = check_vjp(
        doubled, jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 1.5, -1.0]), checks=AT_A_POINT
    )
    assert [f.argument for f in report.findings] == ["x"]
    assert [row.name for row in report.checks if row.ok is False] == ["gradient"]


def test_a_function_that_asks_for_values_is_named():
    def branching(x):
        return 2 * x if float(x.sum()) > 0 else x

    with pytest.raises(TypeError, match=r"check_vjp: fn must be traceable, as under jax\.jit"):
        check_vjp(branching, np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"must be traceable"):
        check_vjp(lambda x: jnp.asarray(np.sin(np.asarray(x))), np.ones(3, np.float32))


@pytest.mark.parametrize(("combined", "right"), [(jax.lax.psum, True), (jax.lax.pmean, False)])
def test_a_replicated_argument_s_cotangent_is_summed_over_the_devices(combined, right):
    def over_devices(dx, dw, dy):
        axes = tuple(jax.typeof(dw).manual_axis_type.varying)
        return dx, combined(dw, axes) if axes else dw

    found = check_vjp(layer_rule(over_devices), *layer_arguments(), checks=("shard-map",))
    assert words(found) == (set() if right else {("w", "shard-map")})
    (row,) = found.checks
    assert row.ok is right
    assert "2 devices" in row.detail


def test_one_device_has_it_all_where_the_examples_cannot_be_shared_out():
    report = check_vjp(jnp.sin, normal(3), checks=("shard-map",))
    assert report.checks[0].ok
    assert "one device" in report.checks[0].detail


def test_autodiff_that_contradicts_its_first_order_is_no_judge_of_the_second():
    def taken(x, i):
        return x[i]

    def bwd(residuals, dy):
        x, i = residuals
        return jnp.zeros_like(x).at[i].add(dy), None

    beyond = jnp.asarray([1, 5], "int32")
    report = check_vjp(rule(taken, bwd), normal(3), beyond, checks=("gradient", "second-order"))
    assert report.ok, str(report)
    assert any("out of bounds" in note for note in report.notes)
    detached = rule(taken, lambda kept, dy: bwd(kept, jax.lax.stop_gradient(dy)))
    report = check_vjp(detached, normal(3), beyond, checks=("gradient", "second-order"))
    assert words(report) == {("x", "second-order")}


def test_wrong_only_under_vmap_over_two_of_four_arguments():
    @jax.custom_batching.custom_vmap
    def product(a, b, c):
        return a * b * c

    @product.def_vmap
    def _(size, batched, a, b, c):
        return (2 if batched == [True, False, True] else 1) * a * b * c, True

    def bwd(args, dy):
        a, b, c, d = args
        return dy * b * c * d, dy * a * c * d, dy * a * b * d, dy * product(a, b, c)

    four = rule(lambda a, b, c, d: a * b * c * d, bwd)
    found = check_vjp(four, *(normal(3) for _ in range(4)), checks=("gradient", "vmap"))
    assert words(found) == {("d", "vmap")}, str(found)


def test_a_nan_among_the_arguments_does_not_stop_the_diagnosis():
    """A point that holds a NaN equals no point, not even itself."""
    mean = rule(
        lambda x: jnp.nanmean(x, 0),
        lambda kept, dy: (jnp.where(jnp.isnan(kept[0]), 0, dy[None] / 5).astype(dy.dtype),),
    )
    report = check_vjp(mean, normal(5, 3).at[1, 1].set(jnp.nan), checks=QUICK)
    assert [f.argument for f in report.findings] == ["x"]


def test_where_the_reference_is_no_number_is_not_where_the_rule_is_wrong():
    here = jnp.array([True, True, False, True])
    half = rule(
        lambda x: jnp.sum(jnp.where(here, x**2, 0)),
        lambda kept, dy: (jnp.where(here, dy * kept[0], 0),),
    )
    report = check_vjp(half, jnp.array([1.0, 2.0, jnp.nan, 3.0]), checks=("gradient",))
    (finding,) = report.findings
    assert finding.diagnosis == "scale"
    assert finding.index != (2,)
    assert 2 * finding.got == pytest.approx(finding.expected)


@pytest.mark.parametrize(
    "change",
    [lambda dy: jnp.clip(dy, -1e4, 1e4), lambda dy: jnp.where(jnp.abs(dy) < 1e-5, 0, dy)],
)
def test_a_cotangent_cut_off_far_from_one_is_not_linear(change):
    cut = rule(jnp.sin, lambda kept, dy: (change(dy) * jnp.cos(kept[0]),))
    assert words(check_vjp(cut, normal(5), checks=(*QUICK, "linear"))) == {("x", "nonlinear")}


def test_complex_beside_real_arguments_raises_no_warning(recwarn):
    def forward(z, x):
        return jnp.real(z @ x.astype(z.dtype))

    def bwd(kept, dy):
        z, x = kept
        return jnp.outer(dy, x).astype(z.dtype), jnp.real(z.T @ dy.astype(z.dtype))

    z = jax.lax.complex(normal(4, 3), normal(4, 3, seed=1))
    assert check_vjp(rule(forward, bwd), z, normal(3)).ok
    assert not [w for w in recwarn if issubclass(w.category, np.exceptions.ComplexWarning)]


def newton(a):
    def step(state):
        return 0.5 * (state[0] + a / state[0]), state[0]

    def moves(state):
        return jnp.max(jnp.abs(state[0] - state[1])) > 1e-6

    return jax.lax.while_loop(moves, step, (a, a + 1))[0]


@pytest.mark.parametrize("factor", [1, 2])
def test_a_function_that_only_forward_mode_differentiates(factor):
    root = rule(newton, lambda y, dy: (factor * dy / (2 * y),), lambda a: (newton(a),) * 2)
    report = check_vjp(root, jnp.array([1.0, 2.0, 3.5]))
    assert report.ok == (factor == 1), str(report)
    assert any("forward mode" in note for note in report.notes)


def test_a_function_that_nothing_differentiates_needs_a_reference():
    def sine(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x, vmap_method="expand_dims")

    for factor in (1, 2):
        fn = rule(sine, lambda x, dy, k=factor: (k * dy * jnp.cos(x),), lambda x: (sine(x), x))
        with pytest.raises(ValueError, match="reference="):
            check_vjp(fn, normal(4))
        report = check_vjp(fn, normal(4), reference=jnp.sin, checks=QUICK)
        assert report.ok == (factor == 1), str(report)


def test_nothing_but_nans_is_no_proof():
    softmax = rule(
        lambda x: jax.nn.softmax(x), lambda y, dy: (7 * y * dy**3,), lambda x: (softmax(x),) * 2
    )
    report = check_vjp(softmax, jnp.array([1.0, jnp.nan, 3.0]))
    assert [(f.check, f.side) for f in report.findings] == [("gradient", "undecided")]
    assert "nothing was compared" in report.findings[0].message


def interpolation_bwd(residuals, dy):
    x, knots, heights = residuals
    i = jnp.clip(jnp.searchsorted(knots, x, side="right"), 1, len(knots) - 1)
    share = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
    slope = (heights[i] - heights[i - 1]) / (knots[i] - knots[i - 1])
    inside = jnp.where((x > knots[0]) & (x < knots[-1]), dy, 0)
    dheights = jnp.zeros_like(heights).at[i - 1].add(inside * (1 - share)).at[i].add(inside * share)
    dheights = dheights.at[0].add(jnp.sum(jnp.where(x <= knots[0], dy, 0)))
    dheights = dheights.at[-1].add(jnp.sum(jnp.where(x >= knots[-1], dy, 0)))
    dknots = jnp.zeros_like(knots).at[i - 1].add(inside * slope * (share - 1))
    return inside * slope, dknots.at[i].add(-inside * slope * share), dheights


@pytest.mark.parametrize("seed", [1, 7, 10, 15])
def test_a_rule_that_relies_on_sorted_knots_is_not_asked_about_equal_ones(seed):
    x = jnp.array([-1.5, 0.3, 0.7, 0.9, 1.4, 5.0])
    knots = jnp.array([0.0, 1.0, 2.5, 3.0, 4.0])
    fn = rule(lambda x, knots, heights: jnp.interp(x, knots, heights), interpolation_bwd)
    report = check_vjp(fn, x, knots, normal(5), seed=seed, checks=("nan",))
    assert report.ok, str(report)


def sine_with_twice_its_derivative():
    sine = jax.custom_jvp(jnp.sin)
    sine.defjvp(lambda p, t: (jnp.sin(p[0]), 2 * jnp.cos(p[0]) * t[0]))
    return sine


stopped = jax.lax.stop_gradient


@pytest.mark.parametrize(
    ("forward", "bwd", "right"),
    [
        (sine_with_twice_its_derivative(), lambda r, dy: (dy * jnp.cos(r[0]),), True),
        (sine_with_twice_its_derivative(), lambda r, dy: (dy * jnp.cos(stopped(r[0])),), False),
        (sine_with_twice_its_derivative(), lambda r, dy: (stopped(dy) * jnp.cos(r[0]),), False),
        (lambda x: x * stopped(x), lambda r, dy: (2 * dy * r[0],), True),
        (lambda x: x * stopped(x), lambda r, dy: (2 * dy * stopped(r[0]),), False),
    ],
)
def test_a_reference_that_is_wrong_already_is_no_judge_of_second_order(forward, bwd, right):
    checks = ("gradient", "second-order")
    report = check_vjp(rule(forward, bwd), jnp.arange(1.0, 4.0), checks=checks)
    assert words(report) == (set() if right else {("x", "second-order")})
    row = next(c for c in report.checks if c.name == "second-order")
    assert row.ok is right
    assert "the reference's first order is wrong already" in row.detail


def test_an_output_that_all_examples_share_is_named_as_the_cause():
    @jax.custom_batching.custom_vmap
    def doubled_in_a_batch(dx):
        return dx

    @doubled_in_a_batch.def_vmap
    def _(size, batched, dx):
        return 2 * dx, True

    def forward(x, s):
        return x * s, s * 0.9

    def found(change):
        def bwd(residuals, dy):
            x, s = residuals
            return change(dy[0] * s), dy[0] * x + 0.9 * dy[1]

        two = jnp.float32(2.0), jnp.float32(5.0)
        (finding,) = check_vjp(rule(forward, bwd), *two, checks=("vmap",)).findings
        return finding.message

    message = found(lambda dx: dx)  # right by itself
    assert "depends on nothing that is mapped over" in message
    if "raises" in message:  # jax 0.12 refuses it, and says at length what to do
        assert "generic_batching=True" in message
    else:
        assert "output 1" in message
        assert "mapped over" not in found(doubled_in_a_batch)


def turned(x):
    return jax.lax.complex(jnp.cos(x), jnp.sin(x))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("back", "right"),
    [
        (lambda x, dy: dy * 1j * turned(x), True),
        (lambda x, dy: 2 * dy * 1j * turned(x), False),
        (lambda x, dy: dy.conj() * 1j * turned(x), False),
        (lambda x, dy: dy.real.astype(dy.dtype) * 1j * turned(x), False),
        (lambda x, dy: jax.lax.stop_gradient(dy * 1j * turned(x)), False),
    ],
    ids=["right", "twice", "conjugated", "half-of-the-cotangent", "detached"],
)
def test_complex_outputs_of_real_arguments(back, right):
    fn = rule(turned, lambda kept, dy: (jnp.real(back(kept[0], dy)),))
    report = check_vjp(fn, normal(5))
    assert report.ok is right, str(report)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "back", [jnp.fft.ifft, lambda dy: jnp.fft.fft(dy).real.astype(dy.dtype), jnp.fft.fft]
)
def test_complex_arguments_raise_no_warning(back):
    fn = rule(lambda x: jnp.fft.fft(x), lambda _, dy: (back(dy),))
    report = check_vjp(fn, jax.lax.complex(normal(6), normal(6, seed=1)))
    assert report.ok is (back is jnp.fft.fft)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
@pytest.mark.parametrize("factor", [1, 2])
def test_keys_are_passed_on(make, factor):
    def drop(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)

    fn = rule(drop, lambda kept, dy: (None, factor * drop(kept[0], dy)))
    report = check_vjp(fn, make(3), normal(8), checks=QUICK)
    assert report.ok == (factor == 1), str(report)


def test_infinities_among_the_arguments_raise_no_warning(recwarn):
    softmax = rule(
        lambda x: jax.nn.softmax(x), lambda y, dy: (y * dy,), lambda x: (softmax(x),) * 2
    )
    check_vjp(softmax, jnp.array([1.0, -jnp.inf, 3.0]))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
