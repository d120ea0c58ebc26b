"""What the whole Jacobian shows: each hypothesis by a small wrong Jacobian of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.hypotheses import HYPOTHESES
from jaxbp.verify.diagnose.mistakes import jacobian as mistakes
from tests.verify.evidence import evidence, leaves_of, random, sentences, words

X6 = leaves_of(x=(6,))
SQUARE = random(6, 6)


def of(right, wrong, shape=(6,), outputs=None):
    return evidence(right, wrong, leaves_of(x=shape), outputs)


@pytest.mark.parametrize(
    "hypothesis",
    [
        mistakes.contributions_moved,
        mistakes.mask_forgotten,
        mistakes.redistributed,
        mistakes.outputs_exchanged,
        mistakes.centred,
        mistakes.through_a_sum,
        mistakes.transposed_by_factors,
    ],
)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2)))
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2), outputs=[(3,), (3,)]))


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


def test_two_outputs_exchanged():
    exchanged = np.concatenate([SQUARE[3:], SQUARE[:3]])
    found = of(SQUARE, exchanged, outputs=[(3,), (3,)])
    assert words(mistakes.outputs_exchanged, found) == ["swapped-arguments"]


def test_the_mean_taken_off_before_or_after():
    centring = np.eye(6) - 1 / 6
    before = sentences(mistakes.centred, of(SQUARE, centring @ SQUARE))
    assert before == ["the mean of the incoming cotangent over axes 0 is taken off"]
    after = sentences(mistakes.centred, of(SQUARE, SQUARE @ centring))
    assert after == ["the mean of the cotangent over axes 0 is taken off"]


@pytest.mark.parametrize("rank", [1, 2])
def test_an_error_through_few_numbers(rank):
    error = random(6, rank, seed=3) @ random(rank, 6, seed=4)
    (said,) = sentences(mistakes.through_a_sum, of(SQUARE, SQUARE + error))
    assert ("one number" if rank == 1 else "2 numbers") in said


def test_an_error_through_few_numbers_in_each_block():
    blocks, outer = np.zeros((6, 6)), np.outer(random(3), random(3, seed=5))
    blocks[:3, :3] = blocks[3:, 3:] = outer
    assert words(mistakes.through_a_sum, of(SQUARE, SQUARE + blocks)) == ["missing-term"]
    blocks[:3, :3] += np.diag(random(3))  # three numbers of three are all that there are
    assert not words(mistakes.through_a_sum, of(SQUARE, SQUARE + blocks))


def test_the_transpose_between_two_factors():
    left, right = random(6, 1, seed=6), random(1, 6, seed=7)
    turned = of(SQUARE, left * SQUARE.T * right)
    assert words(mistakes.transposed_by_factors, turned) == ["transposed"]
    assert not words(mistakes.transposed_by_factors, of(SQUARE, left * SQUARE * right))
    symmetric = SQUARE + SQUARE.T
    assert not words(mistakes.transposed_by_factors, of(symmetric, left * symmetric * right))


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda h: h.__name__)
def test_an_error_too_small_for_the_jacobians_to_show_is_no_pattern_in_them(hypothesis):
    for right in (SQUARE, np.diag(np.diag(SQUARE))):
        wrong = right * (1 + 1e-8 * random(6, 6, seed=3))
        for said in hypothesis(of(right, wrong)):
            assert said.explained < 0.95, said
