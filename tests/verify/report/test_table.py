"""The table of cases as a reader sees it."""

import dataclasses

import pytest

from jaxbp.verify.report import Check, Precision, table
from jaxbp.verify.report.rows import PRECISIONS, precision_row
from tests.verify.report.samples import EXPECTED, RIGHT, WRONG, plain


def test_the_table_is_aligned_and_colour_does_not_move_it():
    def lines(color):
        return [
            table.head(12, color),
            table.row("good", 12, RIGHT, "", color),
            table.row("bad_linear", 12, WRONG, "", color),
            table.row("odd", 12, None, "it refuses f32[2]", color),
        ]

    assert [plain(line) for line in lines(True)] == lines(False)
    head, good, bad, odd = lines(False)
    assert head == (
        "rule          value  gradient  second order  transforms  precision      power  seconds"
    )
    assert good == (
        "good           ok      -         -             -             1.09x    2.0e-06      3.2"
    )
    assert bad.split() == ["bad_linear", "ok", "WRONG", "-", "-", "1.09x", "2.0e-06", "3.2"]
    assert odd == "odd           could not run: it refuses f32[2]"


def test_the_foot_counts_and_shows_what_was_refuted():
    foot = table.foot([RIGHT, WRONG], 3, 61.2, color=False)
    assert EXPECTED in foot
    assert foot.endswith("1 ok, 1 refuted, 1 could not run of 3 in 61 s")
    assert table.foot([RIGHT], 1, 2.0, color=False).endswith("\n1 ok of 1 in 2 s")


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_refuted_precision_is_red_and_leaves_the_gradient_green(dtype):
    rows = (Check("gradient", True), Check(precision_row(dtype), False, "900 ulps, autodiff 1"))
    figures = (Precision(dtype, "x", 900.0, 1.0, 900.0),)
    report = dataclasses.replace(RIGHT, checks=rows, precisions=figures)
    line = table.row("rounds", 12, report, "", color=True)
    assert "\x1b[1;31m    WRONG\x1b[0m" in line
    assert line.count("WRONG") == 1
    assert plain(line).split() == ["rounds", "-", "ok", "-", "-", "WRONG", "2.0e-06", "3.2"]
