"""How many digits a rule loses, in the report and in the table."""

import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from jaxbp.verify.report import table
from tests.verify.rules import normal, rule

PRECISION = ("gradient", "precision")


def sines_rule(narrow):
    """The sine's rule, that goes through a narrower dtype where it is not given float64."""

    def bwd(kept, dy):
        dx = dy * jnp.cos(kept[0])
        return (dx if dx.dtype == "float64" else dx.astype(narrow).astype(dx.dtype),)

    return rule(jnp.sin, bwd)


def cell(line):
    """The column of the precision."""
    return line.split()[5]


def test_a_refuted_precision_is_red_in_report_and_table():
    report = check_vjp(sines_rule("bfloat16"), normal(6), checks=PRECISION)
    (finding,) = report.findings
    assert (finding.check, finding.diagnosis) == ("float32 precision", "precision")
    assert finding.unit == "ulps"
    assert finding.got > finding.tolerance > finding.expected
    text = report.text(color=True)
    assert "\x1b[1;31merror[precision]\x1b[0m" in text
    assert "should be" not in text
    assert "off by" in text
    line = table.row("sine", 8, report, "", color=True)
    assert "\x1b[1;31m    WRONG\x1b[0m" in line
    plain = table.row("sine", 8, report, "", color=False).split()
    assert plain[1:6] == ["-", "ok", "-", "-", "WRONG"]


def test_a_right_rule_loses_no_more_than_autodiff():
    report = check_vjp(sines_rule("float32"), normal(6), checks=PRECISION)
    assert report.ok, str(report)
    rows = [row.name for row in report.checks if "precision" in row.name]
    assert rows == ["float32 precision", "bfloat16 precision", "float16 precision"]
    assert max(figure.ratio for figure in report.precisions) < 8


@pytest.mark.parametrize(
    ("fn", "x", "why"),
    [
        (lambda z: jnp.abs(z), jnp.array([1 + 1j]), "complex arguments"),
        (lambda x: 0 * x, normal(3), "no digits to lose"),
    ],
)
def test_where_there_is_nothing_to_measure_it_is_said(fn, x, why):
    report = check_vjp(fn, x, checks=("precision",))
    assert report.ok
    assert why in report.checks[-1].detail
