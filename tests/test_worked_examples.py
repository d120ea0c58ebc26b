"""The document's worked examples, by their literal numbers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import layers
from tests import oracles
from tests.tolerance import assert_close

EXAMPLES = json.loads((Path(__file__).parent / "worked_examples.json").read_text())


def array(numbers):
    return jnp.asarray(numbers, jax.dtypes.canonicalize_dtype(np.float64))


def image(numbers):
    """A map as one example of one channel."""
    return array(numbers)[None, ..., None]


def assert_map(actual, numbers, terms):
    assert_close(actual[0, ..., 0], numbers, terms=terms)


class TestFullyConnected:
    """Chapter 2, with the biases as constants that are not trained."""

    example = EXAMPLES["fully_connected_2_2_2"]

    def forward(self, params, x):
        e = self.example
        hidden = jaxbp.dense(x, params["hidden"]) + e["b_hidden"]
        y_hidden = jaxbp.sigmoid(hidden)
        output = jaxbp.dense(y_hidden, params["output"]) + e["b_output"]
        return hidden, y_hidden, output, jaxbp.sigmoid(output)

    def params(self):
        return {
            "hidden": array(self.example["w_hidden"]),
            "output": array(self.example["w_output"]),
        }

    def loss(self, params):
        *_, y = self.forward(params, array(self.example["x"]))
        return jaxbp.half_squared_error(y, array(self.example["t"]))

    def test_forward(self):
        """(2.1), (2.2)."""
        e = self.example
        actual = self.forward(self.params(), array(e["x"]))
        names = ("z_hidden", "y_hidden", "z_output", "y_output")
        for value, name in zip(actual, names, strict=True):
            assert_close(value, e[name], terms=8, what=name)
        assert_close(self.loss(self.params()), e["loss_before"], terms=16)

    def test_backward_formula_by_formula(self):
        """(2.4), (2.5), (2.8) to (2.12), each by its own function, in the document's order."""
        e = self.example
        x, params = array(e["x"]), self.params()
        _, y_hidden, _, y = self.forward(params, x)
        dy = y - array(e["t"])  # (2.4)
        dz = dy * y * (1 - y)  # (2.5), (2.8)
        assert_close(dz, e["delta_output"], terms=16)
        assert_close(jaxbp.dense_weight_grad(y_hidden, dz), e["grad_w_output"], terms=16)
        dy_hidden = jaxbp.dense_input_grad(dz, params["output"])
        assert_close(dy_hidden, e["dE_dy_hidden"], terms=16)
        dz_hidden = dy_hidden * y_hidden * (1 - y_hidden)  # (2.11)
        assert_close(dz_hidden, e["delta_hidden"], terms=16)
        assert_close(jaxbp.dense_weight_grad(x, dz_hidden), e["grad_w_hidden"], terms=16)

    def test_backward_by_the_rules(self):
        """(2.3): the rules chained by `jax.grad` give the same."""
        grads = jax.grad(self.loss)(self.params())
        assert_close(grads["hidden"], self.example["grad_w_hidden"], terms=32)
        assert_close(grads["output"], self.example["grad_w_output"], terms=32)

    def test_backward_by_the_sweep(self):
        """(2.8), (2.11): δ of every layer, by name."""
        e = self.example
        network = jaxbp.sequential(
            layers.dense(2), layers.sigmoid(), layers.dense(2), layers.sigmoid()
        )
        params = {
            "dense1": {"w": array(e["w_hidden"]), "b": array([e["b_hidden"]] * 2)},
            "dense2": {"w": array(e["w_output"]), "b": array([e["b_output"]] * 2)},
        }
        sweep = jaxbp.backprop(
            network, jaxbp.half_squared_error, params, array([e["x"]]), array([e["t"]])
        )
        assert_close(sweep.loss, e["loss_before"], terms=32)
        assert_close(sweep.outputs["dense1"], [e["z_hidden"]], terms=32)
        assert_close(sweep.outputs["sigmoid2"], [e["y_output"]], terms=32)
        assert_close(sweep.sensitivities["dense2"], [e["delta_output"]], terms=32)
        assert_close(sweep.sensitivities["sigmoid1"], [e["dE_dy_hidden"]], terms=32)
        assert_close(sweep.sensitivities["dense1"], [e["delta_hidden"]], terms=32)
        assert_close(sweep.grads["dense1"]["w"], e["grad_w_hidden"], terms=32)
        assert_close(sweep.grads["dense2"]["w"], e["grad_w_output"], terms=32)
        assert_close(sweep.grads["dense2"]["b"], e["delta_output"], terms=32)

    def descend(self, params, steps):
        """(2.7) all weights at once, from the old values."""

        def step(_, params):
            grads = jax.grad(self.loss)(params)
            return jax.tree.map(lambda w, dw: w - self.example["eta"] * dw, params, grads)

        return jax.jit(lambda params: jax.lax.fori_loop(0, steps, step, params))(params)

    def test_one_step_of_descent(self):
        """(2.7)."""
        e = self.example
        after = self.descend(self.params(), 1)
        assert_close(after["hidden"], e["w_hidden_after"], terms=32)
        assert_close(after["output"], e["w_output_after"], terms=32)
        assert_close(self.loss(after), e["loss_after_1"], terms=64)

    def test_ten_thousand_steps_of_descent(self, float64):
        """(2.7): descent forgets roundings, so that 10,000 steps err little more than one."""
        e = self.example
        after = self.descend(self.params(), 10_000)
        *_, y = self.forward(after, array(e["x"]))
        # Each step rounds; a rounding fades over the thousands of steps in which the error shrinks.
        assert_close(y, e["y_after_10000"], terms=10_000)
        assert_close(self.loss(after), e["loss_after_10000"], terms=10_000, magnitude=1.0)

    def test_the_oracles_agree(self):
        """(2.8), (2.11): the tests' own transcriptions give the published figures too."""
        e = self.example
        z, w, t = (np.array([e["z_output"]]), np.array(e["w_output"]), np.array([e["t"]]))
        delta = oracles.output_sensitivity(z, t)
        np.testing.assert_allclose(delta, [e["delta_output"]], rtol=1e-14)
        hidden = oracles.hidden_sensitivity(np.array([e["z_hidden"]]), w, delta)
        np.testing.assert_allclose(hidden, [e["delta_hidden"]], rtol=1e-14)
        loss = oracles.half_squared_error(np.array([e["y_output"]]), t)
        np.testing.assert_allclose(loss, [e["loss_before"]], rtol=1e-14)


