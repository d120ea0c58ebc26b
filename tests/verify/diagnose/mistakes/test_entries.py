"""What shows in single entries: each hypothesis by a small wrong Jacobian of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.mistakes import entries as mistakes
from tests.verify.diagnose.evidence import evidence, leaves_of, of, random, sentences, words

SQUARE = random(6, 6)
ALL = (
    mistakes.few_entries,
    mistakes.lost_entries,
    mistakes.lost_examples,
    mistakes.one_region,
    mistakes.divided_by_counts,
    mistakes.factor,
)


@pytest.mark.parametrize("hypothesis", ALL)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2)))


def scaled(entries, factor, size=6):
    """The truth but for these entries."""
    right = random(size, size)
    wrong = right.copy()
    wrong[:, entries] *= factor
    return right, wrong


def test_a_few_entries_and_which():
    (said,) = sentences(mistakes.few_entries, of(*scaled([2], 1.3)))
    assert said == "only 1 of 6 entries are wrong, within [2]"


def test_the_border():
    found = of(*scaled([0, 5], 1.3))
    assert words(mistakes.few_entries, found) == ["border"]
    assert "within 1 of the border along axes 0" in sentences(mistakes.few_entries, found)[0]


def test_many_entries_here_and_there_are_no_few():
    assert not words(mistakes.few_entries, of(*scaled([0, 2, 3, 5], 1.3)))


def test_a_block_that_is_zero():
    found = of(*scaled([2, 3], 0.0))
    assert words(mistakes.lost_entries, found) == ["local"]
    assert not words(mistakes.lost_entries, of(*scaled([2, 3], 0.5)))


@pytest.mark.parametrize(("kept", "is_one"), [([0], True), ([5], True), ([2], False)])
def test_one_example_and_the_others_zero(kept, is_one):
    others = [i for i in range(6) if i not in kept]
    found = of(*scaled(others, 0.0))
    assert words(mistakes.lost_examples, found) == (["one-example"] if is_one else [])
    if is_one:
        assert f"only entries {kept} along axis 0" in sentences(mistakes.lost_examples, found)[0]


def test_a_region_is_described_by_the_argument():
    right = np.diag(random(6))

    def wrong(x):
        return right * np.where(x > np.median(x), 1.5, 1.0)

    found = evidence(right, wrong, leaves_of(x=(6,)))
    (said,) = sentences(mistakes.one_region, found)
    assert said.startswith("right at 3 of 6 entries, wrong by a factor at 3")
    assert "wrong where `x` is above about" in said


def test_each_entry_over_the_number_of_its_contributions():
    used = np.array([[1.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    averaged = used / used.sum(axis=0)
    found = of(used, averaged, (3,), [(5,)])
    assert words(mistakes.divided_by_counts, found) == ["averaged"]
    assert "(up to 3)" in sentences(mistakes.divided_by_counts, found)[0]


def test_a_factor_for_each_entry():
    (said,) = sentences(mistakes.factor, of(SQUARE, SQUARE * np.linspace(1, 2, 6)))
    assert said.startswith("each entry is the truth times a factor of its own (1 to 2)")


def test_a_factor_for_each_output():
    (said,) = sentences(mistakes.factor, of(SQUARE, np.linspace(1, 2, 6)[:, None] * SQUARE))
    assert said.startswith("each output's contribution is the truth times a factor of its own")


def test_a_known_factor_is_named_where_any_would_fit():
    right = lambda x: np.diag(np.exp(x) * x)  # noqa: E731
    found = evidence(right, lambda x: np.diag(np.exp(x)), leaves_of(x=(6,)))
    assert sentences(mistakes.factor, found) == ["each entry lacks the factor `x`"]
    unknown = evidence(right, np.diag(random(6)), leaves_of(x=(6,)))
    assert not words(mistakes.factor, unknown)
