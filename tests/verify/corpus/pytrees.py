"""Trees of parameters, ill-scaled leaves, static and keyword arguments, several outputs."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.corpus.case import Family, integers, normal, rule, uniform

cases = Family("pytrees")


def mlp(params, x):
    hidden = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return hidden @ params["second"]["w"] + params["second"]["b"]


def mlp_fwd(params, x):
    hidden = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return hidden @ params["second"]["w"] + params["second"]["b"], (params, x, hidden)


def mlp_bwd(residuals, dy):
    params, x, hidden = residuals
    dz = dy @ params["second"]["w"].T * (1 - hidden * hidden)
    grads = {
        "first": {"w": x.T @ dz, "b": dz.sum(0)},
        "second": {"w": hidden.T @ dy, "b": dy.sum(0)},
    }
    return grads, dz @ params["first"]["w"].T


def mlp_inputs(rng):
    params = {
        "first": {"w": normal(rng, 3, 4), "b": normal(rng, 4)},
        "second": {"w": normal(rng, 4, 2), "b": normal(rng, 2)},
    }
    return params, normal(rng, 5, 3)


def with_leaf(layer, name, change):
    """The right gradients with one leaf changed."""

    def edit(grads, residuals, dy):
        changed = {outer: dict(inner) for outer, inner in grads.items()}
        changed[layer][name] = change(grads[layer][name], residuals, dy)
        return changed

    return {0: edit}


cases.right("mlp", mlp, mlp_fwd, mlp_bwd, mlp_inputs, "a tree of parameters")
cases.wrong(
    "mlp-one-bias-averaged",
    "params['first']['b']",
    "averaged",
    "one of four leaves is a mean",
    edit=with_leaf("first", "b", lambda d, res, dy: d / 5),
)
cases.wrong(
    "mlp-one-bias-zero",
    "params['second']['b']",
    "zero",
    "one of four leaves is zero",
    edit=with_leaf("second", "b", lambda d, res, dy: jnp.zeros_like(d)),
)
cases.wrong(
    "mlp-one-weight-sign",
    "params['second']['w']",
    "sign",
    "one of four leaves has its sign turned",
    edit=with_leaf("second", "w", lambda d, res, dy: -d),
)
cases.wrong(
    "mlp-activation-missing",
    "params['first']['w']",
    "missing-term",
    "tanh' is left out of one leaf",
    edit=with_leaf("first", "w", lambda d, res, dy: res[1].T @ (dy @ res[0]["second"]["w"].T)),
)
cases.wrong(
    "mlp-leaf-missing",
    (),
    "structure",
    "one leaf is left out of the tree",
    shows="structure",
    edit={0: lambda d, res, dy: {"first": d["first"]}},
)
cases.wrong(
    "mlp-tree-for-layer",
    (),
    "structure",
    "a layer comes as a tuple",
    shows="structure",
    edit={0: lambda d, res, dy: {**d, "first": tuple(d["first"].values())}},
)


class Affine(NamedTuple):
    """One layer."""

    w: Any
    b: Any


def stack(layers, x):
    for layer in layers:
        x = jnp.sin(x @ layer.w + layer.b)
    return x


def stack_fwd(layers, x):
    kept = []
    for layer in layers:
        z = x @ layer.w + layer.b
        kept.append((x, z))
        x = jnp.sin(z)
    return x, (layers, kept)


def stack_bwd(residuals, dy):
    layers, kept = residuals
    grads = []
    for layer, (x, z) in zip(reversed(layers), reversed(kept), strict=True):
        dz = dy * jnp.cos(z)
        grads.append(Affine(x.T @ dz, dz.sum(0)))
        dy = dz @ layer.w.T
    return grads[::-1], dy


def stack_inputs(rng):
    return [Affine(normal(rng, 3, 3), normal(rng, 3)) for _ in range(3)], normal(rng, 4, 3)


cases.right("layer-list", stack, stack_fwd, stack_bwd, stack_inputs, "a list of named tuples")
cases.wrong(
    "layer-list-reversed",
    ("layers[0].w", "layers[0].b", "layers[2].w", "layers[2].b"),
    "swapped-arguments",
    "the gradients come in the order of the sweep",
    edit={0: lambda d, res, dy: d[::-1]},
)
cases.wrong(
    "layer-list-middle-bias",
    "layers[1].b",
    "one-example",
    "one bias sees one example",
    edit={
        0: lambda d, res, dy: [
            d[0],
            Affine(
                d[1].w,
                jnp.zeros_like(d[1].b)
                + (dy * jnp.cos(res[1][2][1]) @ res[0][2].w.T * jnp.cos(res[1][1][1]))[0],
            ),
            d[2],
        ]
    },
)


def ill_scaled(params):
    return (params["big"] * 1e-6).sum() * jnp.ones(3, params["big"].dtype) + params["small"] * 1e6


def ill_scaled_bwd(params, dy):
    return ({"big": jnp.full_like(params["big"], dy.sum() * 1e-6), "small": dy * 1e6},)


cases.right(
    "ill-scaled-leaves",
    ill_scaled,
    lambda params: (ill_scaled(params), params),
    ill_scaled_bwd,
    lambda rng: ({"big": normal(rng, 4, scale=1e6), "small": normal(rng, 3, scale=1e-6)},),
    "gradients of 1e-6 beside gradients of 1e6",
)
cases.wrong(
    "ill-scaled-small-gradient",
    "params['big']",
    "scale",
    "the 1e-6 gradient is doubled",
    edit={0: lambda d, params, dy: {**d, "big": 2 * d["big"]}},
)
cases.wrong(
    "ill-scaled-small-zero",
    "params['big']",
    "zero",
    "the 1e-6 gradient is zero",
    edit={0: lambda d, params, dy: {**d, "big": 0 * d["big"]}},
)
cases.wrong(
    "ill-scaled-large-sign",
    "params['small']",
    "sign",
    "the 1e6 gradient has its sign turned",
    edit={0: lambda d, params, dy: {**d, "small": -d["small"]}},
)


def mixed_sizes(x, scale):
    return (x * scale).sum(1)


cases.right(
    "ill-scaled-columns",
    mixed_sizes,
    lambda x, scale: (mixed_sizes(x, scale), (x, scale)),
    lambda res, dy: (dy[:, None] * res[1], (dy[:, None] * res[0]).sum(0)),
    lambda rng: (normal(rng, 3, 4), jnp.asarray([1e6, 1.0, 1e-6, 1e-3], "float32")),
)
cases.wrong(
    "ill-scaled-column-lost",
    "x",
    "local",
    "the column of 1e-6 gets nothing",
    edit={0: lambda d, res, dy: d.at[:, 2].set(0)},
)
cases.wrong(
    "ill-scaled-column-sign",
    "x",
    ("local", "sign"),
    "the column of 1e-6 has its sign turned",
    edit={0: lambda d, res, dy: d.at[:, 2].multiply(-1)},
)


# Static and keyword arguments ------------------------------------------------------------------


def power_sum(x, n, axis):
    return (x**n).sum(axis)


def power_sum_bwd(n, axis, x, dy):
    return (n * x ** (n - 1) * jnp.expand_dims(dy, axis),)


def power_sum_case(name, wrong=None, **kwargs):
    bwd = power_sum_bwd if wrong is None else wrong

    def make():
        return rule(power_sum, lambda x, n, axis: (power_sum(x, n, axis), x), bwd, (1, 2))

    inputs = lambda rng: (uniform(rng, 3, 4, low=0.5, high=2), 3, 1)  # noqa: E731
    if wrong is None:
        cases.right(name, power_sum, None, None, inputs, "two static arguments", make=make)
    else:
        cases.wrong(name, make=make, **kwargs)


power_sum_case("static-power")
power_sum_case(
    "static-power-default",
    lambda n, axis, x, dy: (2 * x * jnp.expand_dims(dy, axis),),
    arguments="x",
    diagnosis="missing-term",
    why="the backward has the exponent 2 written in",
)
power_sum_case(
    "static-power-factor",
    lambda n, axis, x, dy: (x ** (n - 1) * jnp.expand_dims(dy, axis),),
    arguments="x",
    diagnosis="scale",
    why="the exponent in front is left out",
)


def windowed(x, *, size=2, mean=False):
    y = x.reshape(-1, size).sum(1)
    return y / size if mean else y


def keyword_rule(bwd):
    """A public function whose options are keywords, around a rule whose options are static."""

    def make():
        inner = rule(
            lambda x, size, mean: windowed(x, size=size, mean=mean),
            lambda x, size, mean: (windowed(x, size=size, mean=mean), None),
            bwd,
            (1, 2),
        )

        def pooled(x, *, size=2, mean=False):
            return inner(x, size, mean)

        return pooled

    return make


cases.right(
    "keyword-options",
    windowed,
    None,
    None,
    lambda rng: (normal(rng, 12),),
    "keyword arguments that are static",
    kwargs={"size": 3, "mean": True},
    reference=windowed,
    make=keyword_rule(lambda size, mean, _, dy: (jnp.repeat(dy, size) / (size if mean else 1),)),
)
cases.wrong(
    "keyword-ignored",
    "x",
    "scale",
    "the option mean is ignored in the backward",
    make=keyword_rule(lambda size, mean, _, dy: (jnp.repeat(dy, size),)),
)
cases.wrong(
    "keyword-window-squared",
    "x",
    "scale",
    "divided by the window's size twice",
    make=keyword_rule(lambda size, mean, _, dy: (jnp.repeat(dy, size) / size**2,)),
)


def keyword_array(x, *, scale):
    return x * scale


def keyword_array_rule(bwd):
    def make():
        inner = rule(lambda x, scale: x * scale, lambda x, scale: (x * scale, (x, scale)), bwd)

        def scaled(x, *, scale):
            return inner(x, scale)

        return scaled

    return make


cases.right(
    "keyword-array",
    keyword_array,
    None,
    None,
    lambda rng: (normal(rng, 4),),
    "an array handed over by keyword",
    kwargs={"scale": jnp.asarray([1.0, -2, 3, 0.5], "float32")},
    reference=keyword_array,
    make=keyword_array_rule(lambda res, dy: (dy * res[1], dy * res[0])),
)
cases.wrong(
    "keyword-array-sign",
    "scale",
    "sign",
    "the keyword argument's gradient has its sign turned",
    make=keyword_array_rule(lambda res, dy: (dy * res[1], -dy * res[0])),
)
cases.wrong(
    "keyword-array-zero",
    "scale",
    "zero",
    "the keyword argument gets nothing",
    make=keyword_array_rule(lambda res, dy: (dy * res[1], jnp.zeros_like(dy))),
)


def scaled_by(factor, x):
    return factor * jnp.sin(x)


cases.right(
    "partial",
    scaled_by,
    None,
    None,
    lambda rng: (normal(rng, 4),),
    "a functools.partial",
    reference=functools.partial(scaled_by, 3.0),
    make=lambda: functools.partial(
        rule(
            scaled_by,
            lambda factor, x: (scaled_by(factor, x), x),
            lambda factor, x, dy: (factor * jnp.cos(x) * dy,),
            (0,),
        ),
        3.0,
    ),
)
cases.wrong(
    "partial-factor",
    "x",
    "scale",
    "the bound factor is left out of the backward",
    make=lambda: functools.partial(
        rule(
            scaled_by,
            lambda factor, x: (scaled_by(factor, x), x),
            lambda factor, x, dy: (jnp.cos(x) * dy,),
            (0,),
        ),
        3.0,
    ),
)


# Several outputs -------------------------------------------------------------------------------


def mean_and_deviation(x):
    mean = x.mean(-1)
    return mean, jnp.sqrt(((x - mean[:, None]) ** 2).mean(-1))


def moments_bwd(residuals, cotangents):
    x, mean, deviation = residuals
    dmean, ddeviation = cotangents
    z = (x - mean[:, None]) / deviation[:, None]
    return ((dmean[:, None] + ddeviation[:, None] * z) / x.shape[1],)


cases.right(
    "two-outputs",
    mean_and_deviation,
    lambda x: (mean_and_deviation(x), (x, *mean_and_deviation(x))),
    moments_bwd,
    lambda rng: (normal(rng, 3, 5),),
    "a tuple of outputs",
)
cases.wrong(
    "two-outputs-second-ignored",
    "x",
    "missing-term",
    "the second output's cotangent is ignored",
    edit={0: lambda d, res, dy: jnp.broadcast_to(dy[0][:, None] / 5, d.shape)},
)
cases.wrong(
    "two-outputs-exchanged",
    "x",
    ("missing-term", "swapped-arguments"),
    "the two cotangents are exchanged",
    bwd=lambda res, dy: moments_bwd(res, dy[::-1]),
)


def value_and_index(x):
    return {"best": x.max(-1), "index": jnp.argmax(x, -1)}


def value_and_index_bwd(residuals, dy):
    x, index = residuals
    return (jnp.zeros_like(x).at[jnp.arange(x.shape[0]), index].set(dy["best"]),)


cases.right(
    "integer-output",
    value_and_index,
    lambda x: (value_and_index(x), (x, jnp.argmax(x, -1))),
    value_and_index_bwd,
    lambda rng: (normal(rng, 4, 3),),
    "a dict with an integer output",
)
cases.wrong(
    "integer-output-first",
    "x",
    "shifted",
    "the first column gets the gradient",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[:, 0].set(dy["best"])},
)


def optional(params, x):
    return x * params["w"] if params["b"] is None else x * params["w"] + params["b"]


cases.right(
    "none-leaf",
    optional,
    lambda params, x: (optional(params, x), (params, x)),
    lambda res, dy: ({"w": (dy * res[1]).sum(), "b": None}, dy * res[0]["w"]),
    lambda rng: ({"w": normal(rng), "b": None}, normal(rng, 4)),
    "a None among the leaves",
)
cases.wrong(
    "none-leaf-averaged",
    "params['w']",
    "averaged",
    "the scalar weight takes the mean",
    edit={0: lambda d, res, dy: {"w": (dy * res[1]).mean(), "b": None}},
)


def lookup_and_scale(table, ids, scale):
    return table[ids] * scale


def lookup_and_scale_bwd(residuals, dy):
    table, ids, scale = residuals
    return (
        jnp.zeros_like(table).at[ids].add(dy * scale),
        np.zeros(ids.shape, jax.dtypes.float0),
        (dy * table[ids]).sum(),
    )


cases.right(
    "integer-in-the-middle",
    lookup_and_scale,
    lambda table, ids, scale: (lookup_and_scale(table, ids, scale), (table, ids, scale)),
    lookup_and_scale_bwd,
    lambda rng: (normal(rng, 5), integers(rng, 5, 7), normal(rng)),
    "an integer array between two float ones",
)
cases.wrong(
    "integer-in-the-middle-averaged",
    "scale",
    "averaged",
    "the argument after it takes a mean",
    edit={2: lambda d, res, dy: d / 7},
)
