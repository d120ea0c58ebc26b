"""Evidence for the tests of hypotheses: a right and a wrong Jacobian in numpy, nothing compiled."""

import numpy as np

from jaxbp.verify.diagnose.evidence import Evidence
from jaxbp.verify.subject.vectors import Leaf

BELIEVED = 0.95


def leaves_of(**shapes):
    """Leaves of these names and shapes, one after the other in a vector."""
    leaves, start = [], 0
    for argument, (name, shape) in enumerate(shapes.items()):
        stop = start + int(np.prod(shape))
        leaves.append(Leaf(name, argument, shape, np.dtype(float), start, stop))
        start = stop
    return leaves


def vjp_of(jacobian):
    """(x, c) -> the VJP of a function with this Jacobian, an array or a function of x."""
    return lambda x, c: c @ (jacobian(x) if callable(jacobian) else jacobian)


def evidence(right, wrong, leaves, outputs=None, values=None, **fields):
    """What is known of the first leaf: two VJPs, given as Jacobians or functions, at two points."""
    right, wrong = (
        jacobian if isinstance(jacobian, Vjp) else vjp_of(jacobian) for jacobian in (right, wrong)
    )
    rng = np.random.default_rng(0)
    leaf, size = leaves[0], leaves[-1].stop
    first, second = rng.uniform(0.3, 1.5, size=(2, size))
    points = np.array([first, first, first, second, second])
    outputs = outputs or [leaf.shape]
    rows = sum(int(np.prod(shape)) for shape in outputs)
    cotangents = rng.normal(size=(len(points), rows))
    got, truth = (
        np.array([vjp(x, c) for x, c in zip(points, cotangents, strict=True)])
        for vjp in (wrong, right)
    )
    if values is not None:
        fields["parts"] = lambda: Values(values)
    shape = (len(points), *leaf.shape)
    return Evidence(
        leaf,
        tuple(leaves),
        tuple(outputs),
        points,
        cotangents,
        got[:, leaf.part].reshape(shape),
        truth[:, leaf.part].reshape(shape),
        truth,
        np.full(shape, 1e-9),
        wrong,
        right,
        **fields,
    )


def of(right, wrong, shape=(6,), outputs=None):
    """What is known of one leaf, by two Jacobians."""
    return evidence(right, wrong, leaves_of(x=shape), outputs)


class Vjp:
    """A VJP that is no constant matrix: fn(x, c)."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, x, c):
        return self.fn(x, c)


class Values:
    """Stands in for `Parts` where only what the function computes is asked."""

    gates = ()

    def __init__(self, values):
        self.values = values


def words(hypothesis, evidence):
    """The words of what a hypothesis explains the error by."""
    return [d.word for d in hypothesis(evidence) if d.explained >= BELIEVED]


def sentences(hypothesis, evidence):
    """The sentences that go with them."""
    return [d.sentence for d in hypothesis(evidence) if d.explained >= BELIEVED]


def random(*shape, seed=1):
    """Numbers between a half and one and a half, so that none is nearly zero."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 1.5, size=shape)
