"""The rule's cotangent against the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule

QUICK = ("structure", "gradient")


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


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


def test_nothing_but_nans_is_no_proof():
    softmax = rule(
        lambda x: jax.nn.softmax(x), lambda y, dy: (7 * y * dy**3,), lambda x: (softmax(x),) * 2
    )
    report = check_vjp(softmax, jnp.array([1.0, jnp.nan, 3.0]))
    assert [(f.check, f.side) for f in report.findings] == [("gradient", "undecided")]
    assert "nothing was compared" in report.findings[0].message


def test_a_reference_whose_gradient_is_wrong_is_the_odd_one_out():
    detached = lambda x: x * jax.lax.stop_gradient(x)  # noqa: E731
    report = check_vjp(lambda x: x * x, normal(4), reference=detached, checks=QUICK)
    assert {f.side for f in report.findings} == {"reference"}
