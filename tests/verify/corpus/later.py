"""Cases written after the checker was finished: they first measured it, and stay to hold it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from tests.verify.corpus.case import Family, integers, normal, rule, uniform

cases = Family("later")


# Slopes with a parameter -----------------------------------------------------------------------


def prelu(x, slope):
    return jnp.where(x > 0, x, slope * x)


cases.right(
    "prelu",
    prelu,
    lambda x, slope: (prelu(x, slope), (x, slope)),
    lambda res, dy: (
        jnp.where(res[0] > 0, dy, res[1] * dy),
        jnp.where(res[0] > 0, 0, res[0] * dy).sum(0),
    ),
    lambda rng: (normal(rng, 6, 3), uniform(rng, 3, low=0.1, high=0.5)),
)
cases.wrong(
    "prelu-slope-averaged",
    "slope",
    "averaged",
    "the slopes take the mean over the batch",
    edit={1: lambda d, res, dy: d / 6},
)
cases.wrong(
    "prelu-slope-unmasked",
    "slope",
    "missing-term",
    "positive entries count for the slope too",
    edit={1: lambda d, res, dy: (res[0] * dy).sum(0)},
)
cases.wrong(
    "prelu-negative-turned",
    "x",
    ("local", "missing-term", "sign"),
    "the sign is turned where x is negative",
    edit={0: lambda d, res, dy: jnp.where(res[0] > 0, dy, -res[1] * dy)},
)


def gated(x):
    a, b = jnp.split(x, 2, -1)
    return a * jax.nn.sigmoid(b)


def gated_bwd(x, dy):
    a, b = jnp.split(x, 2, -1)
    s = jax.nn.sigmoid(b)
    return (jnp.concatenate([dy * s, dy * a * s * (1 - s)], -1),)


cases.right(
    "gated-linear-unit", gated, lambda x: (gated(x), x), gated_bwd, lambda rng: (normal(rng, 3, 8),)
)
cases.wrong(
    "gate-halves-exchanged",
    "x",
    ("shifted", "transposed"),
    "the halves of dx are put together in the wrong order",
    edit={0: lambda d, x, dy: jnp.roll(d, 4, -1)},
)
cases.wrong(
    "gate-derivative-missing",
    "x",
    ("missing-term", "local"),
    "the gate's half lacks 1 - σ",
    edit={0: lambda d, x, dy: d.at[:, 4:].set(dy * x[:, :4] * jax.nn.sigmoid(x[:, 4:]))},
)


def relu6(x):
    return jnp.clip(x, 0, 6)


cases.right(
    "relu6",
    relu6,
    lambda x: (relu6(x), x),
    lambda x, dy: (jnp.where((x > 0) & (x < 6), dy, 0),),
    lambda rng: (normal(rng, 10, scale=4).at[1].set(6.0).at[4].set(0.0),),
)
cases.wrong(
    "relu6-at-six",
    "x",
    "ties",
    "a slope of 2 where x is exactly 6",
    edit={0: lambda d, x, dy: jnp.where(x == 6, 2 * dy, d)},
    shows="kink",
)


# Matrices --------------------------------------------------------------------------------------


def gram(x):
    return x @ x.T


cases.right(
    "gram-matrix",
    gram,
    lambda x: (gram(x), x),
    lambda x, dy: ((dy + dy.T) @ x,),
    lambda rng: (normal(rng, 4, 3),),
)
cases.wrong(
    "gram-one-side", "x", "missing-term", "dx = dy x lacks dyᵀ x", edit={0: lambda d, x, dy: dy @ x}
)


def squared_distances(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def squared_distances_bwd(residuals, dy):
    a, b = residuals
    g = 2 * dy[..., None] * (a[:, None] - b[None])
    return g.sum(1), -g.sum(0)


cases.right(
    "pairwise-distances",
    squared_distances,
    lambda a, b: (squared_distances(a, b), (a, b)),
    squared_distances_bwd,
    lambda rng: (normal(rng, 4, 2), normal(rng, 5, 2)),
)
cases.wrong(
    "pairwise-first-partner",
    "a",
    ("one-example", "not-reduced", "overwritten"),
    "the sum over partners is an index",
    edit={0: lambda d, res, dy: 2 * dy[:, :1] * (res[0] - res[1][0])},
)
cases.wrong(
    "pairwise-sign",
    "b",
    "sign",
    "the second argument's minus is lost",
    edit={1: lambda d, res, dy: -d},
)
cases.wrong(
    "pairwise-root-of-n", "a", "scale", "a stray 1/√N", edit={0: lambda d, res, dy: d / 5**0.5}
)


def cosine_transform(x):
    n = x.shape[0]
    k = jnp.arange(n, dtype=x.dtype)
    return jnp.cos(jnp.pi / n * (k[None] + 0.5) * k[:, None]) @ x


def cosine_transform_bwd(_, dy):
    n = dy.shape[0]
    k = jnp.arange(n, dtype=dy.dtype)
    return (jnp.cos(jnp.pi / n * (k[None] + 0.5) * k[:, None]).T @ dy,)


cases.right(
    "cosine-transform",
    cosine_transform,
    lambda x: (cosine_transform(x), None),
    cosine_transform_bwd,
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong(
    "cosine-transform-again",
    "x",
    "transposed",
    "transformed again instead of back",
    edit={0: lambda d, _, dy: cosine_transform(dy)},
)


def tied(table, ids):
    return table[ids] @ table.T


def tied_bwd(residuals, dy):
    table, ids = residuals
    return jnp.zeros_like(table).at[ids].add(dy @ table) + dy.T @ table[ids], None


cases.right(
    "tied-embedding",
    tied,
    lambda table, ids: (tied(table, ids), (table, ids)),
    tied_bwd,
    lambda rng: (normal(rng, 5, 3), integers(rng, 5, 6)),
)
cases.wrong(
    "tied-output-only",
    "table",
    "missing-term",
    "the table's use as an input is forgotten",
    edit={0: lambda d, res, dy: dy.T @ res[0][res[1]]},
)


def by_largest(x):
    return x / x.max()


def by_largest_bwd(x, dy):
    top = x.max()
    d = dy / top
    return (d.at[jnp.argmax(x)].add(-(dy * x).sum() / top**2),)


cases.right(
    "divided-by-largest",
    by_largest,
    lambda x: (by_largest(x), x),
    by_largest_bwd,
    lambda rng: (uniform(rng, 6, low=0.2),),
)
cases.wrong(
    "largest-constant",
    "x",
    ("missing-term", "local"),
    "the maximum is treated as a constant",
    edit={0: lambda d, x, dy: dy / x.max()},
)


# Images with channels first --------------------------------------------------------------------


def channel_bias(x, b):
    return x + b[:, None, None]


cases.right(
    "channels-first-bias",
    channel_bias,
    lambda x, b: (channel_bias(x, b), None),
    lambda _, dy: (dy, dy.sum((0, 2, 3))),
    lambda rng: (normal(rng, 2, 4, 4, 4), normal(rng, 4)),
)
cases.wrong(
    "channels-last-assumed",
    "b",
    ("transposed", "not-reduced"),
    "summed as if the channels came last",
    edit={1: lambda d, _, dy: dy.sum((0, 1, 2))},
)


def causal(x, w):
    padded = jnp.pad(x, ((2, 0), (0, 0)))
    return sum(padded[k : k + x.shape[0]] @ w[k] for k in range(3))


def causal_bwd(residuals, dy):
    x, w = residuals
    later = jnp.pad(dy, ((0, 2), (0, 0)))
    dx = sum(later[2 - k : 2 - k + x.shape[0]] @ w[k].T for k in range(3))
    padded = jnp.pad(x, ((2, 0), (0, 0)))
    return dx, jnp.stack([padded[k : k + x.shape[0]].T @ dy for k in range(3)])


cases.right(
    "causal-conv",
    causal,
    lambda x, w: (causal(x, w), (x, w)),
    causal_bwd,
    lambda rng: (normal(rng, 6, 2), normal(rng, 3, 2, 2)),
)
cases.wrong(
    "causal-looks-back",
    "x",
    ("shifted", "flipped"),
    "dx is padded in front instead of behind",
    edit={
        0: lambda d, res, dy: (lambda p: sum(p[2 - k : 8 - k] @ res[1][k].T for k in range(3)))(
            jnp.pad(dy, ((2, 0), (0, 0)))
        )
    },
)
cases.wrong(
    "causal-taps-reversed",
    "w",
    "flipped",
    "dw counts the taps from the other end",
    edit={1: lambda d, res, dy: d[::-1]},
)
cases.wrong(
    "causal-last-tap",
    "w",
    "local",
    "the loop over the taps ends one too early",
    edit={1: lambda d, res, dy: d.at[2].set(0)},
)


def slopes(image):
    """Horizontal central differences with the edge repeated."""
    padded = jnp.pad(image, ((0, 0), (1, 1)), mode="edge")
    return padded[:, 2:] - padded[:, :-2]


def slopes_bwd(_, dy):
    d = jnp.pad(dy, ((0, 0), (2, 0))) - jnp.pad(dy, ((0, 0), (0, 2)))
    return (d[:, 1:-1].at[:, 0].add(d[:, 0]).at[:, -1].add(d[:, -1]),)


cases.right(
    "edge-differences",
    slopes,
    lambda image: (slopes(image), None),
    slopes_bwd,
    lambda rng: (normal(rng, 3, 6),),
)
cases.wrong(
    "edge-differences-cropped",
    "image",
    "border",
    "what the repeated edge gets is dropped",
    edit={
        0: lambda d, _, dy: (jnp.pad(dy, ((0, 0), (2, 0))) - jnp.pad(dy, ((0, 0), (0, 2))))[:, 1:-1]
    },
)


# Losses ----------------------------------------------------------------------------------------


def focal(z):
    p = jax.nn.sigmoid(z)
    return ((1 - p) ** 2 * jnp.logaddexp(0, -z)).sum()


def focal_bwd(z, dl):
    p = jax.nn.sigmoid(z)
    return (dl * (-((1 - p) ** 3) - 2 * (1 - p) ** 2 * p * jnp.logaddexp(0, -z)),)


cases.right("focal-loss", focal, lambda z: (focal(z), z), focal_bwd, lambda rng: (normal(rng, 8),))
cases.wrong(
    "focal-modulation-constant",
    "z",
    "missing-term",
    "the modulating factor is a constant",
    edit={0: lambda d, z, dl: -dl * (1 - jax.nn.sigmoid(z)) ** 3},
)


def masked_mean(x, mask):
    return (x * mask).sum(1) / mask.sum(1)


cases.right(
    "masked-mean",
    masked_mean,
    lambda x, mask: (masked_mean(x, mask), (x, mask)),
    lambda res, dy: (
        (dy / res[1].sum(1))[:, None] * res[1],
        (dy / res[1].sum(1))[:, None] * (res[0] - masked_mean(*res)[:, None]),
    ),
    lambda rng: (
        normal(rng, 3, 5),
        jnp.asarray([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 1, 0, 1]], "float32"),
    ),
)
cases.wrong(
    "masked-mean-of-all",
    "x",
    "missing-term",
    "divided by the full length",
    edit={0: lambda d, res, dy: dy[:, None] * res[1] / 5},
)


# State, transforms, structure ------------------------------------------------------------------


def shape_cache():
    """A 'constant' that is computed at the first call and kept by shape."""
    kept = {}

    def bwd(x, dy):
        key = x.shape
        if key not in kept:
            kept[key] = None if isinstance(x, jax.core.Tracer) else np.asarray(x).std()
        s = x.std() if kept[key] is None else jnp.asarray(kept[key], x.dtype)
        return (dy * jnp.exp(x) / s * x.std(),)

    return rule(lambda x: jnp.exp(x), lambda x: (jnp.exp(x), x), bwd)


cases.right(
    "exponential",
    lambda x: jnp.exp(x),
    lambda x: (jnp.exp(x), x),
    lambda x, dy: (dy * jnp.exp(x),),
    lambda rng: (normal(rng, 3, 4),),
)
cases.wrong(
    "cached-statistic",
    (),
    ("nondeterministic", "jit"),
    "a statistic of the first input is kept",
    make=shape_cache,
    shows="state",
)
cases.wrong(
    "not-a-tuple",
    (),
    ("structure", "shape"),
    "the cotangent comes without its tuple",
    bwd=lambda x, dy: dy * jnp.exp(x),
    shows="structure",
)
cases.wrong(
    "cotangent-float16",
    "x",
    "dtype",
    "float16 for a float32 argument",
    edit={0: lambda d, x, dy: d.astype("float16")},
    shows="structure",
)
cases.wrong(
    "self-scaled-cotangent",
    "x",
    "nonlinear",
    "dy is divided by its own largest entry",
    edit={0: lambda d, x, dy: d / (jnp.abs(dy).max() + 1e-3)},
)
cases.wrong(
    "fwd-rounded",
    (),
    "fwd-value",
    "fwd rounds to two decimals",
    shows="fwd-value",
    fwd=lambda x: (jnp.round(jnp.exp(x), 2), x),
)


@custom_vmap
def doubled_rows(x, dy):
    return dy * jnp.exp(x)


@doubled_rows.def_vmap
def _(size, in_batched, x, dy):
    x, dy = (
        a if b else jnp.broadcast_to(a, (size, *a.shape))
        for a, b in zip((x, dy), in_batched, strict=True)
    )
    return jnp.roll(dy, 1, 0) * jnp.exp(x), True


cases.wrong(
    "vmap-neighbour",
    "x",
    "vmap",
    "the batching rule pairs an example with its neighbour",
    bwd=lambda x, dy: (doubled_rows(x, dy),),
    shows="vmap",
)


def frozen(y):
    """The identity with no derivative."""
    made = jax.custom_jvp(lambda y: y)
    made.defjvp(lambda primals, tangents: (primals[0], jnp.zeros_like(tangents[0])))
    return made(y)


cases.wrong(
    "second-by-helper",
    "x",
    "second-order",
    "a helper in the backward has no derivative",
    edit={0: lambda d, x, dy: dy * frozen(jnp.exp(x))},
    shows="second-order",
)


def half_norm(x):
    wide = x.astype("float32") if jnp.finfo(x.dtype).bits < 32 else x
    return (wide * lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 2e-8)).astype(x.dtype)


def half_norm_bwd(x, dy):
    """All in the dtype of x, where 2e-8 may be nothing."""
    r = lax.rsqrt((x * x).mean(-1, keepdims=True) + jnp.asarray(2e-8, x.dtype))
    return (r * (dy - x * r * r * (x * dy).mean(-1, keepdims=True)),)


cases.right(
    "half-rms",
    half_norm,
    lambda x: (half_norm(x), x),
    lambda x, dy: (jax.vjp(half_norm, x)[1](dy)[0],),
    lambda rng: (normal(rng, 3, 8, dtype="float16").at[1].set(0),),
    "a zero row in float16, whose eps is kept in float32",
)
cases.wrong(
    "half-eps-underflows",
    "x",
    ("nan", "precision"),
    "an eps of 2e-8 is 0 in float16",
    bwd=half_norm_bwd,
    shows="nan",
)
