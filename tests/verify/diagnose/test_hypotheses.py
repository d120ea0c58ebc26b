"""All hypotheses in turn, and which of them is believed."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.hypotheses import HYPOTHESES, diagnose
from tests.verify.diagnose.evidence import of, random

SQUARE = random(6, 6)


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda h: h.__name__)
def test_an_error_too_small_for_the_jacobians_to_show_is_no_pattern_in_them(hypothesis):
    for right in (SQUARE, np.diag(np.diag(SQUARE))):
        wrong = right * (1 + 1e-8 * random(6, 6, seed=3))
        for said in hypothesis(of(right, wrong)):
            assert said.explained < 0.95, said


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (0 * SQUARE, "zero"),
        (-SQUARE, "sign"),
        (3 * SQUARE, "scale"),
        (SQUARE[:, ::-1], "flipped"),
        (SQUARE.T, "transposed"),
        (random(6, 6, seed=5), "unknown"),
    ],
)
def test_the_simplest_that_explains_all_is_believed(wrong, word):
    assert diagnose(of(SQUARE, wrong)).word == word


def test_no_evidence_is_no_diagnosis():
    assert diagnose(None).word == "unknown"


def test_a_diagnosis_says_a_word_of_the_list():
    with pytest.raises(ValueError, match=r"must be a word of words\.py; got 'wrong'"):
        Diagnosis("wrong", "", 1.0)
