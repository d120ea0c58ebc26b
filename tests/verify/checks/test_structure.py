"""What a backward pass returns, and what stops it."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal, rule

STRUCTURE = ("structure",)


def only(report):
    (finding,) = report.findings
    assert [row.name for row in report.checks] == ["structure"]  # nothing else can be asked
    return finding


@pytest.mark.parametrize(
    ("change", "word", "argument"),
    [
        (lambda dx, dw, dy: (dx,), "structure", None),
        (lambda dx, dw, dy: (dx, dw[:, :2]), "shape", "w"),
        (lambda dx, dw, dy: (dx, jnp.broadcast_to(dw, (4, 3, 3))), "not-reduced", "w"),
    ],
)
def test_cotangents_that_do_not_fit_the_arguments(change, word, argument):
    finding = only(check_vjp(layer_rule(change), *layer_arguments(), checks=STRUCTURE))
    assert (finding.diagnosis, finding.argument) == (word, argument)


def test_an_exception_of_the_backward_is_told_in_one_line():
    def bwd(residuals, dy):
        raise RuntimeError("no gradient today\nbut tomorrow")

    finding = only(check_vjp(rule(lambda x: x * 2, bwd), normal(3), checks=STRUCTURE))
    assert finding.diagnosis == "structure"
    assert finding.message == "the backward pass raises RuntimeError: no gradient today"


def test_a_right_rule_has_as_many_as_arguments():
    report = check_vjp(layer_rule(), *layer_arguments(), checks=STRUCTURE)
    assert report.ok, str(report)
    assert report.checks[0].detail == "2 cotangents, as many as arguments"
