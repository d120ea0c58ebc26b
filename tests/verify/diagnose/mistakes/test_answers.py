"""What shows in the answers alone: each hypothesis by a small wrong Jacobian of its own."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.mistakes import answers as mistakes
from jaxbp.verify.diagnose.taken_apart import Integers
from tests.verify.diagnose.evidence import (
    evidence,
    leaves_of,
    of,
    random,
    sentences,
    vjp_of,
    words,
)

SQUARE = random(6, 6)
ALL = (
    mistakes.zero,
    mistakes.stale,
    mistakes.surrogate,
    mistakes.multiple,
    mistakes.rearranged,
    mistakes.another_leaf,
    mistakes.outputs_exchanged,
    mistakes.ignored_output,
    mistakes.passed_on,
    mistakes.displaced,
    mistakes.integers_displaced,
    mistakes.operand_rearranged,
    mistakes.cotangent_rearranged,
    mistakes.mean_over_axes,
    mistakes.centred,
)


@pytest.mark.parametrize("hypothesis", ALL)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2)))
    assert not words(hypothesis, of(SQUARE, random(6, 6, seed=2), outputs=[(3,), (3,)]))


def test_nothing_where_something_must_be_and_the_other_way_round():
    assert words(mistakes.zero, of(SQUARE, 0 * SQUARE)) == ["zero"]
    assert words(mistakes.surrogate, of(0 * SQUARE, SQUARE)) == ["surrogate"]


def test_the_answer_of_the_first_call():
    given = random(6, seed=8)
    right = lambda x: SQUARE * np.cos(x)  # noqa: E731
    stale = evidence(right, lambda _: right(given), leaves_of(x=(6,)), given=given)
    assert words(mistakes.stale, stale) == ["nondeterministic"]


@pytest.mark.parametrize(
    ("factor", "word", "said"),
    [
        (-1.0, "sign", "minus the truth"),
        (2.5, "scale", "5/2 times the truth"),
        (1 / 6, "averaged", "1 over the size of the output's axis 0"),
        (6.0, "scale", "which is the size of the output's axis 0"),
        (1 / 7, "scale", "1/7 times the truth"),
    ],
)
def test_one_factor(factor, word, said):
    found = of(SQUARE, factor * SQUARE)
    assert words(mistakes.multiple, found) == [word]
    assert said in sentences(mistakes.multiple, found)[0]


def test_a_mean_is_one_of_things_that_were_there_to_be_added():
    one_by_one = np.diag(random(6))
    assert words(mistakes.multiple, of(one_by_one, one_by_one / 6)) == ["scale"]


@pytest.mark.parametrize("power", [1, -1, 2, -2])
def test_a_factor_that_is_another_argument(power):
    leaves = leaves_of(x=(6,), s=())
    right = random(6, 7)
    found = evidence(right, lambda x: right * x[6] ** power, leaves)
    (said,) = sentences(mistakes.multiple, found)
    assert "the truth times `s`" in said
    assert ("power" in said) == (power != 1)


def test_a_factor_kept_from_the_first_call():
    given = random(6, seed=8)

    def wrong(x):
        return SQUARE * (x.sum() / given.sum())

    found = evidence(SQUARE, wrong, leaves_of(x=(6,)), given=given)
    assert words(mistakes.multiple, found) == ["nondeterministic"]
    unkept = evidence(SQUARE, wrong, leaves_of(x=(6,)))
    assert words(mistakes.multiple, unkept) == ["scale"]


@pytest.mark.parametrize(
    ("turn", "word"),
    [
        (lambda v: np.swapaxes(v, 1, 2), "transposed"),
        (lambda v: np.flip(v, 1), "flipped"),
        (lambda v: np.roll(v, 1, 2), "shifted"),
    ],
)
def test_the_truth_rearranged(turn, word):
    right = random(6, 9)
    wrong = turn(right.reshape(6, 3, 3)).reshape(6, 9)
    assert words(mistakes.rearranged, of(right, wrong, (3, 3), [(6,)]))[0] == word


def test_the_truth_of_another_argument():
    leaves = leaves_of(a=(4,), b=(4,))
    right = random(6, 8)
    found = evidence(right, np.roll(right, 4, axis=1), leaves, [(6,)])
    assert words(mistakes.another_leaf, found)[0] == "swapped-arguments"
    both = lambda x: random(6, 8) * np.cos(x)  # noqa: E731
    turned = evidence(both, lambda x: both(np.roll(x, 4)), leaves, [(6,)])
    assert "`a` and `b` exchanged" in sentences(mistakes.another_leaf, turned)[0]


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


def test_an_output_that_is_ignored():
    half = SQUARE.copy()
    half[3:] = 0.0
    (said,) = sentences(mistakes.ignored_output, of(SQUARE, half, outputs=[(3,), (3,)]))
    assert said == "what output 1 of 2 sends back is missing"


def test_the_incoming_cotangent_passed_on():
    assert words(mistakes.passed_on, of(SQUARE, np.eye(6))) == ["missing-term"]


def test_displaced_with_anything_at_the_edge():
    moved = np.roll(SQUARE, 1, axis=1)
    moved[:, 0] = random(6, seed=4)
    (said,) = sentences(mistakes.displaced, of(SQUARE, moved))
    assert "displaced by 1 along axis 0" in said


def test_integers_off_by_one():
    table = random(9, 6, 6)
    labels = Integers("labels", np.array([3]), lambda by: vjp_of(table[3 + by]))
    found = evidence(table[3], table[2], leaves_of(x=(6,)), integers=(labels,))
    assert sentences(mistakes.integers_displaced, found) == [
        "the cotangent is right for `labels` - 1"
    ]


def test_an_argument_or_what_comes_in_rearranged():
    right = lambda x: SQUARE * np.cos(x)[:, None]  # noqa: E731
    operand = evidence(right, lambda x: right(x[::-1]), leaves_of(x=(6,)))
    assert words(mistakes.operand_rearranged, operand)[0] == "flipped"
    incoming = of(SQUARE, SQUARE[::-1])
    assert words(mistakes.cotangent_rearranged, incoming)[0] == "flipped"


def test_a_mean_over_an_axis_spread_out_again():
    right = random(6, 6)
    wrong = right.reshape(6, 2, 3).mean(axis=2, keepdims=True).repeat(3, axis=2).reshape(6, 6)
    found = of(right, wrong, (2, 3), [(6,)])
    assert sentences(mistakes.mean_over_axes, found) == [
        "the cotangent is the truth averaged over axes 1"
    ]
