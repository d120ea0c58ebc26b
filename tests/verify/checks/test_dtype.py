"""The dtypes of cotangents, and integer arguments, which have none."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule


def taken(x, i):
    return x[i]


def taken_rule(for_integers):
    def bwd(residuals, dy):
        x, i = residuals
        return jnp.zeros_like(x).at[i].add(dy), for_integers(i)

    return rule(taken, bwd)


def dtype_row(report):
    return next(row for row in report.checks if row.name == "dtype")


@pytest.mark.parametrize(
    ("for_integers", "right"),
    [(lambda i: None, True), (lambda i: jnp.zeros(i.shape, "float32"), False)],
)
def test_integers_have_no_cotangent(for_integers, right):
    report = check_vjp(
        taken_rule(for_integers), normal(4), jnp.array([1, 2]), checks=("structure",)
    )
    named = [(f.check, f.argument) for f in report.findings if f.diagnosis == "dtype"]
    assert named == ([] if right else [("dtype", "i")])


def test_a_cotangent_of_another_dtype():
    narrow = layer_rule(lambda dx, dw, dy: (dx, dw.astype("bfloat16")))
    finding = check_vjp(narrow, *layer_arguments(), checks=("structure",)).findings[0]
    assert (finding.argument, finding.diagnosis) == ("w", "dtype")


def test_each_cotangent_has_its_primal_s_dtype():
    report = check_vjp(jnp.multiply, normal(3), normal(3), checks=("structure",))
    assert dtype_row(report).ok
