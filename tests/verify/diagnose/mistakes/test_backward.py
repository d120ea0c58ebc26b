"""A backward that is right but for one value in it, by backwards in numpy and one in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.diagnose.altered_backward import Backward, Value
from jaxbp.verify.diagnose.mistakes import backward as mistakes
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import Pullback
from tests.verify.diagnose.evidence import Vjp, evidence, leaves_of, random, sentences, words
from tests.verify.rules import normal

X = leaves_of(x=(3, 4))
TABLE = random(3, 4)
ALL = (
    mistakes.value_rearranged,
    mistakes.summed_elsewhere,
    mistakes.residual_exchanged,
    mistakes.residual_powered,
)


class Program:
    """Stands in for `Backward`: dx = p (dy - Σ dy p) with p = exp(x) TABLE, value by value."""

    known = (
        Value(None, (3, 4)),
        Value("mul", (3, 4)),
        Value("reduce_sum", (3,), 1, (1,)),
        Value("broadcast_in_dim", (3, 4)),
    )

    def run(self, x, c, replaced):
        values = []

        def value(right):
            values.append(right)
            number = len(values) - 1
            return replaced[number].reshape(right.shape) if number in replaced else right

        dy = c.reshape(3, 4)
        p = value(np.exp(x.reshape(3, 4)) * TABLE)
        weighted = value(dy * p)
        total = value(weighted.sum(1))
        spread = value(np.repeat(total[:, None], 4, axis=1))
        return (p * (dy - spread)).reshape(-1), values

    def values(self, x, c):
        return self.run(x, c, {})[1]

    def answer(self, x, c, numbers=(), other=None):
        return self.run(x, c, dict.fromkeys(numbers, other))[0]


def of(wrong, **fields):
    program = Program()
    right = Vjp(lambda x, c: program.answer(x, c))
    return evidence(right, Vjp(wrong), X, backward=lambda: program, **fields)


def backward(x, c, p=None, axis=1, turned=lambda v: v):
    dy = c.reshape(3, 4)
    p = np.exp(x.reshape(3, 4)) * TABLE if p is None else p
    return (p * (dy - turned((dy * p).sum(axis, keepdims=True)))).reshape(-1)


@pytest.mark.parametrize("hypothesis", ALL)
def test_an_error_without_a_pattern_is_explained_by_none(hypothesis):
    noise = random(12, 12)
    assert not words(hypothesis, of(lambda x, c: c @ noise))
    assert not words(hypothesis, evidence(noise, 2 * noise, X))  # no backward to be had


@pytest.mark.parametrize(
    ("turned", "word"), [(lambda v: v[::-1], "flipped"), (lambda v: np.roll(v, 1, 0), "shifted")]
)
def test_a_cotangent_on_its_way_rearranged(turned, word):
    found = of(lambda x, c: backward(x, c, turned=turned))
    assert words(mistakes.value_rearranged, found)[0] == word
    said = sentences(mistakes.value_rearranged, found)
    assert any("`reduce_sum` of shape [3]" in sentence for sentence in said)


def test_a_sum_over_another_axis():
    found = of(lambda x, c: backward(x, c, axis=0))
    assert sentences(mistakes.summed_elsewhere, found) == [
        "the cotangent is right for a sum over axes [0] where the backward takes one over axes "
        "[1], of an array of shape [3, 4]"
    ]
    mean = of(lambda x, c: backward(x, c, axis=0, turned=lambda v: v * 4 / 3))
    assert "a mean over axes [0]" in sentences(mistakes.summed_elsewhere, mean)[0]


def test_a_residual_taken_for_another_value():
    found = of(
        lambda x, c: backward(x, c, p=np.sin(x).reshape(3, 4)),
        values=lambda x: [("`sin`", np.sin(x).reshape(3, 4))],
    )
    assert words(mistakes.residual_exchanged, found) == ["missing-term"]
    assert "with `sin` in the place" in sentences(mistakes.residual_exchanged, found)[0]


def test_a_residual_taken_for_the_same_one_step_later():
    def later(x):
        p = np.exp(x.reshape(3, 4)) * TABLE
        return np.concatenate([p[1:], [[1.0, 2.0, 3.0, 4.0]]])

    found = of(lambda x, c: backward(x, c, p=later(x)), values=lambda x: [("`scan`", later(x))])
    assert words(mistakes.residual_exchanged, found) == ["shifted"]


@pytest.mark.parametrize("name", mistakes.POWERS)
def test_a_residual_to_a_wrong_power(name):
    power = mistakes.POWERS[name]
    found = of(lambda x, c: backward(x, c, p=power(np.exp(x.reshape(3, 4)) * TABLE)))
    assert sentences(mistakes.residual_powered, found)[0].startswith(
        f"the cotangent is right with {name} of a residual"
    )


def taken_apart(fn, *args):
    subject = Subject(fn, args, {})
    leaf_fn = subject.function(fn)
    pullback = Pullback(subject, leaf_fn, np.float64)
    made = Backward(subject, leaf_fn, pullback)
    c = np.random.default_rng(0).normal(size=sum(o.size for o in pullback.outputs()))
    return made, subject.x, c, pullback(subject.x, c)


def test_with_nothing_replaced_it_is_the_function_s_own():
    made, x, c, truth = taken_apart(jax.nn.softmax, normal(3, 4))
    np.testing.assert_allclose(made.answer(x, c), truth, rtol=1e-12)
    sums = [v for v in made.known if v.summed is not None]
    assert sums
    assert all(v.axes == (1,) and made.known[v.summed].shape[0] == 3 for v in sums)


def test_a_value_is_replaced_and_where_asked_transposed():
    made, x, c, _ = taken_apart(lambda x, w: jnp.tanh(x @ w), normal(3, 3), normal(3, 3, seed=1))
    values = made.values(x, c)
    w = x[9:].reshape(3, 3)
    (number,) = [k for k, v in enumerate(values) if np.array_equal(v, w)]
    slope = 1 - np.tanh(x[:9].reshape(3, 3) @ w) ** 2
    dz = c.reshape(3, 3) * slope
    for given, expected in ((number, dz @ w), (~number, dz @ w.T)):
        found = made.answer(x, c, [given], w.T)[:9].reshape(3, 3)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
