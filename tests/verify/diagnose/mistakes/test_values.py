"""A known value where another belongs: each hypothesis by a small wrong Jacobian of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.mistakes import values as mistakes
from tests.verify.diagnose.evidence import evidence, leaves_of, random, sentences, words

X6 = leaves_of(x=(6,))


def computed(x):
    return [("`exp`", np.exp(x))]


def diagonal(slope):
    return lambda x: np.diag(slope(x))


@pytest.mark.parametrize(
    "hypothesis", [mistakes.taken_elsewhere, mistakes.value_displaced, mistakes.another_value]
)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    wrong = np.diag(random(6))
    assert not words(hypothesis, evidence(diagonal(np.cos), wrong, X6, values=computed))


def test_the_derivative_taken_at_another_value():
    coupled = random(6, 6)

    def right(x):
        return coupled * np.cos(x)

    found = evidence(right, lambda x: right(np.exp(x)), X6, values=computed)
    (said,) = sentences(mistakes.taken_elsewhere, found)
    assert said.startswith("the cotangent is right with `exp` in the place of `x`")


@pytest.mark.parametrize(
    ("moved", "word"), [(lambda v: np.roll(v, 1), "shifted"), (lambda v: v[::-1], "flipped")]
)
def test_a_value_of_other_entries(moved, word):
    found = evidence(diagonal(np.exp), diagonal(lambda x: moved(np.exp(x))), X6, values=computed)
    assert words(mistakes.value_displaced, found) == [word]


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        (np.sin, "multiplied by sin `x`"),
        (lambda x: 3 * np.square(x), "multiplied by 3 times `x`²"),
        (lambda x: np.cos(x) * np.exp(x), "the truth times `exp`"),
        (lambda x: np.cos(x) + 2 * np.exp(x), "the truth plus 2 times `exp`"),
    ],
)
def test_a_factor_or_summand_that_is_known_and_not_the_right_one(slope, said):
    found = evidence(diagonal(np.cos), diagonal(slope), X6, values=computed)
    assert said in sentences(mistakes.another_value, found)[0]


def test_one_value_stands_where_another_belongs():
    known = random(6)
    found = evidence(
        diagonal(lambda x: known + x), diagonal(lambda x: known + np.exp(x)), X6, values=computed
    )
    assert sentences(mistakes.another_value, found) == ["`exp` stands where `x` belongs"]


def test_a_value_of_the_first_call():
    given = random(6, seed=8)
    found = evidence(diagonal(lambda x: x), np.diag(given), X6, values=computed, given=given)
    assert words(mistakes.another_value, found) == ["nondeterministic"]


def test_the_output_s_own_factor_where_outputs_are_entry_by_entry():
    spread = np.repeat(np.eye(2), 3, axis=1).T  # each of two entries goes to three outputs
    table = random(6)
    found = evidence(
        lambda x: table[:, None] * spread,
        lambda x: table[:, None] ** 2 * spread,
        leaves_of(x=(2,)),
        outputs=[(6,)],
        values=lambda x: [("`table`", table)],
    )
    assert "`table`²" in sentences(mistakes.another_value, found)[0]
