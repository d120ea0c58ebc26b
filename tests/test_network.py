"""Layers and networks: shapes, parameters, names, and the pairs that the sweep calls."""

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import layers
from tests.rules.geometry import default_dtype, numbers
from tests.tolerance import assert_trees_close
from tests.transforms import cotangent_like

# Every layer, with an input that it takes and the function that it stands for.
LAYERS = {
    "conv": (
        layers.conv(4, 3, stride=2, groups=2),
        (2, 5, 4, 2),
        lambda p, x: jaxbp.conv(x, p["w"], p["b"], stride=2, groups=2),
    ),
    "conv without bias": (
        layers.conv(3, (1, 2), padding="VALID", dilation=(1, 2), bias=False),
        (2, 3, 4, 2),
        lambda p, x: jaxbp.conv(x, p["w"], padding="VALID", dilation=(1, 2)),
    ),
    "conv 1d": (
        layers.conv(3, 2, padding=((2, 0),)),
        (2, 4, 2),
        lambda p, x: jaxbp.conv(x, p["w"], p["b"], padding=((2, 0),)),
    ),
    "conv_transpose": (
        layers.conv_transpose(4, 2, stride=2, groups=2),
        (2, 3, 2, 2),
        lambda p, x: jaxbp.conv_transpose(x, p["w"], p["b"], stride=2, groups=2),
    ),
    "conv_transpose without bias": (
        layers.conv_transpose(2, 3, padding=1, dilation=2, bias=False),
        (1, 4, 4, 3),
        lambda p, x: jaxbp.conv_transpose(x, p["w"], padding=1, dilation=2),
    ),
    "dense": (layers.dense(3), (2, 4), lambda p, x: jaxbp.dense(x, p["w"], p["b"])),
    "dense without bias": (
        layers.dense(3, bias=False),
        (2, 4),
        lambda p, x: jaxbp.dense(x, p["w"]),
    ),
    "max_pool": (
        layers.max_pool(3, stride=2, padding="SAME"),
        (2, 5, 4, 2),
        lambda p, x: jaxbp.max_pool(x, 3, stride=2, padding="SAME"),
    ),
    "max_pool split": (
        layers.max_pool((2, 2), dilation=2, ties="split"),
        (2, 5, 4, 2),
        lambda p, x: jaxbp.max_pool(x, 2, dilation=2, ties="split"),
    ),
    "avg_pool": (
        layers.avg_pool(2, stride=1, padding=1, count_include_pad=False),
        (2, 3, 3, 2),
        lambda p, x: jaxbp.avg_pool(x, 2, stride=1, padding=1, count_include_pad=False),
    ),
    "global_max_pool": (
        layers.global_max_pool(),
        (2, 3, 3, 2),
        lambda p, x: jaxbp.global_max_pool(x),
    ),
    "global_avg_pool": (
        layers.global_avg_pool(),
        (2, 3, 3, 2),
        lambda p, x: jaxbp.global_avg_pool(x),
    ),
    "subsample": (
        layers.subsample(2),
        (2, 4, 4, 3),
        lambda p, x: jaxbp.subsample(x, p["beta"], p["b"], 2),
    ),
    "combine_maps": (
        layers.combine_maps(2),
        (2, 2, 2, 3),
        lambda p, x: jaxbp.combine_maps(x, p["c"]),
    ),
    "sigmoid": (layers.sigmoid(), (2, 3), lambda p, x: jaxbp.sigmoid(x)),
    "tanh": (layers.tanh(), (2, 3), lambda p, x: jaxbp.tanh(x)),
    "relu": (layers.relu(), (2, 3), lambda p, x: jaxbp.relu(x)),
    "leaky_relu": (layers.leaky_relu(0.2), (2, 3), lambda p, x: jaxbp.leaky_relu(x, 0.2)),
    "elu": (layers.elu(), (2, 3), lambda p, x: jaxbp.elu(x)),
    "gelu": (layers.gelu(False), (2, 3), lambda p, x: jaxbp.gelu(x, False)),
    "silu": (layers.silu(), (2, 3), lambda p, x: jaxbp.silu(x)),
    "softplus": (layers.softplus(), (2, 3), lambda p, x: jaxbp.softplus(x)),
    "softmax": (layers.softmax(0), (2, 3), lambda p, x: jaxbp.softmax(x, 0)),
    "log_softmax": (layers.log_softmax(), (2, 3), lambda p, x: jaxbp.log_softmax(x)),
    "flatten": (layers.flatten(), (2, 3, 1, 2), lambda p, x: x.reshape(2, 6)),
}


