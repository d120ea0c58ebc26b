"""`interop.equinox`: subclasses with Equinox's parameters and numbers, under the same vmap."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.accelerate import accelerate
from jaxbp.explain import explain
from jaxbp.interop import equinox as interop
from tests.interop.layers import assert_same
from tests.tolerance import assert_trees_close

eqx = pytest.importorskip("equinox", reason="Equinox is an extra")

KEY = jax.random.key(0)
MODULES = {
    "Conv": ((2, 3, 4, 3), {"stride": 2, "padding": 1, "key": KEY}, 2),
    "Conv1d": ((3, 4, 3), {"dilation": 2, "key": KEY}, 1),
    "Conv2d": ((3, 6, (3, 2)), {"groups": 3, "use_bias": False, "key": KEY}, 2),
    "Conv3d": ((3, 2, 2), {"key": KEY}, 3),
    "ConvTranspose2d": ((3, 4, 3), {"stride": 2, "output_padding": 1, "key": KEY}, 2),
    "MaxPool1d": ((3,), {"stride": 2}, 1),
    "MaxPool2d": ((2,), {"padding": 1}, 2),
    "MaxPool3d": ((2,), {}, 3),
    "AvgPool2d": ((3,), {"stride": 2}, 2),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, rng):
    args, options, axes = MODULES[name]
    ours, theirs = (getattr(m, name)(*args, **options) for m in (interop, eqx.nn))
    assert isinstance(ours, type(theirs))
    assert type(ours).__name__ == name
    assert isinstance(ours, interop.Conv) == isinstance(theirs, eqx.nn.Conv)
    assert isinstance(ours, interop.ConvTranspose) == isinstance(theirs, eqx.nn.ConvTranspose)
    x = jnp.asarray(rng.normal(size=(2, 3, *(7, 6, 5)[:axes])), float)
    results = [
        eqx.filter_jit(eqx.filter_value_and_grad(loss))((_as(module, x.dtype), x))
        for module in (ours, theirs)
    ]
    leaves = [jax.tree.leaves(eqx.filter(result, eqx.is_array)) for result in results]
    assert len(leaves[0]) >= 2
    assert_trees_close(*leaves, terms=2000)


LAYERS = {
    "1-D depthwise": ("Conv1d", (4, 8, 3), {"groups": 4, "padding": "SAME"}, "conv"),
    "2-D depthwise, strided": ("Conv2d", (4, 4, 3), {"groups": 4, "stride": (2, 1)}, "conv"),
    "3-D groups, dilated": ("Conv3d", (4, 2, 2), {"groups": 2, "dilation": (1, 2, 1)}, "conv"),
    "circular": ("Conv2d", (4, 4, 3), {"padding": "SAME", "padding_mode": "CIRCULAR"}, "conv"),
    "1-D transposed": ("ConvTranspose1d", (4, 2, 5), {"groups": 2, "stride": 3}, "conv_transpose"),
    "2-D transposed depthwise": (
        "ConvTranspose2d",
        (4, 4, 3),
        {"groups": 4, "stride": 2, "padding": 1, "output_padding": 1},
        "conv_transpose",
    ),
    "3-D transposed": (
        "ConvTranspose3d",
        (4, 2, 2),
        {"groups": 2, "stride": (1, 2, 2), "dilation": 2},
        "conv_transpose",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_accelerate_grouped_layers(float64, name, rng):
    kind, args, options, rule = LAYERS[name]
    layer = getattr(eqx.nn, kind)(*args, **options, key=KEY, dtype=float)
    params, static = eqx.partition(layer, eqx.is_array)
    x = jnp.asarray(rng.normal(size=(2, 4, *(7, 6, 5)[: layer.num_spatial_dims])))

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    (entry,) = explain(apply, params, x).entries
    assert entry.rule == rule
    assert len(entry.sums) == 3
    assert_same(apply, params, x)


def loss(module_and_x):
    module, x = module_and_x
    return jnp.sum(jax.vmap(module)(x) ** 3)


def _as(module, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, module)


def test_by_number_of_axes():
    assert isinstance(interop.MaxPool(2, 3, stride=2), eqx.nn.MaxPool2d)
    assert isinstance(interop.AvgPool(1, 3), eqx.nn.AvgPool1d)
    with pytest.raises(AttributeError, match="no attribute 'Linear'"):
        _ = interop.Linear


def test_accelerate_the_example_s_network(rng):
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 3, 4, key=KEY),
            eqx.nn.MaxPool2d(2),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(3 * 6 * 6, 10, key=KEY),
        ]
    )
    x = jnp.asarray(rng.normal(size=(2, 1, 10, 10)), float)
    model = _as(model, x.dtype)
    (entry,) = explain(lambda x: jax.vmap(model)(x), x).entries
    assert entry.rule == "conv_relu_max_pool"
    results = [eqx.filter_jit(eqx.filter_grad(f))((model, x)) for f in (accelerate(loss), loss)]
    leaves = [jax.tree.leaves(eqx.filter(r, eqx.is_array)) for r in results]
    assert_trees_close(*leaves, terms=3000)
