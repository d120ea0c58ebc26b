"""The report as a reader sees it."""

import dataclasses
import io
import re

import pytest

from jaxbp.verify import render
from jaxbp.verify.report import Check, Finding, Power, Precision, Report
from jaxbp.verify.words import WORDS

TRANSPOSED = Finding(
    check="gradient",
    argument="w['a'].kernel",
    diagnosis="transposed",
    message="the cotangent is the truth with its axes in the order (1, 0) and then reshaped",
    side="rule",
    index=(2, 1),
    got=0.7431,
    expected=-1.20384,
    tolerance=2.4e-6,
    explained=1.0,
)
WRONG = Report(
    function="bad_linear",
    arguments=("x: f32[4,3]", "w['a'].kernel: f32[3,5]"),
    checks=(
        Check("value", True),
        Check("gradient", False, "1 of 2 arguments"),
        Check("shard-map", None, "not run: one device"),
    ),
    findings=(TRANSPOSED,),
    powers=(Power("x", 1.2e-6, 3e-7), Power("w['a'].kernel", 2e-6, float("inf"), "no direction")),
    precisions=(Precision("bfloat16", "x", 1.2, 1.1, 1.09),),
    warnings=("this JAX build computes wrongly",),
    notes=("3 entries of x stand at a kink",),
    seed=7,
    seconds=3.21,
    reference="the primal inside the rule",
)
RIGHT = dataclasses.replace(WRONG, function="good", findings=(), checks=(Check("value", True),))

EXPECTED = """\
refuted: transposed (w['a'].kernel) in bad_linear
  arguments      x: f32[4,3], w['a'].kernel: f32[3,5]
  compared with  the primal inside the rule
  seed           7, 3.2 s

error[transposed]: the gradient of w['a'].kernel has axes exchanged
  --> bad_linear, w['a'].kernel[2, 1]  (gradient)
   |
   | it is            0.7431
   | should be       -1.20384
   | apart by         1.95
   | allowed          2.4e-06
   |
   = the cotangent is the truth with its axes in the order (1, 0) and then reshaped; this
     explains 100 % of the error
   = look at the order of the operands and axes in the product that makes this cotangent

checked
  value       ok
  gradient   WRONG  1 of 2 arguments
  shard-map    -    not run: one device

precision   argument  rule, ulps  autodiff, ulps  rule over autodiff or floor
  bfloat16  x               1.20            1.10                         1.09

would be seen    one entry off by  all scaled by 1 +
  x                       1.2e-06            3.0e-07
  w['a'].kernel           2.0e-06            nothing  no direction

warning: this JAX build computes wrongly

note: 3 entries of x stand at a kink"""


def _plain(text):
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_the_whole_report():
    assert render.render(WRONG, color=False) == EXPECTED
    assert str(WRONG) == EXPECTED


def test_colour_adds_escapes_and_nothing_else():
    coloured = render.render(WRONG, color=True)
    assert "\x1b[1;31merror[transposed]\x1b[0m" in coloured
    assert _plain(coloured) == EXPECTED


def test_a_right_rule_says_so_first():
    first, *rest = render.render(RIGHT).splitlines()
    assert first == "ok: nothing wrong found in good"
    assert not any(line.startswith("error") for line in rest)


def test_long_texts_are_wrapped_and_names_are_not_broken():
    name = "parameters" * 12
    finding = dataclasses.replace(TRANSPOSED, message="evidence " * 60, argument=name)
    report = dataclasses.replace(
        WRONG,
        arguments=tuple(f"layer_{number}: f32[3,4]" for number in range(40)),
        findings=(finding,),
        checks=(Check("gradient", False, "detail " * 40),),
        notes=("note " * 60,),
        powers=(),
    )
    lines = render.render(report).splitlines()
    assert all(len(line) <= render.WIDTH for line in lines if name not in line)
    assert sum(line.count("evidence") for line in lines) == 60
    assert sum(line.count("f32[3,4]") for line in lines) == 40


@pytest.mark.parametrize(
    ("got", "expected", "shown"),
    [
        (1.0, 1.0 + 1e-9, ("1", "1.000000001")),
        (1.0, 1.0, ("1", "1")),
        (float("nan"), 2.5, ("nan", "2.5")),
        (float("inf"), -2.5, ("inf", "-2.5")),
        (1e-30, 3e20, ("1e-30", "3e+20")),
    ],
)
def test_both_numbers_have_the_digits_that_tell_them_apart(got, expected, shown):
    finding = dataclasses.replace(TRANSPOSED, got=got, expected=expected)
    text = render.render(dataclasses.replace(WRONG, findings=(finding,)))
    numbers = re.findall(r"\| (?:it is|should be) +(\S+)", text)
    assert tuple(numbers) == shown


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"argument": None, "diagnosis": "structure"}, "the rule has the wrong number or tree"),
        ({"argument": None, "side": "undecided"}, "the rule or its reference has axes exchanged"),
        ({"diagnosis": "fwd-value", "argument": None, "side": "forward"}, "the forward differs"),
        ({"side": "reference", "argument": "x"}, "the reference's gradient of x has axes"),
        ({"diagnosis": "a new word", "argument": "x"}, "the gradient of x is wrong"),
    ],
)
def test_the_headline_names_the_side_that_is_wrong(changes, headline):
    finding = dataclasses.replace(TRANSPOSED, **changes)
    text = render.render(dataclasses.replace(WRONG, findings=(finding,)))
    assert f"error[{finding.diagnosis}]: {headline}" in text


def test_an_almost_full_share_is_not_rounded_to_all():
    finding = dataclasses.replace(TRANSPOSED, explained=0.99996)
    text = render.render(dataclasses.replace(WRONG, findings=(finding,)))
    assert "99.996 %" in text


def test_every_word_of_the_design_is_explained():
    words = """scale averaged sign transposed swapped-arguments flipped shifted border local
    missing-term zero one-example not-reduced unknown value fwd-value structure shape dtype nan
    nonlinear nondeterministic precision second-order vmap jit scan remat shard-map ties
    overwritten surrogate"""
    assert set(WORDS) == set(words.split())


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (_Terminal(), {"TERM": "xterm"}, True),
        (_Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (_Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_only_on_a_terminal_that_was_not_told_otherwise(
    stream, environment, wanted, monkeypatch
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert render.wants_color(stream) is wanted


def test_the_table_is_aligned_and_colour_does_not_move_it():
    def table(color):
        return [
            render.table_head(12, color),
            render.table_row("good", 12, RIGHT, "", color),
            render.table_row("bad_linear", 12, WRONG, "", color),
            render.table_row("odd", 12, None, "it refuses f32[2]", color),
        ]

    assert [_plain(line) for line in table(True)] == table(False)
    head, good, bad, odd = table(False)
    assert head == (
        "rule          value  gradient  second order  transforms  precision      power  seconds"
    )
    assert good == (
        "good           ok      -         -             -             1.09x    2.0e-06      3.2"
    )
    assert bad.split() == ["bad_linear", "ok", "WRONG", "-", "-", "1.09x", "2.0e-06", "3.2"]
    assert odd == "odd           could not run: it refuses f32[2]"


def test_the_foot_counts_and_shows_what_was_refuted():
    foot = render.table_foot([RIGHT, WRONG], 3, 61.2, color=False)
    assert EXPECTED in foot
    assert foot.endswith("1 ok, 1 refuted, 1 could not run of 3 in 61 s")
    assert render.table_foot([RIGHT], 1, 2.0, color=False).endswith("\n1 ok of 1 in 2 s")
