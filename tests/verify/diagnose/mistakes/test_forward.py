"""A backward that computes the forward anew, and does one step of it otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.diagnose.altered_forward import Altered, Step
from jaxbp.verify.diagnose.mistakes import forward as mistakes
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import Pullback
from tests.verify.diagnose.evidence import evidence, leaves_of, random, sentences, vjp_of, words
from tests.verify.rules import normal

X6 = leaves_of(x=(6,))


class Steps:
    """Stands in for `Altered`: a Jacobian for each step."""

    def __init__(self, jacobians):
        self.steps = [Step("missing-term", f"without step {k}") for k in range(len(jacobians))]
        self.jacobians = jacobians

    def answer(self, x, c, step):
        return vjp_of(self.jacobians[step])(x, c)


def test_the_step_whose_absence_explains_the_error_is_named():
    truth, other, without = (random(6, 6, seed=k) for k in range(3))
    found = evidence(truth, without, X6, altered=lambda: Steps([other, without]))
    assert words(mistakes.step_changed, found) == ["missing-term"]
    assert "without step 1" in sentences(mistakes.step_changed, found)[0]
    assert not words(mistakes.step_changed, evidence(truth, without, X6))


def test_a_step_that_explains_one_question_alone_is_not_named():
    truth, without = random(6, 6), random(6, 6, seed=2)
    found = evidence(truth, without, X6)
    first = found.points[0]

    def now_and_then(x):
        return without if np.array_equal(x, first) else truth

    found = evidence(truth, without, X6, altered=lambda: Steps([now_and_then]))
    assert not words(mistakes.step_changed, found)


def altered(fn, *args):
    subject = Subject(fn, args, {})
    leaf_fn = subject.function(fn)
    pullback = Pullback(subject, leaf_fn, np.float64)
    return Altered(subject, leaf_fn, pullback), subject.x


def test_steps_left_out_and_a_scan_differentiated_late():
    def squared_twice(x):
        return jax.lax.scan(lambda s, _: (s * s, None), jnp.sin(x), None, 2)[0]

    made, x = altered(squared_twice, normal(3))
    c, s = np.array([1.0, 2.0, -1.0]), np.sin(x)
    steps = {step.change: k for k, step in enumerate(made.steps)}
    np.testing.assert_allclose(made.answer(x, c, -1), c * 4 * s**3 * np.cos(x), rtol=1e-12)
    without_sine = made.answer(x, c, steps["without its `sin` (its operand 0 passed on)"])
    np.testing.assert_allclose(without_sine, c * 4 * x**3, rtol=1e-12)
    (late,) = [k for k, step in enumerate(made.steps) if step.word == "shifted"]
    # The states after the steps are s² and s⁴.
    np.testing.assert_allclose(
        made.answer(x, c, late), c * 2 * s**4 * 2 * s**2 * np.cos(x), rtol=1e-12
    )


@pytest.mark.parametrize("f", [jnp.arccos, jnp.arctan, jnp.sinh, jnp.cbrt])
def test_each_elementwise_step_may_be_left_out(f):
    made, x = altered(lambda x: 2 * f(x), jnp.array([0.1, 0.4, -0.3]))
    c = np.array([1.0, 2.0, -1.0])
    without = [made.answer(x, c, k) for k in range(len(made.steps))]
    assert any(np.allclose(answer, 2 * c) for answer in without)
