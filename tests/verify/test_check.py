"""`check_vjp` from outside: what it takes, whom it blames, what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import assert_vjp, check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule

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


def test_a_rule_inside_an_ordinary_function_is_compared_with_its_primal():
    wrong = layer_rule(lambda dx, dw, dy: (dx, 3 * dw))
    public = jax.jit(lambda x, w: {"y": wrong(x, w) + 1, "n": x.shape[0]})
    report = check_vjp(public, *layer_arguments(), checks=QUICK)
    assert words(report) == {("w", "scale")}
    assert report.reference == "the primal inside the rule"


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
