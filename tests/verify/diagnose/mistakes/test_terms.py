"""The derivative taken apart: each hypothesis by a sum of Jacobians, some of them left out."""

import numpy as np
import pytest

from jaxbp.verify.diagnose.gated import Gate
from jaxbp.verify.diagnose.mistakes import terms as mistakes
from tests.verify.diagnose.evidence import evidence, leaves_of, random, sentences, vjp_of, words

X4 = leaves_of(x=(4,))
TERMS = list(np.random.default_rng(0).normal(size=(4, 4, 4)))


class Sum:
    """Stands in for `Parts`: every gate lets a Jacobian of its own through, which `order` may
    rearrange."""

    def __init__(self, *gates):
        self.gates, self.jacobians = [], []
        for gate, jacobian in gates:
            self.gates.append(gate)
            self.jacobians.append(jacobian)

    def whole(self):
        weights = np.zeros(sum(gate.steps or 1 for gate in self.gates))
        for gate in self.gates:
            if gate.kind == "path":
                weights[gate.index] = 1.0
            if gate.kind == "step":
                weights[gate.index : gate.index + gate.steps] = 1.0
        return weights

    def answer(self, x, c, weights, orders=None):
        total = 0.0
        for gate, jacobian in zip(self.gates, self.jacobians, strict=True):
            for k in range(gate.steps or 1):
                term = jacobian[k] if gate.steps else jacobian
                if gate.index in (orders or {}):
                    term = term(orders[gate.index])
                elif callable(term):
                    term = term(np.arange(int(np.prod(gate.shape))))
                total = total + weights[gate.index + k] * vjp_of(term)(x, c)
        return total


def path(index, **fields):
    return Gate(index, "path", "add", f"term {index}", **fields)


def paths():
    return Sum(*((path(k), term) for k, term in enumerate(TERMS)))


def of(parts, wrong, leaves=X4, **fields):
    right = sum(
        term for gate, term in zip(parts.gates, parts.jacobians, strict=True) if gate.kind == "path"
    )
    return evidence(right, wrong, leaves, parts=lambda: parts, **fields)


ALL = (
    mistakes.one_term,
    mistakes.one_factor,
    mistakes.some_uses,
    mistakes.operand_of_product,
    mistakes.result_of_product,
    mistakes.two_terms,
    mistakes.two_factors,
)


@pytest.mark.parametrize("hypothesis", ALL)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    assert not words(hypothesis, of(paths(), random(4, 4, seed=9)))
    assert not words(hypothesis, evidence(TERMS[0], TERMS[1], X4))  # nothing taken apart


@pytest.mark.parametrize(
    ("factor", "word", "said"),
    [
        (0, "missing-term", "term 2 is missing from the cotangent"),
        (-1, "sign", "term 2 has its sign turned"),
        (3, "missing-term", "a factor is wrong: term 2 is 3 times what it must be"),
    ],
)
def test_one_term_left_out_turned_or_weighted(factor, word, said):
    wrong = sum(TERMS) + (factor - 1) * TERMS[2]
    assert words(mistakes.one_term, of(paths(), wrong)) == [word]
    assert sentences(mistakes.one_term, of(paths(), wrong)) == [said]


def test_a_cut_state_must_not_change_a_leaf_that_is_right():
    leaves = leaves_of(w=(2,), h=(2,))
    own, handed = np.zeros((4, 4)), random(4, 4)
    own[:, :] = random(4, 4, seed=2)
    carry = Gate(1, "path", "carry", "the state")
    parts = Sum((path(0), own), (carry, handed))
    cut = own.copy()
    assert words(mistakes.one_term, of(parts, cut, leaves, outputs=[(4,)])) == ["missing-term"]
    spared = own + handed
    spared[:, :2] = own[:, :2]  # w alone lacks it: h has all of its own
    assert not words(mistakes.one_term, of(parts, spared, leaves, outputs=[(4,)]))


def straight(index, partner):
    return Gate(index, "straight", "tanh", f"derivative {index}", partner=partner)


def factors():
    """Two factors at one place each: without one, another Jacobian stands in the place."""
    ones = [random(4, 4, seed=20 + k) for k in range(2)]
    parts = Sum(
        (path(0), TERMS[0]),
        (path(1), TERMS[1]),
        (straight(2, 0), ones[0]),
        (straight(3, 1), ones[1]),
    )
    return parts, ones


def test_one_factor_left_out():
    parts, ones = factors()
    found = of(parts, ones[1] + TERMS[0])
    assert sentences(mistakes.one_factor, found) == ["derivative 3 is left out"]


def test_two_factors_left_out():
    parts, ones = factors()
    found = of(parts, ones[0] + ones[1])
    assert not words(mistakes.one_factor, found)
    assert sentences(mistakes.two_factors, found) == ["derivative 2 and derivative 3 are left out"]


def test_one_of_several_uses():
    uses = Sum(*((path(k, source=0), term) for k, term in enumerate(TERMS)))
    assert words(mistakes.some_uses, of(uses, TERMS[2])) == ["overwritten"]
    apart = Sum(*((path(k, source=k), term) for k, term in enumerate(TERMS)))
    assert not words(mistakes.some_uses, of(apart, TERMS[2]))


@pytest.mark.parametrize(
    ("kept", "word"),
    [
        ([3], "overwritten"),
        ([0], "overwritten"),
        ([0, 1, 2], "missing-term"),
        ([1, 2, 3], "missing-term"),
    ],
)
def test_some_steps_of_a_scan(kept, word):
    steps = Sum((Gate(0, "step", "scan", "w", steps=4), TERMS))
    found = evidence(sum(TERMS), sum(TERMS[k] for k in kept), X4, parts=lambda: steps)
    assert words(mistakes.some_uses, found)[0] == word
    wrong = evidence(sum(TERMS), TERMS[1], X4, parts=lambda: steps)
    assert not words(mistakes.some_uses, wrong)


@pytest.mark.parametrize(
    ("kind", "hypothesis"),
    [("operand", mistakes.operand_of_product), ("result", mistakes.result_of_product)],
)
@pytest.mark.parametrize(
    ("turn", "word"),
    [(np.transpose, "transposed"), (lambda w: w[::-1], "flipped")],
)
def test_an_operand_or_a_result_rearranged(kind, hypothesis, turn, word):
    w = random(3, 3, seed=5)
    leaves = leaves_of(x=(3,))

    def rearranged(order):
        return np.append(w.reshape(-1), 0.0)[order].reshape(3, 3)

    product = Gate(1, kind, "dot_general", "the operand", partner=0, shape=(3, 3))
    parts = Sum((path(0), w), (product, rearranged))
    assert words(hypothesis, of(parts, turn(w), leaves))[0] == word
    other = {mistakes.operand_of_product, mistakes.result_of_product} - {hypothesis}
    assert not words(other.pop(), of(parts, turn(w), leaves))


def test_two_terms_left_out():
    found = of(paths(), TERMS[0] + TERMS[3])
    first = sentences(mistakes.two_terms, found)[0]
    assert first == "term 1 and term 2 are missing from the cotangent"


def test_two_terms_with_a_factor_each():
    found = of(paths(), sum(TERMS) + TERMS[1] - 0.5 * TERMS[2])
    (said,) = sentences(mistakes.two_terms, found)
    assert said.startswith("two factors are wrong: term 1 is 2 times")
    assert "term 2 1/2 times" in said
