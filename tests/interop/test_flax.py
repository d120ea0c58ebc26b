"""`interop.flax` and `accelerate` with linen and NNX."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.accelerate import accelerate
from jaxbp.explain import explain
from jaxbp.interop import flax as interop
from jaxbp.plain import plain
from tests.daily import sample
from tests.interop.layers import assert_same
from tests.tolerance import assert_trees_close

linen = pytest.importorskip("flax.linen", reason="Flax is an extra")
nnx = pytest.importorskip("flax.nnx")


class CNN(linen.Module):
    """The layers of Flax's MNIST example, and a block with max-pool before them."""

    conv: dict

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), **self.conv)(x)
        x = linen.max_pool(linen.relu(x), (2, 2), strides=(2, 2))
        x = linen.Conv(5, (3, 3), strides=(2, 1), **self.conv)(x)
        x = linen.avg_pool(linen.relu(x), (2, 2), strides=(1, 1), padding="SAME")
        x = linen.ConvTranspose(3, (3, 3), strides=(2, 2))(x)
        return linen.Dense(10)(x.reshape(x.shape[0], -1))


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=(2, 8, 8, 2)), float)


def grads(loss, params, x):
    return jax.jit(jax.grad(lambda p: jnp.sum(loss(p, x) ** 2)))(params)


def test_accelerate_linen(x):
    model = CNN({})
    params = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: a.astype(x.dtype), params)
    found = [entry.rule for entry in explain(model.apply, params, x).entries]
    assert found == ["conv_relu_max_pool", "conv", "avg_pool", "conv_transpose"]
    plain, fast = grads(model.apply, params, x), grads(accelerate(model.apply), params, x)
    assert_trees_close(fast, plain, terms=3000)


LAYERS = {
    "depthwise": ("Conv", {"feature_group_count": 4}, "conv"),
    "multiplier, strided": ("Conv", {"feature_group_count": 4, "strides": (2, 1)}, "conv"),
    "groups, circular": ("Conv", {"feature_group_count": 2, "padding": "CIRCULAR"}, "conv"),
    "dilated": ("Conv", {"feature_group_count": 2, "kernel_dilation": (2, 1)}, "conv"),
    "input dilated": (
        "Conv",
        {"input_dilation": (2, 1), "padding": [(2, 1)] * 2},
        "conv_transpose",
    ),
    "both": ("Conv", {"input_dilation": 2, "strides": 3, "padding": [(2, 1)] * 2}, "conv"),
    "transposed": ("ConvTranspose", {"strides": (2, 1)}, "conv_transpose"),
    "transposed, circular": (
        "ConvTranspose",
        {"strides": (2, 2), "padding": "CIRCULAR", "transpose_kernel": True},
        "conv_transpose",
    ),
    "transposed, turned": ("ConvTranspose", {"transpose_kernel": True}, "conv"),
}


@pytest.mark.parametrize(
    ("name", "api"), sample([(name, api) for name in LAYERS for api in ("linen", "nnx")], every=3)
)
def test_grouped_and_transposed_layers(float64, name, api, rng):
    kind, options, rule = LAYERS[name]
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 4)))
    options = {"features": 8, "kernel_size": (3, 3), **options}
    if api == "linen":
        layer = getattr(linen, kind)(**options, param_dtype=float)
        apply, params = layer.apply, layer.init(jax.random.key(0), x)
    else:
        options["out_features"] = options.pop("features")
        layer = getattr(nnx, kind)(4, **options, param_dtype=float, rngs=nnx.Rngs(0))
        graph, params = nnx.split(layer)

        def apply(params, x):
            return nnx.merge(graph, params)(x)

    (entry,) = explain(apply, params, x).entries
    assert entry.rule == rule
    assert len(entry.sums) == 3
    assert_same(apply, params, x)


def test_causal_and_mapped_layers(float64, rng):
    """One axis, padded before only; each member of an ensemble with its own kernel."""
    layer = linen.Conv(6, (3,), padding="CAUSAL", kernel_dilation=2, feature_group_count=3)
    x = jnp.asarray(rng.normal(size=(2, 2, 9, 3)))
    params = jax.vmap(layer.init, (0, None))(jax.random.split(jax.random.key(0)), x[0])
    params = jax.tree.map(lambda a: a.astype(float), params)
    members = jax.vmap(layer.apply)
    (entry,) = explain(members, params, x).entries
    assert (entry.rule, len(entry.sums)) == ("conv", 3)
    assert_same(members, params, x)


@pytest.mark.parametrize("option", ["conv_general_dilated", "conv_general_dilated_cls"])
def test_linen_takes_the_convolution(option, x):
    convolve = interop.conv_general_dilated
    model = CNN({option: convolve if option == "conv_general_dilated" else lambda: convolve})
    params = CNN({}).init(jax.random.key(0), x)
    assert str(jax.make_jaxpr(model.apply)(params, x)).count("name=jaxbp_conv") == 2
    plain, fast = grads(CNN({}).apply, params, x), grads(model.apply, params, x)
    assert_trees_close(fast, plain, terms=3000)


