"""How small an error this very check would have caught: the rule's answers are perturbed to see."""

from collections.abc import Collection

import numpy as np
from numpy.random import Generator

from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.report import Power
from jaxbp.verify.subject.vectors import Leaf

SIZES = 10.0 ** np.arange(-16.0, 1.01, 0.5)
"""Of the errors that are tried, from what float64 can show to ten times the truth."""
PERTURBED_ENTRIES = 64
"""Of a larger leaf so many entries stand for all."""


def measure(
    samples: list[Sample], leaves: list[Leaf], wrong: Collection[str | None], rng: Generator
) -> list[Power]:
    """For each leaf: the smallest error of one entry, and of all together, that is found."""
    return [_of_leaf(samples, leaf, leaf.name in wrong, rng) for leaf in leaves]


def _of_leaf(samples: list[Sample], leaf: Leaf, wrong: bool, rng: Generator) -> Power:
    if not leaf.size:
        return Power(leaf.name, float("inf"), float("inf"), "an empty array: nothing to be wrong")
    dense = [s for s in samples if np.count_nonzero(s.c) == s.c.size]
    samples = dense or samples
    truth = np.abs(np.array([s.expected[leaf.part] for s in samples]))
    room = np.array([s.tolerance[leaf.part] for s in samples])
    if not wrong:  # what was put down to rounding would be let through again
        off = np.array(
            [np.where(s.wrong(leaf), np.abs(s.got - s.expected)[leaf.part], 0.0) for s in samples]
        )
        room = np.maximum(room, off.max(axis=1, keepdims=True))
    truth = np.where(np.isfinite(truth), truth, 0.0)
    scale = truth.max(axis=1)
    if not scale.any():
        return Power(
            leaf.name,
            float("inf"),
            float("inf"),
            "the true cotangent is zero for every question asked: no factor would be seen",
        )
    entries = rng.choice(leaf.size, min(leaf.size, PERTURBED_ENTRIES), replace=False)
    single = [
        size
        for size in SIZES
        # Each chosen entry, on its own, must be found by one of the questions.
        if np.all(np.any(size * scale[:, None] > room[:, entries], axis=0))
    ]
    whole = [size for size in SIZES if np.any(size * truth > room)]
    return Power(
        leaf.name,
        float(single[0]) if single else float("inf"),
        float(whole[0]) if whole else float("inf"),
    )