def test_convolution():
    """(3.1), (3.2), (3.3), in numbers that no dtype rounds."""
    e = EXAMPLES["convolution_3x3_by_2x2"]
    x, dy, w = image(e["X"]), image(e["dO"]), array(e["F"])[..., None, None]
    y, pullback = jax.vjp(lambda x, w: jaxbp.conv(x, w, padding="VALID"), x, w)
    dx, dw = pullback(dy)
    np.testing.assert_array_equal(y[0, ..., 0], e["O"])
    np.testing.assert_array_equal(dw[..., 0, 0], e["dF"])
    np.testing.assert_array_equal(dx[0, ..., 0], e["dX"])
    np.testing.assert_array_equal(
        jaxbp.conv_kernel_grad(x, dy, w.shape, padding="VALID")[..., 0, 0], e["dF"]
    )
    np.testing.assert_array_equal(
        jaxbp.conv_input_grad(dy, w, x.shape, padding="VALID")[0, ..., 0], e["dX"]
    )


def test_mean_pooling():
    """(4.2)."""
    e = EXAMPLES["mean_pool_2x2"]
    dx = jaxbp.avg_pool_grad(image(e["dy"]), (1, 4, 4, 1), 2)
    np.testing.assert_array_equal(dx[0, ..., 0], e["dx"])
    _, pullback = jax.vjp(lambda x: jaxbp.avg_pool(x, 2), jnp.zeros_like(dx))
    np.testing.assert_array_equal(pullback(image(e["dy"]))[0], dx)


def test_max_pooling():
    """(4.4) with the winners that the example names."""
    e = EXAMPLES["max_pool_2x2"]
    cells = {"top-left": 0, "top-right": 1, "bottom-left": 2, "bottom-right": 3}
    winner = jnp.array([cells[place] for place in e["winners"].split(", ")], jnp.uint8)
    dx = jaxbp.max_pool_grad(image(e["dy"]), winner.reshape(1, 2, 2, 1), (1, 4, 4, 1), 2)
    np.testing.assert_array_equal(dx[0, ..., 0], e["dx"])
    # Any input with these winners gives the same through the rule.
    x = image(np.not_equal(e["dx"], 0))
    _, pullback = jax.vjp(lambda x: jaxbp.max_pool(x, 2), x)
    np.testing.assert_array_equal(pullback(image(e["dy"]))[0], dx)


@pytest.mark.parametrize("ties", ["first", "split", "all"])
def test_overlapping_max_pooling(ties):
    """(4.3), (4.4): 5 wins two windows, whose parts add. There are no ties."""
    e = EXAMPLES["max_pool_stride_1"]
    y, pullback = jax.vjp(
        lambda x: jaxbp.max_pool(x, e["window"], stride=1, ties=ties), image(e["x"])
    )
    np.testing.assert_array_equal(y[0, ..., 0], [[5, 5], [8, 6]])
    assert_map(pullback(image(e["dy"]))[0], e["dx"], terms=2)
