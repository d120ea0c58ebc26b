"""`jax.export` with sizes not known yet: one program for all of them, with lax's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxbp
from jaxbp import layers, lowering
from tests.rules.geometry import numbers
from tests.tolerance import assert_trees_close
from tests.transforms import PLATFORMS

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = 2


def lax_conv(x, w, b=None, *, stride=1, padding="SAME", groups=1):
    y = lax.conv_general_dilated(
        x, w, (stride,) * 2, padding, dimension_numbers=LAYOUT, feature_group_count=groups
    )
    return y if b is None else y + b.reshape(1, 1, 1, -1)


def lax_max_pool(x, size, stride, padding="VALID"):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def lax_avg_pool(x, size, stride, padding, cells):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / cells


def lax_cross_entropy(logits, labels):
    return -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)


NETWORK = jaxbp.sequential(
    layers.conv(3, 3),
    layers.relu(),
    layers.max_pool(2),
    layers.conv(4, 3, stride=2),
    layers.tanh(),
    layers.global_avg_pool(),
    layers.dense(3),
)


def lax_network(x, w1, b1, w2, b2, w3, b3):
    y = lax_max_pool(jax.nn.relu(lax_conv(x, w1, b1)), 2, 2)
    y = jnp.tanh(lax_conv(y, w2, b2, stride=2))
    return jnp.mean(y, axis=(1, 2)) @ w3 + b3.reshape(1, -1)


def network_params(w1, b1, w2, b2, w3, b3):
    weights = {"conv1": (w1, b1), "conv2": (w2, b2), "dense1": (w3, b3)}
    return {name: {"w": w, "b": b} for name, (w, b) in weights.items()}


NETWORK_WEIGHTS = ((3, 3, CHANNELS, 3), (3,), (3, 3, 3, 4), (4,), (4, 3), (3,))
IMAGE, ROW = (10, 9, CHANNELS), (5,)

# Ours, lax's, the shape of an example of the input, and the shapes of the other arguments.
CASES = {
    "conv": (jaxbp.conv, lax_conv, IMAGE, ((3, 3, CHANNELS, 4), (4,))),
    "conv, strided": (
        lambda x, w: jaxbp.conv(x, w, stride=2),
        lambda x, w: lax_conv(x, w, stride=2),
        IMAGE,
        ((3, 3, CHANNELS, 4),),
    ),
    "conv, of many channels": (jaxbp.conv, lax_conv, (30, 30, 64), ((3, 3, 64, 64),)),
    "conv, pointwise": (jaxbp.conv, lax_conv, IMAGE, ((1, 1, CHANNELS, 4), (4,))),
    "conv, groups, cropped": (
        lambda x, w: jaxbp.conv(x, w, groups=2, padding=((-1, 2), (1, -1))),
        lambda x, w: lax_conv(x, w, groups=2, padding=((-1, 2), (1, -1))),
        IMAGE,
        ((3, 3, 1, 4),),
    ),
    "conv_transpose": (
        lambda x, w: jaxbp.conv_transpose(x, w, stride=2),
        lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", transpose_kernel=True),
        IMAGE,
        ((3, 3, 4, CHANNELS),),
    ),
    "max_pool": (lambda x: jaxbp.max_pool(x, 2), lambda x: lax_max_pool(x, 2, 2), IMAGE, ()),
    "max_pool, overlapping": (
        lambda x: jaxbp.max_pool(x, 3, stride=2, padding="SAME"),
        lambda x: lax_max_pool(x, 3, 2, "SAME"),
        IMAGE,
        (),
    ),
    "max_pool, many cells": (
        lambda x: jaxbp.max_pool(x, 9, stride=1, padding="SAME"),
        lambda x: lax_max_pool(x, 9, 1, "SAME"),
        IMAGE,
        (),
    ),
    "max_pool, many cells, ties split": (
        lambda x: jaxbp.max_pool(x, 9, stride=1, padding="SAME", ties="split"),
        lambda x: lax_max_pool(x, 9, 1, "SAME"),
        IMAGE,
        (),
    ),
    "avg_pool": (
        lambda x: jaxbp.avg_pool(x, 3, stride=2, padding=1),
        lambda x: lax_avg_pool(x, 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0)), 9),
        IMAGE,
        (),
    ),
    "avg_pool, of the input's cells": (
        lambda x: jaxbp.avg_pool(x, 3, stride=2, padding="SAME", count_include_pad=False),
        lambda x: lax_avg_pool(x, 3, 2, "SAME", lax_avg_pool(jnp.ones_like(x), 3, 2, "SAME", 1.0)),
        IMAGE,
        (),
    ),
    "conv_relu_max_pool": (
        jaxbp.conv_relu_max_pool,
        lambda x, w, b: lax_max_pool(jax.nn.relu(lax_conv(x, w, b)), 2, 2),
        IMAGE,
        ((3, 3, CHANNELS, 4), (4,)),
    ),
    "subsample": (
        lambda x, beta, b: jaxbp.subsample(x, beta, b, 2),
        lambda x, beta, b: (
            lax_avg_pool(x, 2, 2, "VALID", 4.0) * beta.reshape(1, 1, 1, -1) + b.reshape(1, 1, 1, -1)
        ),
        IMAGE,
        ((CHANNELS,), (CHANNELS,)),
    ),
}
# Where sizes are summed over altogether, or have no names.
OF_KNOWN_PLACES = {
    "global_avg_pool": (jaxbp.global_avg_pool, lambda x: jnp.mean(x, axis=(1, 2)), IMAGE, ()),
    "global_max_pool": (jaxbp.global_max_pool, lambda x: jnp.max(x, axis=(1, 2)), IMAGE, ()),
    "dense": (jaxbp.dense, lambda x, w, b: x @ w + b.reshape(1, -1), ROW, ((5, 3), (3,))),
    "half_squared_error": (
        lambda y: jaxbp.half_squared_error(y, jnp.zeros_like(y)),
        lambda y: jnp.sum(y**2, axis=-1) / 2,
        ROW,
        (),
    ),
    "softmax_cross_entropy": (
        lambda y: jaxbp.softmax_cross_entropy(y, jnp.ones_like(y)),
        lambda y: lax_cross_entropy(y, jnp.ones_like(y)),
        ROW,
        (),
    ),
    "softmax_cross_entropy, labels": (
        lambda y: jaxbp.softmax_cross_entropy(y, jnp.full(y.shape[:1], 2)),
        lambda y: -jax.nn.log_softmax(y)[:, 2],
        ROW,
        (),
    ),
    "sigmoid_cross_entropy": (
        lambda y: jaxbp.sigmoid_cross_entropy(y, jnp.ones_like(y)),
        lambda y: -jax.nn.log_sigmoid(y),
        ROW,
        (),
    ),
    "a network": (
        lambda x, *weights: NETWORK.apply(network_params(*weights), x),
        lax_network,
        IMAGE,
        NETWORK_WEIGHTS,
    ),
}


def with_gradients(function):
    def value_and_gradients(*args):
        y, pullback = jax.vjp(function, *args)
        return y, pullback(jnp.cos(y))

    return value_and_gradients


def exported(function, names, constraints, *args):
    """The function as a program for any first argument of the shape that the names spell."""
    shape = export.symbolic_shape(names, constraints=constraints)
    avals = [jax.ShapeDtypeStruct(shape, args[0].dtype)]
    avals += [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args[1:]]
    return export.export(jax.jit(function), platforms=PLATFORMS)(*avals)


def check(case, names, constraints, shapes, rng):
    ours, theirs, _, others = case
    scale = [float(np.sqrt(np.prod(s[:-1]))) for s in others]  # so that sums stay near one
    weights = [numbers(rng, s) / c for s, c in zip(others, scale, strict=True)]
    xs = [numbers(rng, shape) for shape in shapes]
    program = exported(with_gradients(ours), names, constraints, xs[0], *weights)
    for x in xs:
        expected = jax.jit(with_gradients(theirs))(x, *weights)
        # A gradient sums over examples and places, of numbers that are sums over kernels.
        terms = 4 * (x.size // x.shape[-1] + sum(w.size // w.shape[-1] for w in weights))
        assert_trees_close(program.call(x, *weights), expected, terms=terms)


@pytest.mark.parametrize("name", CASES | OF_KNOWN_PLACES)
def test_a_batch_not_known(name, rng):
    case = (CASES | OF_KNOWN_PLACES)[name]
    shape = case[2]
    names = ", ".join(["n", *map(str, shape)])
    check(case, names, (), [(n, *shape) for n in (3, 1)], rng)


@pytest.mark.parametrize("name", [name for name in CASES if "many channels" not in name])
def test_places_not_known(name, rng):
    """Every window fits in, which jax wants to be told of windows without padding."""
    case = CASES[name]
    shapes = [(2, 10, 9, CHANNELS), (1, 4, 7, CHANNELS)]
    check(case, f"n, h, w, {CHANNELS}", ("h >= 4", "w >= 4"), shapes, rng)


def test_places_not_known_of_a_global_pool():
    for pool in (jaxbp.global_avg_pool, jaxbp.global_max_pool):
        with pytest.raises(ValueError, match=rf"^{pool.__name__}: x must be .* known .*, got "):
            exported(pool, "n, h, w, 2", (), jnp.ones((1, 2, 2, 2)))


def test_a_sweep_over_a_batch_not_known(rng):
    """`backprop` exported is `jax.grad` of lax's own network."""
    weights = [numbers(rng, s) / 4 for s in NETWORK_WEIGHTS]

    def ours(x, *weights):
        params = network_params(*weights)
        labels = jnp.full(x.shape[:1], 1)
        sweep = jaxbp.backprop(NETWORK, jaxbp.softmax_cross_entropy, params, x, labels)
        return sweep.loss, sweep.grads

    def theirs(x, *weights):
        def loss(params):
            arrays = [params[name][key] for name in params for key in ("w", "b")]
            return -jnp.sum(jax.nn.log_softmax(lax_network(x, *arrays))[:, 1])

        return jax.value_and_grad(loss)(network_params(*weights))

    xs = [numbers(rng, (n, *IMAGE)) for n in (3, 1)]
    program = exported(ours, f"n, {', '.join(map(str, IMAGE))}", (), xs[0], *weights)
    for x in xs:
        expected = jax.jit(theirs)(x, *weights)
        assert_trees_close(program.call(x, *weights), expected, terms=400)


def test_a_strategy_that_needs_sizes_is_not_forced_where_they_are_not_known(rng):
    x, w = numbers(rng, (2, 8, 8, 3)), numbers(rng, (3, 3, 3, 4))
    with lowering.use("winograd"):
        program = exported(jaxbp.conv, "n, 8, 8, 3", (), x, w)
    assert_trees_close(program.call(x, w), lax_conv(x, w), terms=60)
