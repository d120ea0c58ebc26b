"""Losses: means and sums, targets and labels, overflow."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.corpus.case import Family, integers, normal, uniform

cases = Family("losses")


def pairs(rng):
    return normal(rng, 4, 3), normal(rng, 4, 3)


def mse(y, t):
    return ((y - t) ** 2).mean()


def mse_bwd(residuals, dl):
    y, t = residuals
    d = 2 * (y - t) / y.size * dl
    return d, -d


cases.right("mse", mse, lambda y, t: (mse(y, t), (y, t)), mse_bwd, pairs)
cases.wrong(
    "mse-divided-twice",
    "y",
    ("scale", "averaged"),
    "1/N is put in twice",
    edit={0: lambda d, res, dl: d / res[0].size},
)
cases.wrong(
    "mse-not-divided", "y", "scale", "1/N is left out", edit={0: lambda d, res, dl: d * res[0].size}
)
cases.wrong(
    "mse-divided-by-rows",
    "y",
    "scale",
    "divided by the batch, not by all entries",
    edit={0: lambda d, res, dl: d * res[0].shape[1]},
)
cases.wrong(
    "mse-two-missing",
    ("y", "t"),
    "scale",
    "the 2 of the square is left out",
    bwd=lambda res, dl: tuple(d / 2 for d in mse_bwd(res, dl)),
)
cases.wrong(
    "mse-sign",
    ("y", "t"),
    ("sign", "swapped-arguments"),
    "t - y for y - t",
    bwd=lambda res, dl: tuple(-d for d in mse_bwd(res, dl)),
)
cases.wrong(
    "mse-target-zero",
    "t",
    "zero",
    "the target is treated as a constant",
    edit={1: lambda d, res, dl: jnp.zeros_like(d)},
)
cases.wrong(
    "mse-target-sign",
    "t",
    ("sign", "swapped-arguments"),
    "dt = dy",
    edit={1: lambda d, res, dl: -d},
)
cases.wrong(
    "mse-cotangent-ignored",
    "y",
    "nonlinear",
    "the incoming cotangent is taken to be 1",
    edit={0: lambda d, res, dl: 2 * (res[0] - res[1]) / res[0].size},
)
cases.wrong(
    "mse-first-example",
    "y",
    ("one-example", "local"),
    "only the first example has a gradient",
    edit={0: lambda d, res, dl: d.at[1:].set(0)},
)
cases.wrong(
    "mse-residual-detached",
    "y",
    "second-order",
    "the difference is detached",
    edit={0: lambda d, res, dl: 2 * lax.stop_gradient(res[0] - res[1]) / res[0].size * dl},
    shows="second-order",
)


def cross_entropy(logits, labels):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -picked.mean()


def one_hot(labels, like):
    return jax.nn.one_hot(labels, like.shape[1], dtype=like.dtype)


def cross_entropy_bwd(residuals, dl):
    logits, labels = residuals
    return dl * (jax.nn.softmax(logits) - one_hot(labels, logits)) / logits.shape[0], None


def classified(rng):
    return normal(rng, 5, 4), integers(rng, 4, 5)


cases.right(
    "cross-entropy",
    cross_entropy,
    lambda logits, labels: (cross_entropy(logits, labels), (logits, labels)),
    cross_entropy_bwd,
    classified,
    "integer labels get no cotangent",
)
cases.wrong(
    "cross-entropy-one-hot-forgotten",
    "logits",
    "missing-term",
    "softmax without the labels",
    edit={0: lambda d, res, dl: dl * jax.nn.softmax(res[0]) / 5},
)
cases.wrong(
    "cross-entropy-sign", "logits", "sign", "labels minus softmax", edit={0: lambda d, res, dl: -d}
)
cases.wrong(
    "cross-entropy-mean-twice",
    "logits",
    ("scale", "averaged"),
    "1/N is put in twice",
    edit={0: lambda d, res, dl: d / 5},
)
cases.wrong(
    "cross-entropy-mean-missing",
    "logits",
    "scale",
    "1/N is left out",
    edit={0: lambda d, res, dl: d * 5},
)
cases.wrong(
    "cross-entropy-by-classes",
    "logits",
    "scale",
    "divided by the classes, not the batch",
    edit={0: lambda d, res, dl: d * 5 / 4},
)
cases.wrong(
    "cross-entropy-label-next",
    "logits",
    "shifted",
    "labels counted from one",
    edit={
        0: lambda d, res, dl: dl / 5 * (jax.nn.softmax(res[0]) - one_hot((res[1] + 1) % 4, res[0]))
    },
)
cases.wrong(
    "cross-entropy-softmax-forgotten",
    "logits",
    "missing-term",
    "logits minus labels",
    edit={0: lambda d, res, dl: dl / 5 * (res[0] - one_hot(res[1], res[0]))},
)
cases.wrong(
    "cross-entropy-first-row",
    "logits",
    ("one-example", "local"),
    "only the first example has a gradient",
    edit={0: lambda d, res, dl: d.at[1:].set(0)},
)
cases.wrong(
    "cross-entropy-cotangent-ignored",
    "logits",
    "nonlinear",
    "the incoming cotangent is taken to be 1",
    edit={0: lambda d, res, dl: (jax.nn.softmax(res[0]) - one_hot(res[1], res[0])) / 5},
)
cases.wrong(
    "cross-entropy-float-for-labels",
    "labels",
    ("dtype", "structure"),
    "the integer labels get a float32 cotangent",
    edit={1: lambda d, res, dl: jnp.zeros(res[1].shape, "float32")},
    shows="structure",
)
cases.wrong(
    "cross-entropy-softmax-detached",
    "logits",
    "second-order",
    "the softmax is detached",
    edit={
        0: lambda d, res, dl: (
            dl / 5 * (lax.stop_gradient(jax.nn.softmax(res[0])) - one_hot(res[1], res[0]))
        )
    },
    shows="second-order",
)


def float0_bwd(residuals, dl):
    return cross_entropy_bwd(residuals, dl)[0], np.zeros(residuals[1].shape, jax.dtypes.float0)


cases.right(
    "cross-entropy-float0",
    cross_entropy,
    lambda logits, labels: (cross_entropy(logits, labels), (logits, labels)),
    float0_bwd,
    classified,
    "integer labels get an explicit float0",
)


def masked(logits, labels):
    rows = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[:, None], 1)[
        :, 0
    ]
    counted = labels >= 0
    return jnp.where(counted, rows, 0).sum() / counted.sum().astype(logits.dtype)


def masked_bwd(residuals, dl):
    logits, labels = residuals
    counted = labels >= 0
    d = jax.nn.softmax(logits) - one_hot(jnp.maximum(labels, 0), logits)
    return dl * jnp.where(counted[:, None], d, 0) / counted.sum().astype(logits.dtype), None


cases.right(
    "cross-entropy-ignored-labels",
    masked,
    lambda logits, labels: (masked(logits, labels), (logits, labels)),
    masked_bwd,
    lambda rng: (normal(rng, 6, 3), jnp.asarray([0, -1, 2, 1, -1, 2], "int32")),
)
cases.wrong(
    "ignored-labels-counted",
    "logits",
    "scale",
    "divided by all rows, the ignored ones too",
    edit={0: lambda d, res, dl: d * 4 / 6},
)
cases.wrong(
    "ignored-labels-not-masked",
    "logits",
    ("local", "missing-term"),
    "ignored rows get a gradient",
    edit={
        0: lambda d, res, dl: (
            dl / 4 * (jax.nn.softmax(res[0]) - one_hot(jnp.maximum(res[1], 0), res[0]))
        )
    },
)


def log_softmax(x):
    shifted = x - lax.stop_gradient(x.max(-1, keepdims=True))
    return shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))


cases.right(
    "log-softmax",
    log_softmax,
    lambda x: (log_softmax(x), log_softmax(x)),
    lambda y, dy: (dy - jnp.exp(y) * dy.sum(-1, keepdims=True),),
    lambda rng: (normal(rng, 3, 5),),
)
cases.wrong(
    "log-softmax-term",
    "x",
    "missing-term",
    "the normaliser is treated as a constant",
    edit={0: lambda d, y, dy: dy},
)
cases.wrong(
    "log-softmax-softmax-missing",
    "x",
    "missing-term",
    "dy - Σ dy, without softmax",
    edit={0: lambda d, y, dy: dy - dy.sum(-1, keepdims=True)},
)
cases.wrong(
    "log-softmax-one-hot-assumed",
    "x",
    ("missing-term", "nonlinear"),
    "Σ dy is taken to be 1",
    edit={0: lambda d, y, dy: dy - jnp.exp(y)},
)
cases.wrong(
    "log-softmax-y",
    "x",
    "missing-term",
    "y for exp(y)",
    edit={0: lambda d, y, dy: dy - y * dy.sum(-1, keepdims=True)},
)


def logsumexp(x):
    top = lax.stop_gradient(x.max(-1, keepdims=True))
    return jnp.log(jnp.exp(x - top).sum(-1)) + top[..., 0]


cases.right(
    "logsumexp-large",
    logsumexp,
    lambda x: (logsumexp(x), x),
    lambda x, dy: (dy[..., None] * jnp.exp(x - logsumexp(x)[..., None]),),
    lambda rng: (normal(rng, 3, 4, scale=300),),
    "logits far beyond the range of exp",
)
cases.wrong(
    "logsumexp-overflow",
    "x",
    "nan",
    "exp without the maximum taken off, inf / inf",
    edit={0: lambda d, x, dy: dy[..., None] * jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)},
    inputs=lambda rng: (normal(rng, 3, 4, scale=300) + 1000,),
    shows="nan",
)


def bce(z, t):
    return (jnp.logaddexp(z, 0) - z * t).mean()


def bce_bwd(residuals, dl):
    z, t = residuals
    return dl * (jax.nn.sigmoid(z) - t) / z.size, -dl * z / z.size


cases.right(
    "sigmoid-cross-entropy",
    bce,
    lambda z, t: (bce(z, t), (z, t)),
    bce_bwd,
    lambda rng: (normal(rng, 6), uniform(rng, 6)),
)
cases.wrong(
    "bce-sigmoid-missing",
    "z",
    "missing-term",
    "z - t for σ(z) - t",
    edit={0: lambda d, res, dl: dl * (res[0] - res[1]) / 6},
)
cases.wrong(
    "bce-target-missing",
    "z",
    "missing-term",
    "σ(z) without the target",
    edit={0: lambda d, res, dl: dl * jax.nn.sigmoid(res[0]) / 6},
)
cases.wrong(
    "bce-derivative-of-mse",
    "z",
    "missing-term",
    "σ' is multiplied in once more",
    edit={0: lambda d, res, dl: d * jax.nn.sigmoid(res[0]) * jax.nn.sigmoid(-res[0])},
)
cases.wrong(
    "bce-target-zero",
    "t",
    "zero",
    "the target gets nothing",
    edit={1: lambda d, res, dl: jnp.zeros_like(d)},
)


def huber(y, t):
    e = y - t
    return jnp.where(jnp.abs(e) < 1, 0.5 * e * e, jnp.abs(e) - 0.5)


cases.right(
    "huber",
    huber,
    lambda y, t: (huber(y, t), y - t),
    lambda e, dl: (dl * jnp.clip(e, -1, 1), -dl * jnp.clip(e, -1, 1)),
    lambda rng: (normal(rng, 10, scale=2), normal(rng, 10)),
)
cases.wrong(
    "huber-not-clipped",
    "y",
    ("local", "missing-term"),
    "the quadratic's slope everywhere",
    edit={0: lambda d, e, dl: dl * e},
)
cases.wrong(
    "huber-always-sign",
    "y",
    ("local", "missing-term"),
    "the absolute value's slope everywhere",
    edit={0: lambda d, e, dl: dl * jnp.sign(e)},
)


def hinge(scores, t):
    return jnp.maximum(0, 1 - t * scores).mean()


cases.right(
    "hinge",
    hinge,
    lambda s, t: (hinge(s, t), (s, t)),
    lambda res, dl: (
        jnp.where(res[0] * res[1] < 1, -res[1] * dl, 0) / res[0].size,
        jnp.where(res[0] * res[1] < 1, -res[0] * dl, 0) / res[0].size,
    ),
    lambda rng: (normal(rng, 8, scale=2), jnp.sign(normal(rng, 8))),
)
cases.wrong(
    "hinge-margin-forgotten",
    "scores",
    "local",
    "the margin of 1 is left out of the test",
    edit={0: lambda d, res, dl: jnp.where(res[0] * res[1] < 0, -res[1] * dl, 0) / 8},
)
cases.wrong(
    "hinge-always",
    "scores",
    ("local", "missing-term"),
    "no test whether the margin is kept",
    edit={0: lambda d, res, dl: -res[1] * dl / 8},
)


def kl(p, q):
    return (p * (jnp.log(p) - jnp.log(q))).sum()


cases.right(
    "kl-divergence",
    kl,
    lambda p, q: (kl(p, q), (p, q)),
    lambda res, dl: (dl * (jnp.log(res[0]) - jnp.log(res[1]) + 1), -dl * res[0] / res[1]),
    lambda rng: (uniform(rng, 6, low=0.1), uniform(rng, 6, low=0.1)),
)
cases.wrong(
    "kl-one-missing",
    "p",
    "missing-term",
    "the 1 of the product rule is left out",
    edit={0: lambda d, res, dl: dl * (jnp.log(res[0]) - jnp.log(res[1]))},
)
cases.wrong("kl-second-sign", "q", "sign", "p/q for -p/q", edit={1: lambda d, res, dl: -d})
cases.wrong(
    "kl-second-factor",
    "q",
    "missing-term",
    "-1/q, p is left out",
    edit={1: lambda d, res, dl: -dl / res[1]},
)


def cosine(a, b):
    return (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum())


def cosine_bwd(residuals, dl):
    a, b = residuals
    la, lb = jnp.sqrt((a * a).sum()), jnp.sqrt((b * b).sum())
    c = (a * b).sum() / (la * lb)
    return dl * (b / lb - c * a / la) / la, dl * (a / la - c * b / lb) / lb


cases.right(
    "cosine-similarity",
    cosine,
    lambda a, b: (cosine(a, b), (a, b)),
    cosine_bwd,
    lambda rng: (normal(rng, 5), normal(rng, 5)),
)
cases.wrong(
    "cosine-projection",
    "a",
    "missing-term",
    "the length of a is treated as a constant",
    edit={0: lambda d, res, dl: dl * res[1] / jnp.sqrt((res[0] ** 2).sum() * (res[1] ** 2).sum())},
)
cases.wrong(
    "cosine-swapped",
    ("a", "b"),
    "swapped-arguments",
    "da and db exchanged",
    bwd=lambda res, dl: cosine_bwd(res, dl)[::-1],
)


def euclidean(a, b):
    return jnp.sqrt(((a - b) ** 2).sum(-1))


cases.right(
    "euclidean-distance",
    euclidean,
    lambda a, b: (euclidean(a, b), (a - b, euclidean(a, b))),
    lambda res, dl: ((dl / res[1])[:, None] * res[0], -(dl / res[1])[:, None] * res[0]),
    lambda rng: (normal(rng, 3, 4), normal(rng, 3, 4)),
)
cases.wrong(
    "distance-not-normalised",
    "a",
    "missing-term",
    "a - b, not divided by the distance",
    edit={0: lambda d, res, dl: dl[:, None] * res[0]},
)
cases.wrong(
    "distance-same-sign",
    "b",
    ("sign", "swapped-arguments"),
    "db = da",
    edit={1: lambda d, res, dl: -d},
)


def weighted(logits, weights):
    return (weights * jnp.logaddexp(logits, 0)).sum() / weights.sum()


cases.right(
    "weighted-mean",
    weighted,
    lambda z, w: (weighted(z, w), (z, w)),
    lambda res, dl: (
        dl * res[1] * jax.nn.sigmoid(res[0]) / res[1].sum(),
        dl * (jnp.logaddexp(res[0], 0) - weighted(*res)) / res[1].sum(),
    ),
    lambda rng: (normal(rng, 6), uniform(rng, 6, low=0.5)),
)
cases.wrong(
    "weighted-mean-count",
    "logits",
    "scale",
    "divided by the count instead of the weights",
    edit={0: lambda d, res, dl: d * res[1].sum() / 6},
)
cases.wrong(
    "weighted-mean-normaliser",
    "weights",
    "missing-term",
    "the sum of weights is treated as a constant",
    edit={1: lambda d, res, dl: dl * jnp.logaddexp(res[0], 0) / res[1].sum()},
)
