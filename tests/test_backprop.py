"""The sweep: the document's algorithm against literal sums, jax.grad, and its own shape."""

import ast
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import backprop as public_backprop
from jaxbp import layers
from tests import oracles
from tests.rules.geometry import numbers
from tests.tolerance import assert_close, assert_trees_close


def network():
    return jaxbp.sequential(
        layers.conv(3, 3),
        layers.tanh(),
        layers.max_pool(2),
        layers.conv(2, 2, padding="VALID", groups=1),
        layers.sigmoid(),
        layers.flatten(),
        layers.dense(3),
    )


SHAPE = (4, 6, 6, 1)


def problem(rng, dtype=None):
    x = numbers(rng, SHAPE, dtype)
    t = jax.nn.one_hot(jnp.arange(4) % 3, 3, dtype=x.dtype)
    params = jax.tree.map(lambda p: p.astype(x.dtype), network().init(jax.random.key(1), SHAPE))
    return params, x, t


LOSSES = {
    "half_squared_error": jaxbp.half_squared_error,
    "softmax_cross_entropy": jaxbp.softmax_cross_entropy,
    "a mean": lambda y, t: jnp.mean(jaxbp.softmax_cross_entropy(y, t)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_jax_grad_to_the_last_bits(name, float64, rng):
    """(2.9) to (2.12), (3.4), (3.9): rule by rule, in float64."""
    loss, (params, x, t) = LOSSES[name], problem(rng, "float64")

    def total(params):
        return jnp.sum(loss(network().apply(params, x), t))

    sweep = jax.jit(jaxbp.backprop, static_argnums=(0, 1))(network(), loss, params, x, t)
    value, grads = jax.jit(jax.value_and_grad(total))(params)
    # Ten roundings or so on the longest path; sums have at most 4 × 36 terms.
    assert_trees_close((sweep.loss, sweep.grads), (value, grads), terms=150)
    assert sweep.grads["conv1"]["w"].dtype == jnp.float64


def test_outputs_and_sensitivities_of_every_layer(float64, rng):
    """(2.8), (3.4): δ of a layer is what jax.grad gives for a perturbation of its output."""
    net, (params, x, t) = network(), problem(rng, "float64")
    sweep = jaxbp.backprop(net, jaxbp.half_squared_error, params, x, t)
    names = ["conv1", "tanh1", "max_pool1", "conv2", "sigmoid1", "flatten1", "dense1"]
    assert list(sweep.outputs) == list(sweep.sensitivities) == names

    def perturbed(shifts):
        y, outputs = x, {}
        for name, layer in net.layers.items():
            y = layer.apply(params.get(name, {}), y) + shifts[name]
            outputs[name] = y
        return jnp.sum(jaxbp.half_squared_error(y, t)), outputs

    shifts = {name: jnp.zeros_like(y) for name, y in sweep.outputs.items()}
    slopes, outputs = jax.jit(jax.grad(perturbed, has_aux=True))(shifts)
    assert_trees_close(sweep.outputs, outputs, terms=150)
    assert_trees_close(sweep.sensitivities, slopes, terms=150)


def test_a_batch_through_two_dense_layers_by_literal_sums(rng):
    """(2.1), (2.2), (2.4), (2.5), (2.8) to (2.12), each by the oracle's own loop."""
    x, t = (np.asarray(numbers(rng, s), np.float64) for s in [(3, 4), (3, 2)])
    w1, b1, w2, b2 = (np.asarray(numbers(rng, s), np.float64) for s in [(4, 5), (5,), (5, 2), (2,)])
    net = jaxbp.sequential(layers.dense(5), layers.sigmoid(), layers.dense(2), layers.sigmoid())
    params = {"dense1": {"w": w1, "b": b1}, "dense2": {"w": w2, "b": b2}}
    params, given_x, given_t = jax.tree.map(jnp.asarray, (params, x, t))
    sweep = jaxbp.backprop(net, jaxbp.half_squared_error, params, given_x, given_t)

    z1 = oracles.dense(x, w1, b1)
    y1 = oracles.sigmoid(z1)
    z2 = oracles.dense(y1, w2, b2)
    delta2 = oracles.output_sensitivity(z2, t)
    delta1 = oracles.hidden_sensitivity(z1, w2, delta2)
    assert_close(
        sweep.loss, oracles.half_squared_error(oracles.sigmoid(z2), t).sum(), terms=40, what="loss"
    )
    for name, delta, y in (("dense2", delta2, y1), ("dense1", delta1, x)):
        assert_close(sweep.sensitivities[name], delta, terms=40, what=f"δ of {name}")
        weights = oracles.dense_weight_grad(y, delta)
        assert_close(sweep.grads[name]["w"], weights, terms=40, what=f"weights of {name}")
        biases = oracles.dense_bias_grad(delta)
        assert_close(sweep.grads[name]["b"], biases, terms=40, what=f"biases of {name}")


def test_a_mean_in_the_loss_puts_one_over_n_into_the_first_sensitivity_and_nowhere_else(rng):
    """(2.12): the gradients of a mean over examples are those of the sum, over N, once."""
    params, x, t = problem(rng)
    summed = jaxbp.backprop(network(), jaxbp.half_squared_error, params, x, t)
    mean = jaxbp.backprop(
        network(), lambda y, t: jnp.mean(jaxbp.half_squared_error(y, t)), params, x, t
    )
    for one, all_ in (
        (mean.loss, summed.loss),
        (mean.grads, summed.grads),
        (mean.sensitivities, summed.sensitivities),
    ):
        # N = 4: the division is exact.
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(4 * a, b), one, all_)


def test_integer_labels_are_a_target(rng):
    params, x, t = problem(rng)
    labels = jnp.argmax(t, axis=-1)
    one = jaxbp.backprop(network(), jaxbp.softmax_cross_entropy, params, x, labels)
    other = jaxbp.backprop(network(), jaxbp.softmax_cross_entropy, params, x, t)
    assert_trees_close(one, other, terms=150)


def test_one_example_at_a_time_adds_up(rng):
    """(2.12): parameter gradients are sums over examples."""
    params, x, t = problem(rng)
    sweep = jax.jit(jaxbp.backprop, static_argnums=(0, 1))
    together = sweep(network(), jaxbp.half_squared_error, params, x, t)
    singly = [
        sweep(network(), jaxbp.half_squared_error, params, x[n : n + 1], t[n : n + 1])
        for n in range(4)
    ]
    total = jax.tree.map(lambda *each: sum(each), *[s.grads for s in singly])
    assert_trees_close(total, together.grads, terms=300)
    deltas = jax.tree.map(lambda *each: jnp.concatenate(each), *[s.sensitivities for s in singly])
    assert_trees_close(deltas, together.sensitivities, terms=150)


def test_layers_of_networks_within_networks_have_a_path(rng):
    inner = jaxbp.sequential(layers.dense(4), layers.tanh())
    nested = jaxbp.sequential(inner, layers.dense(2), jaxbp.sequential(layers.sigmoid()))
    flat = jaxbp.sequential(layers.dense(4), layers.tanh(), layers.dense(2), layers.sigmoid())
    x, t = numbers(rng, (3, 5)), numbers(rng, (3, 2))
    params = nested.init(jax.random.key(0), x.shape)
    flat_params = {"dense1": params["network1"]["dense1"], "dense2": params["dense1"]}
    sweep = jaxbp.backprop(nested, jaxbp.half_squared_error, params, x, t)
    expected = jaxbp.backprop(flat, jaxbp.half_squared_error, flat_params, x, t)
    names = ["network1/dense1", "network1/tanh1", "dense1", "network2/sigmoid1"]
    assert list(sweep.outputs) == list(sweep.sensitivities) == names
    for ours, theirs in ((sweep.outputs, expected.outputs), (sweep.sensitivities,) * 2):
        for one, other in zip(ours.values(), theirs.values(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert jax.tree.structure(sweep.grads) == jax.tree.structure(params)
    np.testing.assert_array_equal(sweep.grads["dense1"]["w"], expected.grads["dense2"]["w"])


def test_one_layer_is_a_network(rng):
    layer = layers.dense(2)
    x, t = numbers(rng, (3, 4)), numbers(rng, (3, 2))
    params = layer.init(jax.random.key(0), x.shape)
    sweep = jaxbp.backprop(layer, jaxbp.half_squared_error, params, x, t)
    assert list(sweep.outputs) == ["dense"]
    assert_close(sweep.sensitivities["dense"], sweep.outputs["dense"] - t, terms=2)
    assert_trees_close(sweep.grads["w"], jaxbp.dense_weight_grad(x, sweep.outputs["dense"] - t))


def test_a_step_of_descent_lowers_the_loss(rng):
    """(2.7): along the gradient, for a small enough step."""
    params, x, t = problem(rng)
    sweep = jax.jit(jaxbp.backprop, static_argnums=(0, 1))
    losses = []
    for _ in range(3):
        result = sweep(network(), jaxbp.half_squared_error, params, x, t)
        losses.append(float(result.loss))
        params = jax.tree.map(lambda w, dw: w - 0.01 * dw, params, result.grads)
    assert losses[0] > losses[1] > losses[2]


def test_a_batch_of_none(rng):
    params, x, t = problem(rng)
    sweep = jaxbp.backprop(network(), jaxbp.half_squared_error, params, x[:0], t[:0])
    assert sweep.loss == 0
    jax.tree.map(
        lambda g, p: np.testing.assert_array_equal(g, jnp.zeros_like(p)), sweep.grads, params
    )


def test_no_autodiff_but_for_the_first_sensitivity():
    """The algorithm is readable without jax.grad: `vjp` is called on the loss alone."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(public_backprop)))
    called = [
        (function.name, node.attr)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        if node.attr in {"grad", "value_and_grad", "vjp", "jvp", "linearize", "jacrev", "jacfwd"}
    ]
    assert called == [("_first_sensitivity", "vjp")]


BAD_CALLS = {
    "network a function": (
        lambda p, x, t: jaxbp.backprop(jnp.tanh, jnp.sum, p, x, t),
        "network",
        TypeError,
    ),
    "network None": (lambda p, x, t: jaxbp.backprop(None, jnp.sum, p, x, t), "network", TypeError),
    "loss a string": (lambda p, x, t: jaxbp.backprop(network(), "l2", p, x, t), "loss", TypeError),
    "loss a matrix": (
        lambda p, x, t: jaxbp.backprop(network(), lambda y, t: y - t, p, x, t),
        "loss",
        ValueError,
    ),
    "loss a Python number": (
        lambda p, x, t: jaxbp.backprop(network(), lambda y, t: 1.0, p, x, t),
        "loss",
        TypeError,
    ),
    "loss an integer": (
        lambda p, x, t: jaxbp.backprop(network(), lambda y, t: jnp.argmax(y), p, x, t),
        "loss",
        TypeError,
    ),
    "loss a pair": (
        lambda p, x, t: jaxbp.backprop(network(), lambda y, t: (jnp.sum(y), y), p, x, t),
        "loss",
        TypeError,
    ),
    "loss of another length": (
        lambda p, x, t: jaxbp.backprop(network(), lambda y, t: jnp.sum(y, axis=0), p, x, t),
        "loss",
        ValueError,
    ),
}


BAD_PROBLEMS = {
    "integers": lambda p, x: (p, jnp.ones(SHAPE, jnp.uint8)),
    "another dtype": lambda p, x: (p, x.astype(jnp.bfloat16)),
    "more channels": lambda p, x: (p, jnp.ones((4, 6, 6, 2))),
    "no channels": lambda p, x: (p, x[..., 0]),
    "a list": lambda p, x: (p, x.tolist()),
    "larger images": lambda p, x: (p, jnp.ones((4, 8, 8, 1), x.dtype)),
    "no parameters": lambda p, x: ({}, x),
    "parameters a list": lambda p, x: ([], x),
    "a layer too many": lambda p, x: (p | {"dense7": {}}, x),
    "a bias that would broadcast": lambda p, x: (
        p | {"dense1": p["dense1"] | {"b": jnp.ones(1, x.dtype)}},
        x,
    ),
}


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_parameters_and_input_are_checked_as_by_apply(name, rng):
    params, x, t = problem(rng)
    params, x = BAD_PROBLEMS[name](params, x)
    messages = []
    for call in (
        lambda: network().apply(params, x),
        lambda: jaxbp.backprop(network(), jaxbp.half_squared_error, params, x, t),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=r"^[\w.]+: \w+ must be .*, got "
        ) as raised:
            call()
        messages.append((raised.type, str(raised.value)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name, rng):
    call, argument, kind = BAD_CALLS[name]
    with pytest.raises(kind, match=rf"^backprop: {argument} must be .*, got .+"):
        call(*problem(rng))
