"""Rules that answer differently the second time."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule

STRUCTURE = ("structure",)


def counting(where):
    """A rule of which this part depends on how often it was called."""
    calls = {"forward": 0, "bwd": 0}

    def factor(part):
        calls[part] += part == where
        return 1.0 + calls[part]

    def forward(x):
        return factor("forward") * jnp.sin(x)

    return rule(forward, lambda kept, dy: (factor("bwd") * dy * jnp.cos(kept[0]),))


@pytest.mark.parametrize(
    ("where", "argument", "side"), [("bwd", "x", "rule"), ("forward", None, "forward")]
)
def test_state_outside_of_the_arguments(where, argument, side):
    report = check_vjp(counting(where), normal(3), checks=STRUCTURE)
    finding = report.findings[0]
    assert (finding.check, finding.diagnosis) == ("deterministic", "nondeterministic")
    assert (finding.argument, finding.side) == (argument, side)


def test_both_answers_are_told():
    finding = check_vjp(counting("bwd"), normal(3), checks=STRUCTURE).findings[0]
    assert finding.index is not None
    assert finding.got != finding.expected


def test_what_another_call_overwrites():
    kept = {}

    def fwd(x):
        kept["x"] = x
        return jnp.sin(x), None

    stale = rule(jnp.sin, lambda _, dy: (dy * jnp.cos(kept["x"]),), fwd)
    report = check_vjp(stale, normal(3), checks=STRUCTURE)
    assert "asked again after another call" in report.findings[0].message


def test_a_right_rule_answers_the_same():
    right = rule(jnp.sin, lambda kept, dy: (dy * jnp.cos(kept[0]),))
    report = check_vjp(right, normal(3), checks=STRUCTURE)
    assert next(row for row in report.checks if row.name == "deterministic").ok
