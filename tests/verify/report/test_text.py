"""The report as a reader sees it."""

import dataclasses
import io
import re

import pytest

from jaxbp.verify.report import Check, Finding, Report
from jaxbp.verify.report import text as written
from jaxbp.verify.report.words import WORDS
from tests.verify.report.samples import EXPECTED, RIGHT, TRANSPOSED, WRONG, plain


def test_the_whole_report():
    assert WRONG.text(color=False) == EXPECTED
    assert str(WRONG) == EXPECTED


def test_colour_adds_escapes_and_nothing_else():
    coloured = WRONG.text(color=True)
    assert "\x1b[1;31merror[transposed]\x1b[0m" in coloured
    assert plain(coloured) == EXPECTED


def test_a_right_rule_says_so_first():
    first, *rest = RIGHT.text().splitlines()
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
    lines = report.text().splitlines()
    assert all(len(line) <= written.WIDTH for line in lines if name not in line)
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
    text = dataclasses.replace(WRONG, findings=(finding,)).text()
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
    text = dataclasses.replace(WRONG, findings=(finding,)).text()
    assert f"error[{finding.diagnosis}]: {headline}" in text


def test_an_almost_full_share_is_not_rounded_to_all():
    finding = dataclasses.replace(TRANSPOSED, explained=0.99996)
    text = dataclasses.replace(WRONG, findings=(finding,)).text()
    assert "99.996 %" in text


def test_every_word_that_a_finding_can_say_is_explained():
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
    assert written.wants_color(stream) is wanted


IMPRECISE = Finding(
    check="bfloat16 precision",
    argument="x",
    diagnosis="precision",
    message="a long sum",
    side="rule",
    got=900.0,
    expected=1.0,
    tolerance=8.0,
    unit="ulps",
)


def test_errors_in_the_last_place_are_no_answers_and_autodiff_s_is_no_target():
    lines = Report("f", ("x: bf16[8]",), (), (IMPRECISE,)).text().splitlines()
    numbers = [line.split("|")[1].split() for line in lines if line.startswith("   | ")]
    assert numbers == [
        ["off", "by", "900.00", "ulps"],
        ["autodiff", "is", "1.00", "ulps"],
        ["allowed", "8.00", "ulps"],
    ]
    assert not any("should be" in line for line in lines)
