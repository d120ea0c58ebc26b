"""How small an error a check would have caught."""

import numpy as np

from jaxbp.verify.compare import power
from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.subject.vectors import Leaf

LEAF = Leaf("x", 0, (3,), np.dtype(float), 0, 3)


def test_power_is_what_the_tolerance_lets_through():
    expected = np.array([1.0, 0.5, 0.0])
    sample = Sample(np.ones(3), np.ones(3), expected, expected, np.full(3, 1e-6), "")
    found = power.measure([sample], [LEAF], (), np.random.default_rng(0))[0]
    assert 1e-6 < found.smallest_error < 1e-5
    blind = Sample(np.ones(3), np.ones(3), np.zeros(3), np.zeros(3), np.full(3, 1e-6), "")
    assert np.isinf(power.measure([blind], [LEAF], (), np.random.default_rng(0))[0].smallest_scale)
