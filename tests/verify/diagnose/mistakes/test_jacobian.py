"""What shows in the Jacobian as a whole: each hypothesis by a small wrong one of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.mistakes import jacobian as mistakes
from tests.verify.diagnose.evidence import of, random, sentences, words

SQUARE = random(6, 6)


@pytest.mark.parametrize(
    "hypothesis",
    [mistakes.adjoint_forgotten, mistakes.through_a_sum, mistakes.transposed_by_factors],
)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2)))
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2), outputs=[(3,), (3,)]))


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


def test_the_function_s_own_jacobian_in_the_place_of_its_transpose():
    assert words(mistakes.adjoint_forgotten, of(SQUARE, SQUARE.T)) == ["transposed"]
    assert not words(mistakes.adjoint_forgotten, of(SQUARE, 2 * SQUARE.T))