@pytest.mark.parametrize(
    ("ties", "expected"), [("first", [6, 0, 0]), ("split", [3, 0, 3]), ("all", [6, 0, 6])]
)
def test_a_pooling_layer_keeps_its_tie_rule(ties, expected):
    """(4.4) in the layer's own forward and backward."""
    layer = layers.max_pool(3, ties=ties)
    _, residuals = layer.forward({}, jnp.array([2.0, 1.0, 2.0]).reshape(1, 3, 1))
    _, dx = layer.backward(residuals, jnp.full((1, 1, 1), 6.0))
    np.testing.assert_array_equal(dx.reshape(-1), expected)


def test_every_layer_is_tested():
    made = {
        name
        for name, value in vars(layers).items()
        if callable(value) and getattr(value, "__module__", None) == layers.__name__
        if not name.startswith("_")
    }
    assert made == {name.split()[0] for name in LAYERS}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_function(name, rng):
    """apply and forward give the function's value, backward the gradients of jax.grad."""
    layer, shape, function = LAYERS[name]
    x = numbers(rng, shape)
    params = jax.tree.map(
        lambda p: p + numbers(rng, p.shape, p.dtype), layer.init(jax.random.key(0), shape)
    )
    dy = cotangent_like(jax.eval_shape(function, params, x))

    @jax.jit
    def by_hand(params, x, dy):
        value, residuals = layer.forward(params, x)
        return value, layer.apply(params, x), layer.backward(residuals, dy)

    @jax.jit
    def by_autodiff(params, x, dy):
        y, pullback = jax.vjp(function, params, x)
        return y, y, pullback(dy)

    assert_trees_close(by_hand(params, x, dy), by_autodiff(params, x, dy), terms=30)


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {"flatten"}))  # of any dtype
def test_backward_refuses_what_is_no_cotangent_of_the_output(name):
    """Under JAX a rule's bwd gets checked cotangents only; `backward` takes anybody's."""
    layer, shape, _ = LAYERS[name]
    params = layer.init(jax.random.key(0), shape)
    y, residuals = layer.forward(params, jnp.ones(shape))
    start = f"layers.{name.split()[0]}: dy must be "
    with pytest.raises(ValueError, match=re.escape(f"{start}of shape {y.shape} (the output's)")):
        layer.backward(residuals, jnp.ones((*y.shape[:-1], 7)))
    for dy in (y.astype("bfloat16"), jnp.ones(y.shape, int), None):
        with pytest.raises(TypeError, match=f"^{start}"):
            layer.backward(residuals, dy)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_have_the_dtype_of_the_leg_and_depend_on_the_key(name):
    layer, shape, _ = LAYERS[name]
    one, again, other = (layer.init(jax.random.key(seed), shape) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert all(p.dtype == default_dtype() for p in jax.tree.leaves(one))
    for key in {"w", "c"} & one.keys():
        assert not np.array_equal(one[key], other[key])
    if "b" in one:
        np.testing.assert_array_equal(one["b"], np.zeros(one["b"].shape))


def test_weights_start_at_a_scale_that_keeps_activations_as_large_as_they_are():
    """Variance 2 / fan-in: relu halves the second moment, the weights double it."""
    key = jax.random.key(0)
    for layer, shape, fan_in in (
        (layers.dense(500), (1, 200), 200),
        (layers.conv(500, (3, 2)), (1, 4, 4, 30), 180),
        (layers.conv(500, (3, 2), groups=2), (1, 4, 4, 60), 180),
    ):
        w = layer.init(key, shape)["w"]
        # 90,000 numbers at least: their mean square errs by about 1 / sqrt(45,000) of itself.
        np.testing.assert_allclose(jnp.mean(w**2) * fan_in, 2, rtol=0.03)


def lenet():
    return jaxbp.sequential(
        layers.conv(2, 3),
        layers.relu(),
        layers.max_pool(2),
        layers.conv(3, 3, padding="VALID"),
        layers.relu(),
        layers.flatten(),
        layers.dense(4),
        layers.tanh(),
        layers.dense(2),
    )


SHAPE = (2, 6, 6, 1)
KEY = jax.random.key(0)


def test_a_network_names_its_layers_by_kind_and_number():
    params = lenet().init(jax.random.key(0), SHAPE)
    assert jax.tree.map(jnp.shape, params) == {
        "conv1": {"w": (3, 3, 1, 2), "b": (2,)},
        "conv2": {"w": (3, 3, 2, 3), "b": (3,)},
        "dense1": {"w": (3, 4), "b": (4,)},
        "dense2": {"w": (4, 2), "b": (2,)},
    }
    # Two layers of one shape start apart.
    twins = jaxbp.sequential(layers.dense(3), layers.dense(3)).init(jax.random.key(0), (1, 3))
    assert not np.array_equal(twins["dense1"]["w"], twins["dense2"]["w"])


def test_a_network_is_a_layer(rng):
    """(3.4) a network within a network gives what its layers in a row give."""
    inner = jaxbp.sequential(layers.dense(4), layers.tanh())
    nested = jaxbp.sequential(inner, layers.dense(2), jaxbp.sequential(layers.sigmoid()))
    flat = jaxbp.sequential(layers.dense(4), layers.tanh(), layers.dense(2), layers.sigmoid())
    own = nested.init(jax.random.key(0), (3, 5))
    assert own.keys() == {"network1", "dense1"}
    params = {"dense1": own["network1"]["dense1"], "dense2": own["dense1"]}
    x = numbers(rng, (3, 5))
    np.testing.assert_array_equal(nested.apply(own, x), flat.apply(params, x))
    y, residuals = nested.forward(own, x)
    grads, dx = nested.backward(residuals, jnp.ones_like(y))
    y, residuals = flat.forward(params, x)
    flat_grads, flat_dx = flat.backward(residuals, jnp.ones_like(y))
    np.testing.assert_array_equal(dx, flat_dx)
    np.testing.assert_array_equal(grads["network1"]["dense1"]["w"], flat_grads["dense1"]["w"])
    np.testing.assert_array_equal(grads["dense1"]["w"], flat_grads["dense2"]["w"])


def test_backward_gives_a_tree_like_the_parameters(rng):
    """(3.4): and the gradients of jax.grad, by the network's own forward and backward."""
    network = lenet()
    params = network.init(jax.random.key(0), SHAPE)
    x = numbers(rng, SHAPE)

    @jax.jit
    def by_hand(params, x, dy):
        y, residuals = network.forward(params, x)
        return y, network.backward(residuals, dy)

    y, pullback = jax.vjp(network.apply, params, x)
    dy = cotangent_like(y)
    value, cotangents = by_hand(params, x, dy)
    assert_trees_close(value, y, terms=100)
    assert_trees_close(cotangents, pullback(dy), terms=100)


CHAINS = {
    "a block": (layers.conv(3, 3), layers.relu(), layers.max_pool(2)),
    "a block that overlaps": (
        layers.conv(4, 2, stride=(2, 1), padding=1, dilation=2, groups=2, bias=False),
        layers.relu(),
        layers.max_pool((3, 2), stride=1),
    ),
    "other ties": (layers.conv(3, 3), layers.relu(), layers.max_pool(2, ties="all")),
    "padding in the pooling": (layers.conv(3, 3), layers.relu(), layers.max_pool(2, padding=1)),
    "a dilated pooling": (layers.conv(3, 3), layers.relu(), layers.max_pool(2, dilation=2)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_run_as_one_rule_is_its_layers_one_by_one(name, rng):
    """(5.5), (5.6): value and gradients of apply, in whole numbers, are those of the layers."""
    chain = CHAINS[name]
    network = jaxbp.sequential(layers.conv(2, 1, bias=False), *chain, layers.relu())
    x = jnp.asarray(rng.integers(-3, 4, (2, 6, 5, 1)), default_dtype())
    params = network.init(jax.random.key(0), x.shape)
    params = jax.tree.map(lambda p: jnp.asarray(rng.integers(-3, 4, p.shape), p.dtype), params)

    def one_by_one(params, x):
        for layer_name, layer in network.layers.items():
            x = layer.apply(params.get(layer_name, {}), x)
        return x

    @jax.jit
    def by_hand(params, x, dy):
        y, residuals = network.forward(params, x)
        return y, network.backward(residuals, dy)

    y, pullback = jax.vjp(network.apply, params, x)
    expected, expected_pullback = jax.vjp(one_by_one, params, x)
    dy = jnp.asarray(rng.integers(-3, 4, y.shape), y.dtype)
    swept, cotangents = by_hand(params, x, dy)
    for value in (y, swept):
        np.testing.assert_array_equal(value, expected)
    for ours in (pullback(dy), cotangents):
        jax.tree.map(np.testing.assert_array_equal, ours, expected_pullback(dy))


def test_only_the_librarys_own_layers_are_run_as_one_rule(rng):
    """A layer of one's own may be called relu: it is applied all the same."""
    own = jaxbp.Layer(
        lambda key, shape: {},
        lambda params, x: -x,
        lambda params, x: (-x, None),
        lambda residuals, dy: ({}, -dy),
        kind="relu",
    )
    network = jaxbp.sequential(layers.conv(2, 1), own, layers.max_pool(2))
    x = numbers(rng, (1, 2, 2, 1))
    params = network.init(jax.random.key(0), x.shape)
    expected = jaxbp.max_pool(-jaxbp.conv(x, **params["conv1"]), 2)
    np.testing.assert_array_equal(network.apply(params, x), expected)


def test_an_empty_network_is_the_identity(rng):
    network = jaxbp.sequential()
    x = numbers(rng, (2, 3))
    assert network.init(jax.random.key(0), x.shape) == {}
    assert network.apply({}, x) is x
    y, residuals = network.forward({}, x)
    assert network.backward(residuals, y) == ({}, x)


def test_anybodys_layer_takes_its_place(rng):
    """The four functions are enough; the name is a default."""
    double = jaxbp.Layer(
        lambda key, shape: {},
        lambda params, x: 2 * x,
        lambda params, x: (2 * x, None),
        lambda residuals, dy: ({}, 2 * dy),
    )
    network = jaxbp.sequential(layers.dense(3), double)
    x = numbers(rng, (2, 4))
    params = network.init(jax.random.key(0), x.shape)
    np.testing.assert_array_equal(network.apply(params, x), 2 * jaxbp.dense(x, **params["dense1"]))
    y, residuals = network.forward(params, x)
    assert_trees_close(
        network.backward(residuals, jnp.ones_like(y)),
        jax.vjp(network.apply, params, x)[1](jnp.ones_like(y)),
        terms=10,
    )
    init, apply, forward, backward = double  # a tuple of four, as its signature says
    assert apply({}, 1.0) == forward({}, 1.0)[0] == backward(None, 1.0)[1] == 2
    assert init(None, ()) == {}


def test_a_layer_with_another_init_is_what_it_was():
    def nines(key, shape):
        return jax.tree.map(lambda w: jnp.full_like(w, 9), layers.conv(2, 3).init(key, shape))

    for replace in (jaxbp.Layer._replace, getattr(copy, "replace", jaxbp.Layer._replace)):
        conv = replace(layers.conv(2, 3), init=nines)
        network = jaxbp.sequential(conv, layers.relu(), layers.max_pool(2))
        params = network.init(jax.random.key(0), (1, 4, 4, 1))
        assert (params["conv1"]["w"] == 9).all()
        program = jax.make_jaxpr(network.apply)(params, jnp.ones((1, 4, 4, 1)))
        assert "conv_relu_max_pool" in str(program)
        again = replace(network, init=nines)
        assert again.layers == network.layers


def test_a_layer_with_another_apply_is_no_rule(rng):
    """Not the block of (5.5), nor a network whose layers `backprop` would go through."""
    zero = layers.relu()._replace(apply=lambda params, x: jnp.zeros_like(x))
    network = jaxbp.sequential(layers.conv(2, 3), zero, layers.max_pool(2))
    params = network.init(jax.random.key(0), (1, 4, 4, 1))
    assert not network.apply(params, numbers(rng, (1, 4, 4, 1))).any()
    assert not network._replace(forward=network.forward).layers
    assert list(network.layers) == ["conv1", "relu1", "max_pool1"]


def test_a_batch_of_none():
    network = lenet()
    params = network.init(jax.random.key(0), SHAPE)
    x = jnp.zeros((0, *SHAPE[1:]))
    y, residuals = network.forward(params, x)
    grads, dx = network.backward(residuals, y)
    assert (y.shape, dx.shape) == ((0, 2), x.shape)
    jax.tree.map(lambda g, p: np.testing.assert_array_equal(g, jnp.zeros_like(p)), grads, params)


# What no rule of this layer takes: options of a bad kind, params of a bad shape, and inputs.
BAD_INPUTS = {
    "integers": lambda shape: jnp.ones(shape, jnp.uint8),
    "a list": lambda shape: [1.0, 2.0],
    "a scalar": lambda shape: jnp.zeros(()),
    "too many axes": lambda shape: jnp.ones((1, 1, 1, *shape)),
    "more channels": lambda shape: jnp.ones((*shape[:-1], shape[-1] + 2)),
    "another dtype": lambda shape: jnp.ones(shape, jnp.bfloat16),
}


def outcome(call):
    """What comes of a call: the error, or the shape and dtype of the result."""
    try:
        y = call()
    except Exception as error:
        return type(error), str(error)
    return y.shape, y.dtype


@pytest.mark.parametrize("bad", BAD_INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_refuses_what_apply_refuses(name, bad):
    """And in the same words, which come from the rule: nothing reaches XLA half-checked."""
    layer, shape, _ = LAYERS[name]
    params, x = layer.init(KEY, shape), BAD_INPUTS[bad](shape)
    by_apply = outcome(lambda: layer.apply(params, x))
    assert outcome(lambda: layer.forward(params, x)[0]) == by_apply
    if isinstance(by_apply[1], str):
        assert by_apply[0] in (TypeError, ValueError)
        assert re.match(r"(layers\.)?\w+: (x|w|beta|b|c|axis|groups) must be .*, got ", by_apply[1])


@pytest.mark.parametrize(
    "name", [name for name in LAYERS if "b" in LAYERS[name][0].init(KEY, (1, 4, 4, 4))]
)
def test_forward_refuses_a_bias_that_would_broadcast(name):
    layer, shape, _ = LAYERS[name]
    params = layer.init(KEY, shape) | {"b": jnp.ones(1)}
    with pytest.raises(ValueError, match=rf"^{name.split()[0]}: b must be of shape .*, got "):
        layer.forward(params, jnp.ones(shape))


BAD_OPTIONS = {
    "ties": (layers.max_pool(2, ties="last"), "max_pool: ties", ValueError),
    "window": (layers.max_pool((2, 2, 2)), "max_pool: window", ValueError),
    "divisor": (layers.avg_pool(2, count_include_pad=1), "avg_pool: count_include_pad", TypeError),
    "axis": (layers.softmax(9), "softmax: axis", ValueError),
    "axis of log_softmax": (layers.log_softmax("a"), "log_softmax: axis", TypeError),
    "slope": (layers.leaky_relu("a"), "leaky_relu: slope", TypeError),
    "approximate": (layers.gelu(1), "gelu: approximate", TypeError),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_forward_refuses_options_by_name(name):
    layer, start, kind = BAD_OPTIONS[name]
    for call in (layer.apply, layer.forward):
        with pytest.raises(kind, match=rf"^{start} must be .*, got .+"):
            call({}, jnp.ones(SHAPE))


BAD_CALLS = {
    "a layer not called": (
        lambda: jaxbp.sequential(layers.relu),
        r"sequential: layers\[0\]",
        TypeError,
    ),
    "a function": (
        lambda: jaxbp.sequential(layers.relu(), jnp.tanh),
        r"sequential: layers\[1\]",
        TypeError,
    ),
    "None": (lambda: jaxbp.sequential(None), r"sequential: layers\[0\]", TypeError),
    "features zero": (lambda: layers.dense(0), "layers.dense: features", ValueError),
    "features a float": (lambda: layers.conv(2.0, 3), "layers.conv: features", TypeError),
    "groups zero": (lambda: layers.conv(2, 3, groups=0), "layers.conv: groups", ValueError),
    "bias an int": (lambda: layers.conv(2, 3, bias=1), "layers.conv: bias", TypeError),
    "kernel of another rank": (
        lambda: layers.conv(2, (3, 3, 3)).init(KEY, SHAPE),
        "layers.conv: kernel",
        ValueError,
    ),
    "kernel a float": (
        lambda: layers.conv_transpose(2, 3.0).init(KEY, SHAPE),
        "layers.conv_transpose: kernel",
        TypeError,
    ),
    "input_shape an int": (lambda: lenet().init(KEY, 6), "sequential: input_shape", TypeError),
    "input_shape negative": (
        lambda: lenet().init(KEY, (2, -6, 6, 1)),
        "sequential: input_shape",
        ValueError,
    ),
    "input_shape without spatial axes": (
        lambda: jaxbp.sequential(layers.flatten(), layers.conv(4, 3)).init(KEY, SHAPE),
        "layers.conv: input_shape",
        ValueError,
    ),
    "input_shape flat for conv_transpose": (
        lambda: layers.conv_transpose(4, 3).init(KEY, (2, 36)),
        "layers.conv_transpose: input_shape",
        ValueError,
    ),
    "input_shape of four spatial axes": (
        lambda: layers.conv(4, 3).init(KEY, (1, 2, 2, 2, 2, 1)),
        "layers.conv: input_shape",
        ValueError,
    ),
    "input_shape of no axis": (
        lambda: layers.dense(4).init(KEY, ()),
        "layers.dense: input_shape",
        ValueError,
    ),
    "input_shape None": (
        lambda: layers.dense(4).init(KEY, None),
        "layers.dense: input_shape",
        TypeError,
    ),
    "input_shape of a map alone": (
        lambda: layers.subsample(2).init(KEY, (3,)),
        "layers.subsample: input_shape",
        ValueError,
    ),
    "input_shape flat for combine_maps": (
        lambda: layers.combine_maps(2).init(KEY, (2, 3)),
        "layers.combine_maps: input_shape",
        ValueError,
    ),
    "groups that do not divide the channels": (
        lambda: layers.conv(4, 3, groups=2).init(KEY, (1, 5, 5, 3)),
        "layers.conv: groups",
        ValueError,
    ),
    "groups that do not divide the features": (
        lambda: layers.conv(5, 3, groups=2).init(KEY, (1, 5, 5, 4)),
        "layers.conv: groups",
        ValueError,
    ),
    "groups that do not divide the transposed features": (
        lambda: layers.conv_transpose(5, 3, groups=2).init(KEY, (1, 5, 5, 4)),
        "layers.conv_transpose: groups",
        ValueError,
    ),
    "params of another network": (
        lambda: lenet().apply({"conv9": {}}, jnp.ones(SHAPE)),
        "sequential: params",
        ValueError,
    ),
    "params a list": (
        lambda: lenet().forward([], jnp.ones(SHAPE)),
        "sequential: params",
        ValueError,
    ),
    "params missing": (
        lambda: lenet().apply({}, jnp.ones(SHAPE)),
        "layers.conv: params",
        ValueError,
    ),
    "params without bias": (
        lambda: layers.dense(2).apply({"w": jnp.ones((3, 2))}, jnp.ones((1, 3))),
        "layers.dense: params",
        ValueError,
    ),
    "params with too much": (
        lambda: layers.dense(2, bias=False).apply(
            {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, jnp.ones((1, 3))
        ),
        "layers.dense: params",
        ValueError,
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name):
    call, start, kind = BAD_CALLS[name]
    with pytest.raises(kind, match=rf"^{start} must be .*, got .+"):
        call()
