"""Which output sends what to which entry: each hypothesis by a small wrong Jacobian of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.mistakes import contributions as mistakes
from tests.verify.diagnose.evidence import of, random, sentences, words

SQUARE = random(6, 6)
ALL = (
    mistakes.misplaced,
    mistakes.one_of_several,
    mistakes.border_elements,
    mistakes.some_contributions,
    mistakes.lost_outputs,
    mistakes.dropped_contributions,
    mistakes.contributions_moved,
    mistakes.mask_forgotten,
    mistakes.redistributed,
)


@pytest.mark.parametrize("hypothesis", ALL)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2)))
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2), outputs=[(3,), (3,)]))


def test_an_amount_at_the_wrong_entry():
    moved = SQUARE.copy()
    moved[2, 4] += 0.3
    moved[2, 1] -= 0.3
    assert words(mistakes.misplaced, of(SQUARE, moved)) == ["shifted"]
    moved[2, 1] += 0.1  # not the same amount
    assert not words(mistakes.misplaced, of(SQUARE, moved))


def test_one_contribution_of_several():
    several = np.repeat(np.eye(3), 2, axis=1).T * random(6)[:, None]  # two outputs an entry
    last = several.copy()
    last[::2] = 0.0
    found = of(several, last, shape=(3,), outputs=[(6,)])
    assert words(mistakes.one_of_several, found) == ["overwritten"]
    halved = of(several, several / 2, shape=(3,), outputs=[(6,)])
    assert not words(mistakes.one_of_several, halved)


def blurred(n):
    return np.eye(n) + 0.5 * np.eye(n, k=1) + 0.5 * np.eye(n, k=-1)


def test_wrong_between_entries_and_outputs_at_the_border():
    right, wrong = blurred(6), blurred(6)
    wrong[0, 1] = wrong[4, 5] = 0.9
    assert words(mistakes.border_elements, of(right, wrong)) == ["border"]
    wrong[2, 3] = 0.9
    assert not words(mistakes.border_elements, of(right, wrong))


def test_only_what_stands_at_the_same_place():
    (said,) = sentences(mistakes.some_contributions, of(blurred(6), np.eye(6)))
    assert "the terms that couple different entries are missing" in said


def test_one_contribution_kept_where_others_are_replaced():
    right, wrong = blurred(6), np.eye(6, k=1)
    wrong[wrong > 0] = 0.5
    wrong[5, 5] = 1.0
    assert words(mistakes.some_contributions, of(right, wrong)) == ["overwritten"]


@pytest.mark.parametrize(
    ("kept", "word"), [([0, 1], "one-example"), ([1, 2], "border"), ([2, 3], "one-example")]
)
def test_the_outputs_of_some_index_along_an_axis(kept, word):
    spread = np.kron(random(3, 1), np.ones((4, 6))) * random(12, 6)  # outputs of shape (3, 4)
    place = np.arange(12) % 4
    lost = spread * np.isin(place, kept)[:, None]
    found = of(spread, lost, outputs=[(3, 4)])
    assert words(mistakes.some_contributions, found)[0] == word
    (said,) = sentences(mistakes.some_contributions, found)
    if word != "overwritten":
        assert f"output index {kept} along axis 1 (of 4) are in the cotangent" in said


def test_outputs_whose_contributions_are_lost_entry_by_entry():
    right = np.diag(random(12))
    lost = right * (np.arange(12) % 4 != 2)
    found = of(right, lost, shape=(12,), outputs=[(3, 4)])
    assert sentences(mistakes.lost_outputs, found) == [
        "the contributions of output index [2] along axis 1 (of 4) are missing from the cotangent"
    ]


def test_dropped_contributions_are_counted():
    wrong = SQUARE.copy()
    wrong[1, 2] = wrong[4, 0] = 0.0
    (said,) = sentences(mistakes.dropped_contributions, of(SQUARE, wrong))
    assert said.startswith("2 of the 36 contributions")
    wrong[0, 0] *= 2
    assert not words(mistakes.dropped_contributions, of(SQUARE, wrong))


def test_contributions_of_an_output_at_other_entries():
    moved = np.array([np.roll(row, k) for k, row in enumerate(SQUARE)])
    assert sentences(mistakes.contributions_moved, of(SQUARE, moved)) == [
        "the amounts that each output sends back are right, their places are wrong"
    ]
    assert sentences(mistakes.contributions_moved, of(SQUARE.T, moved.T)) == [
        "the amounts that each entry receives are right, their places are wrong"
    ]


def test_contributions_that_are_others_of_the_truth():
    right = np.diag(random(6))
    wrong = np.diag(np.diag(right)[[0, 0, 1, 2, 3, 4]])
    assert words(mistakes.contributions_moved, of(right, wrong)) == ["shifted"]


def test_a_mask_left_out_adds_to_what_is_right():
    right = np.tril(SQUARE)
    assert words(mistakes.mask_forgotten, of(right, SQUARE)) == ["missing-term"]
    assert not words(mistakes.mask_forgotten, of(right, SQUARE * 1.1))


def test_an_inverted_mask():
    mask = np.array([1.0, 0, 1, 1, 0, 0])
    (said,) = sentences(mistakes.mask_forgotten, of(np.diag(mask), np.diag(1 - mask)))
    assert "inverted" in said


def test_a_mask_of_other_entries():
    factors = np.array([1.0, 0, 0, 2, 2, 1])
    turned = of(np.diag(factors), np.diag(factors[::-1]))
    assert words(mistakes.mask_forgotten, turned) == ["flipped"]
    mask, other = np.array([1.0, 0, 1, 1, 0, 0, 1, 0, 1]), np.array([1.0, 1, 0, 0, 1, 0, 1, 1, 1])
    (said,) = sentences(mistakes.mask_forgotten, of(np.diag(mask), np.diag(other), (9,)))
    assert "another" in said


def test_a_share_for_fewer_entries_or_for_all():
    right = np.zeros((2, 6))
    right[0, :3], right[1, 3:] = [0.2, 0.3, 0.5], [0.1, 0.6, 0.3]
    fewer = np.zeros((2, 6))
    fewer[0, 0] = fewer[1, 4] = 1.0
    assert words(mistakes.redistributed, of(right, fewer, outputs=[(2,)])) == ["missing-term"]
    evenly = np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=1) / 3
    assert words(mistakes.redistributed, of(fewer, evenly, outputs=[(2,)])) == ["surrogate"]
    unevenly = evenly + np.array([0.1, -0.1, 0, 0, 0, 0]) * [[1], [0]]
    assert not words(mistakes.redistributed, of(fewer, unevenly, outputs=[(2,)]))