def test_nnx_takes_the_convolution(x):
    plain, fast = (
        nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0), **options)
        for options in ({}, {"conv_general_dilated": interop.conv_general_dilated})
    )
    ours, theirs = (nnx.grad(lambda m: jnp.sum(m(x) ** 2))(m) for m in (fast, plain))
    assert_trees_close(jax.tree.leaves(ours), jax.tree.leaves(theirs), terms=300)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pooling(name, x):
    ours, theirs = getattr(interop, name), getattr(linen, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    options = [((2, 2),), ((3, 2), (2, 1), "SAME"), ((2, 2), (1, 2), [(1, 0), (0, 1)])]
    for option in options:
        pair = [
            jax.value_and_grad(lambda x, f=f, o=option: jnp.sum(f(x, *o) ** 3))(x)
            for f in (ours, theirs)
        ]
        assert_trees_close(*pair, terms=100)
    assert "jaxbp" in str(jax.make_jaxpr(lambda x: ours(x, (2, 2)))(x))
    assert ours(x[0], (2, 2)).shape == theirs(x[0], (2, 2)).shape  # one example, without a batch


def test_avg_pool_without_the_padding(x):
    option = ((3, 3), (2, 2), "SAME", False)
    np.testing.assert_allclose(
        interop.avg_pool(x, *option), linen.avg_pool(x, *option), rtol=1e-6, atol=1e-6
    )


class Normalised(nnx.Module):
    def __init__(self):
        # A bias before a batch norm has no gradient but rounding.
        self.conv = nnx.Conv(2, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.conv(x))


def loss(model, x):
    return jnp.sum(model(x) ** 3)


def test_nnx_modules_keep_their_state(x):
    x = x.astype("float32")  # as Flax keeps its averages, whatever the mode
    plain, fast = Normalised(), Normalised()
    theirs = nnx.value_and_grad(loss)(plain, x)
    ours = nnx.value_and_grad(interop.accelerate(loss))(fast, x)
    assert_trees_close(jax.tree.leaves(ours), jax.tree.leaves(theirs), terms=3000)
    ours, theirs = (jax.tree.leaves(nnx.state(m, nnx.BatchStat)) for m in (fast, plain))
    assert_trees_close(ours, theirs, terms=300)
    assert float(jnp.abs(theirs[0]).max()) > 0


def changed(model, x):
    y = model(x)
    model.eval()
    model.seen = x.shape
    model.kept = nnx.Intermediate(y)
    model.first = model.conv
    del model.conv
    return y, model.norm, model.first, "a name"


def test_nnx_modules_are_left_as_the_function_leaves_them(x):
    x = x.astype("float32")
    for function in (changed, interop.accelerate(changed)):
        model = Normalised()
        y, norm, conv, name = function(model, x)
        assert (norm is model.norm, conv is model.first, name) == (True, True, "a name")
        assert model.norm.use_running_average
        assert model.seen == x.shape
        assert not hasattr(model, "conv")
        np.testing.assert_array_equal(model.kept.get_value(), y)


@pytest.mark.parametrize("change", [lambda m: m.eval(), lambda m: setattr(m, "seen", 1)])
def test_a_static_change_of_a_module_is_never_lost_silently(change):
    with pytest.raises(TypeError, match=r"interop\.flax\.accelerate"):
        accelerate(change)(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))


def test_changed_variables_of_a_module_are_never_lost_silently(x):
    x = x.astype("float32")  # as Flax keeps its averages, whatever the mode
    with pytest.raises(TypeError, match=r"interop\.flax\.accelerate"):
        accelerate(loss)(Normalised(), x)
    conv = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))  # which changes nothing
    assert jnp.isfinite(accelerate(loss)(conv, x))


def doubled(variable):
    variable[...] = 2 * variable[...]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: nnx.Rngs(0), lambda r: r.normal((2,))),
        (lambda: nnx.metrics.Average(), lambda m: m.reset()),
        (lambda: nnx.Variable(jnp.ones(3)), doubled),
    ],
)
def test_changes_of_what_is_no_module_are_never_lost_silently(make, change):
    with pytest.raises(TypeError, match=r"accelerate: .*interop\.flax\.accelerate"):
        accelerate(change)(make())
    with pytest.raises(TypeError, match="plain: "):
        plain(change)(make())


@pytest.mark.parametrize("accelerate", [accelerate, interop.accelerate])
def test_a_state_is_passed_on_as_the_functional_api_has_it(accelerate):
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)

    def step(state, x):
        merged = nnx.merge(graph, state)
        return merged(x), nnx.state(merged)

    x = jnp.arange(6.0, dtype="float32").reshape(2, 3)
    _, new = accelerate(step)(state, x)
    np.testing.assert_array_equal(new["mean"][...], step(state, x)[1]["mean"][...])


def test_a_state_goes_through_a_jitted_gradient():
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    module.eval()
    graph, params, others = nnx.split(module, nnx.Param, ...)

    def step(params, others, x):
        merged = nnx.merge(graph, params, others)
        return (merged(x) ** 2).sum(), nnx.state(merged)

    x = jnp.ones((2, 3), "float32")
    grads = [
        jax.jit(jax.grad(f, has_aux=True))(params, others, x)[0]
        for f in (interop.accelerate(step), step)
    ]
    assert_trees_close(*grads, terms=10)


def test_explain_of_a_module_that_changes(x):
    x = x.astype("float32")
    (entry,) = explain(loss, Normalised(), x).replaced
    assert entry.rule == "conv"
    (entry,) = explain(interop.accelerate(loss), Normalised(), x).left_alone
    assert entry.reason == "it is a rule of jaxbp already"
