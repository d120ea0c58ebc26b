"""Rules of `symbolic_zeros=True` that are right only when everything is asked of them."""

import jax
import jax.numpy as jnp
import pytest
from jax.custom_derivatives import SymbolicZero

from jaxbp.verify import check_vjp
from tests.verify.rules import normal


def two(x, y):
    return x * y, x + y


def fwd(x, y):
    return two(x.value, y.value), (x.value, y.value)


def filled(dys, like):
    return [
        jnp.zeros_like(v) if isinstance(dy, SymbolicZero) else dy
        for dy, v in zip(dys, like, strict=True)
    ]


def right(residuals, dys):
    x, y = residuals
    a, b = filled(dys, residuals)
    return a * y + b, a * x + b


def raising(residuals, dys):
    (x, y), (a, b) = residuals, dys
    return a * y + b, a * x + b


def nothing(residuals, dys):
    if any(isinstance(dy, SymbolicZero) for dy in dys):
        return jnp.zeros_like(residuals[0]), jnp.zeros_like(residuals[1])
    return right(residuals, dys)


def fwd_for_both(x, y):
    return two(x.value, y.value), (x.value, y.value if x.perturbed and y.perturbed else None)


def for_both(residuals, dys):
    x, y = residuals
    return (jnp.zeros_like(x), jnp.zeros_like(x)) if y is None else right((x, y), dys)


def made(fwd, bwd):
    fn = jax.custom_vjp(two)
    fn.defvjp(fwd, bwd, symbolic_zeros=True)
    return fn


def test_a_right_rule_answers_in_parts():
    report = check_vjp(made(fwd, right), normal(4), normal(4))
    assert report.ok, str(report)
    assert next(c for c in report.checks if c.name == "symbolic-zeros").ok


@pytest.mark.parametrize(
    ("fwd", "bwd", "word", "said"),
    [
        (fwd, raising, "structure", "raises TypeError"),
        (fwd, nothing, "zero", "of output 0 alone"),
        (fwd_for_both, for_both, "zero", "by `x` alone"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda x, y: f(jnp.sin(x), y)])
def test_a_rule_that_is_right_about_everything_at_once_only(fwd, bwd, word, said, wrap):
    report = check_vjp(wrap(made(fwd, bwd)), normal(4), normal(4), checks=("gradient",))
    (finding,) = report.findings
    assert finding.check == "symbolic-zeros"
    assert finding.diagnosis == word
    assert said in finding.message


def test_other_rules_have_no_such_row():
    report = check_vjp(jnp.multiply, normal(4), normal(4), checks=("gradient",))
    assert all(c.name != "symbolic-zeros" for c in report.checks)
