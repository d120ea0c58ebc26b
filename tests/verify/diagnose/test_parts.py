"""A derivative taken apart, and put together again in the ways that people get wrong."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.diagnose.parts import Parts
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import Pullback
from tests.verify.rules import normal


def parts_of(fn, *args):
    subject = Subject(fn, args, {})
    leaf_fn = subject.function(fn)
    pullback = Pullback(subject, leaf_fn, np.float64)
    parts = Parts(subject, leaf_fn, pullback)
    c = np.random.default_rng(0).normal(size=sum(o.size for o in pullback.outputs()))
    return parts, subject.x, c, pullback(subject.x, c)


def test_with_every_gate_open_it_is_the_function_s_own():
    def network(x, w):
        def step(h, v):
            h = jax.nn.relu(h @ w + v)
            return h, h.sum()

        h, sums = jax.lax.scan(step, jnp.zeros(3, x.dtype), x)
        return jax.nn.softmax(h) * sums.mean()

    parts, x, c, truth = parts_of(network, normal(4, 3), normal(3, 3))
    np.testing.assert_allclose(parts.answer(x, c, parts.whole()), truth, rtol=1e-12, atol=1e-14)


def test_a_cut_path_is_a_missing_term():
    parts, x, c, truth = parts_of(lambda x: jnp.sin(x) + x * x[0], normal(5))
    x0, sine = x[0], c * np.cos(x)
    seen = set()
    for gate in parts.gates:
        if gate.kind == "path":
            weights = parts.whole()
            weights[gate.index] = 0.0
            lost = truth - parts.answer(x, c, weights)
            seen.add(
                "sine" if np.allclose(lost, sine) else "x0" if np.allclose(lost, c * x0) else ""
            )
    assert {"sine", "x0"} <= seen


def test_a_left_out_derivative_is_the_cotangent_handed_on():
    parts, x, c, _ = parts_of(jnp.tanh, normal(5))
    gate = next(g for g in parts.gates if g.kind == "straight")
    weights = parts.whole()
    weights[gate.index], weights[gate.partner] = 1.0, 0.0
    np.testing.assert_allclose(parts.answer(x, c, weights), c)


def test_an_operand_exchanged_is_the_wrong_transpose():
    parts, x, c, _ = parts_of(lambda x, w: x @ w, normal(2, 3), normal(3, 3))
    gate = next(g for g in parts.gates if g.kind == "operand" and g.shape == (3, 3))
    weights = parts.whole()
    weights[gate.index], weights[gate.partner] = 1.0, 0.0
    turned = np.arange(9).reshape(3, 3).T.reshape(-1)
    w = x[6:].reshape(3, 3)
    found = parts.answer(x, c, weights, {gate.index: turned})[:6].reshape(2, 3)
    np.testing.assert_allclose(found, c.reshape(2, 3) @ w, rtol=1e-12)


def test_one_step_of_a_scan_alone():
    def total(w, x):
        return jax.lax.scan(lambda s, v: (s + v * w, None), jnp.zeros((), x.dtype), x)[0]

    parts, x, c, _ = parts_of(total, normal(), normal(4))
    gate = next(g for g in parts.gates if g.kind == "step")
    weights = parts.whole()
    weights[gate.index : gate.index + 4] = [0, 0, 0, 1]
    assert parts.answer(x, c, weights)[0] == c[0] * x[-1]
