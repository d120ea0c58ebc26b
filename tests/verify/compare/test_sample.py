"""Two answers to one question, and how far they may be apart."""

import numpy as np

from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.subject.vectors import Leaf

LEAF = Leaf("x", 0, (3,), np.dtype(float), 0, 3)


def test_the_tolerance_follows_the_conditioning_and_not_the_size():
    eps = float(np.finfo(float).eps)
    rng = np.random.default_rng(0)
    tolerances = []
    for n in (3, 3000):
        leaf = Leaf("x", 0, (n,), np.dtype(float), 0, n)
        f = lambda x, c: c * x  # noqa: E731
        sample = compare(f, f, np.ones(n), np.ones(n), [leaf], eps, rng, "")
        tolerances.append(sample.tolerance.max())
    assert tolerances[1] < 2 * tolerances[0] < 1e-11
    difference = lambda x, c: c * ((x + 1e8) - 1e8)  # noqa: E731
    sample = compare(difference, difference, np.ones(3), np.ones(3), [LEAF], eps, rng, "")
    assert sample.tolerance.max() < 1e-5


def test_two_nans_agree_and_one_does_not():
    nan = np.full(3, np.nan)
    both = Sample(np.ones(3), np.ones(3), nan, nan, np.ones(3), "")
    assert not both.wrong(LEAF).any()
    one = Sample(np.ones(3), np.ones(3), nan, np.ones(3), np.ones(3), "")
    assert one.wrong(LEAF).all()


def test_the_worst_place_is_one_where_the_reference_is_a_number():
    got, expected = np.array([0.0, 1.0, 3.0]), np.array([np.inf, 1.5, 3.1])
    sample = Sample(np.ones(3), np.ones(3), got, expected, np.full(3, 1e-3), "")
    worst = sample.worst(LEAF)
    assert (worst.index, worst.got, worst.expected, worst.tolerance) == ((1,), 1.0, 1.5, 1e-3)
    nowhere = Sample(np.ones(3), np.ones(3), got, np.full(3, np.inf), np.ones(3), "")
    assert nowhere.worst(LEAF).index == (0,)
