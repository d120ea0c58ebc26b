"""What a check hands to the report."""

import numpy as np
import pytest

from jaxbp.verify.checks.outcome import WRONG_ALREADY, Errors, Outcome, finding
from jaxbp.verify.compare.sample import Place
from jaxbp.verify.subject.vectors import Leaf


def wrong(argument, check="kinks"):
    return finding(check, "ties", "the same message for each of them", argument=argument)


def test_both_numbers_stand_where_the_leaf_is_wrong():
    leaf = Leaf("w", 1, (2, 3), np.dtype(float), 4, 10)
    got, expected = np.arange(10.0), np.ones(10)
    at = Place.of(leaf, 4, got, expected, 0.5)
    found = finding("gradient", "scale", "…", argument="w", at=at)
    assert (found.index, found.got, found.expected) == ((1, 1), 8.0, 1.0)
    assert (found.tolerance, found.unit) == (0.5, None)


def test_errors_are_no_answers():
    errors = Errors(900.0, 1.0, 8.0)
    found = finding("float32 precision", "precision", "…", argument="w", errors=errors)
    assert (found.got, found.expected, found.tolerance) == (900.0, 1.0, 8.0)
    assert (found.index, found.unit) == (None, "ulps")


def test_rows_of_arguments_that_are_wrong_already_claim_nothing():
    outcome = Outcome()
    outcome.found(wrong("x"))
    outcome.found(wrong("w"))
    left = outcome.but_for({"x"})
    assert [f.argument for f in left.findings] == ["w"]
    assert [(row.ok, row.detail == WRONG_ALREADY) for row in left.checks] == [
        (None, True),
        (False, False),
    ]


def test_a_row_of_several_findings_stays_while_one_of_them_does():
    outcome = Outcome()
    outcome.row("kinks", False, "x and w", [wrong("x"), wrong("w")])
    assert outcome.but_for({"x"}).checks[0].ok is False
    assert outcome.but_for({"x", "w"}).checks[0].ok is None


def test_words_and_rows_are_those_that_are_defined():
    with pytest.raises(ValueError, match="must say a word of words"):
        finding("gradient", "incorrect", "…")
    with pytest.raises(ValueError, match="must have a name of rows"):
        Outcome().row("gradients", True)
