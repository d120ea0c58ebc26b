"""`interop.haiku` and `accelerate` with Haiku's transformed functions."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from jaxbp.accelerate import accelerate
from jaxbp.explain import explain
from jaxbp.interop import haiku as interop
from tests.interop.layers import assert_same
from tests.tolerance import assert_trees_close

hk = pytest.importorskip("haiku", reason="Haiku is an extra")


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pooling(name, rng):
    ours, theirs = getattr(interop, name), getattr(hk, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    x = jnp.asarray(rng.normal(size=(2, 3, 7, 6)), float)
    for option in [
        ((2, 2, 1), (2, 2, 1), "VALID"),
        ((1, 3, 2, 1), (1, 2, 1, 1), "SAME"),
        ((1, 2, 3), (1, 2, 1), "SAME", 1),
    ]:
        pair = [
            jax.value_and_grad(lambda x, f=f, o=option: jnp.sum(f(x, *o) ** 3))(x)
            for f in (ours, theirs)
        ]
        assert_trees_close(*pair, terms=100)
    assert "jaxbp" in str(jax.make_jaxpr(lambda x: ours(x, (2, 2, 1), (2, 2, 1), "VALID"))(x))


def network(x):
    x = hk.Conv2D(4, 3, stride=2, with_bias=False)(x)
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training=True)
    x = hk.max_pool(jax.nn.relu(x), (3, 3, 1), (2, 2, 1), "SAME")
    x = hk.Conv2DTranspose(4, 3, stride=2)(x)
    x = hk.Conv1D(5, 2, data_format="NCW")(x.reshape(x.shape[0], 4, -1))
    return hk.Linear(10)(hk.Flatten()(x))


def test_accelerate_with_state(rng):
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), float)
    transformed = hk.transform_with_state(network)
    params, state = transformed.init(jax.random.key(0), x)

    def loss(params, state, x):
        y, state = transformed.apply(params, state, None, x)
        return jnp.sum(y**2), state

    found = [entry.rule for entry in explain(loss, params, state, x).entries]
    assert found == ["conv", "max_pool", "conv_transpose", "conv"]
    fast, plain = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(params, state, x)
        for f in (accelerate(loss), loss)
    )
    counters = [leaf for leaf in jax.tree.leaves(fast) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counters == [1, 1]  # of the two moving averages
    assert_trees_close(_floats(fast), _floats(plain), terms=5000)


LAYERS = {
    "DepthwiseConv1D": (lambda: hk.DepthwiseConv1D(2, 3, stride=2), 1, ["conv"]),
    "DepthwiseConv2D": (lambda: hk.DepthwiseConv2D(1, 3, rate=(2, 1)), 2, ["conv"]),
    "DepthwiseConv2D, NCHW": (
        lambda: hk.DepthwiseConv2D(2, (3, 2), data_format="NCHW", padding="VALID"),
        2,
        ["conv"],
    ),
    "DepthwiseConv3D": (lambda: hk.DepthwiseConv3D(2, 2), 3, ["conv"]),
    "SeparableDepthwiseConv2D": (
        lambda: hk.SeparableDepthwiseConv2D(2, 3, stride=(2, 1)),
        2,
        ["conv", "conv"],
    ),
    "Conv1DTranspose": (lambda: hk.Conv1DTranspose(3, 4, stride=3), 1, ["conv_transpose"]),
    "Conv2DTranspose": (
        lambda: hk.Conv2DTranspose(3, 3, stride=(1, 2), data_format="NCHW"),
        2,
        ["conv_transpose"],
    ),
    "Conv3DTranspose": (lambda: hk.Conv3DTranspose(3, 2, stride=2), 3, ["conv_transpose"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_accelerate_depthwise_and_transposed_layers(float64, name, rng):
    make, axes, rules = LAYERS[name]
    transformed = hk.without_apply_rng(hk.transform(lambda x: make()(x)))
    x = jnp.asarray(rng.normal(size=(2, *(7, 6, 5)[:axes], 4)))
    params = transformed.init(jax.random.key(0), x)
    entries = explain(transformed.apply, params, x).entries
    assert [entry.rule for entry in entries] == rules
    assert {len(entry.sums) for entry in entries} == {3}
    assert_same(transformed.apply, params, x)


def _floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
