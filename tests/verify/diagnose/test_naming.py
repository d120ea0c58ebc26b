"""What a number looks like."""

import numpy as np
import pytest

from jaxbp.verify.diagnose import naming


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.25, "1/4"), (-3.0, "-3"), (2 / 9, "2/9"), (np.pi, "3.14159"), (1 + 2e-10, "1 + 2e-10")],
)
def test_factors_are_spelled_as_people_write_them(number, text):
    assert naming.spelled(number) == text
