"""Attention and what stands around it: softmax, masks, heads, rotary positions."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal

cases = Family("attention")


def softmax(x):
    e = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def softmax_grad(y, dy):
    return y * (dy - (y * dy).sum(-1, keepdims=True))


cases.right(
    "softmax",
    softmax,
    lambda x: (softmax(x), softmax(x)),
    lambda y, dy: (softmax_grad(y, dy),),
    lambda rng: (normal(rng, 3, 5),),
)
cases.wrong(
    "softmax-sum-term",
    "x",
    "missing-term",
    "dx = y·dy, the sum is left out",
    edit={0: lambda d, y, dy: y * dy},
)
cases.wrong(
    "softmax-as-sigmoid",
    "x",
    ("missing-term", "surrogate"),
    "the diagonal of the Jacobian only: y(1 - y)dy",
    edit={0: lambda d, y, dy: y * (1 - y) * dy},
)
cases.wrong(
    "softmax-factor",
    "x",
    "missing-term",
    "dx = dy - Σ y·dy, without y in front",
    edit={0: lambda d, y, dy: dy - (y * dy).sum(-1, keepdims=True)},
)
cases.wrong(
    "softmax-sum-over-all",
    "x",
    "missing-term",
    "the sum runs over the rows as well",
    edit={0: lambda d, y, dy: y * (dy - (y * dy).sum())},
)
cases.wrong(
    "softmax-detached",
    "x",
    "second-order",
    "y is detached in the backward",
    edit={0: lambda d, y, dy: softmax_grad(lax.stop_gradient(y), dy)},
    shows="second-order",
)
cases.wrong(
    "softmax-plus",
    "x",
    ("missing-term", "sign"),
    "plus for minus before the sum",
    edit={0: lambda d, y, dy: y * (dy + (y * dy).sum(-1, keepdims=True))},
)


def tempered(x, temperature):
    return softmax(x / temperature)


def tempered_bwd(residuals, dy):
    x, temperature, y = residuals
    g = softmax_grad(y, dy)
    return g / temperature, -(g * x).sum() / temperature**2


cases.right(
    "softmax-temperature",
    tempered,
    lambda x, temperature: (tempered(x, temperature), (x, temperature, tempered(x, temperature))),
    tempered_bwd,
    lambda rng: (normal(rng, 3, 4), jnp.asarray(0.7, "float32")),
)
cases.wrong(
    "temperature-forgotten",
    "x",
    "scale",
    "dx is not divided by the temperature",
    edit={0: lambda d, res, dy: d * res[1]},
)
cases.wrong(
    "temperature-multiplied",
    "x",
    "scale",
    "multiplied where it must be divided",
    edit={0: lambda d, res, dy: d * res[1] ** 2},
)
cases.wrong(
    "temperature-sign",
    "temperature",
    "sign",
    "the minus of d(1/T) is lost",
    edit={1: lambda d, res, dy: -d},
)


def causal(length):
    return jnp.tril(jnp.ones((length, length), bool))


def attend(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    return softmax(jnp.where(causal(q.shape[0]), scores, -1e9)) @ v


def attend_fwd(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    p = softmax(jnp.where(causal(q.shape[0]), scores, -1e9))
    return p @ v, (q, k, v, p)


def attend_bwd(residuals, dy):
    q, k, v, p = residuals
    ds = softmax_grad(p, dy @ v.T) / q.shape[-1] ** 0.5
    return ds @ k, ds.T @ q, p.T @ dy


def tokens(rng):
    return normal(rng, 5, 4), normal(rng, 5, 4), normal(rng, 5, 4)


def score_grad(residuals, dy):
    q, _, v, p = residuals
    return softmax_grad(p, dy @ v.T) / q.shape[-1] ** 0.5


cases.right("attention", attend, attend_fwd, attend_bwd, tokens)
cases.wrong(
    "attention-softmax-term",
    ("q", "k"),
    "missing-term",
    "ds = p·dp without the sum",
    edit={
        0: lambda d, res, dy: (res[3] * (dy @ res[2].T)) / 2 @ res[1],
        1: lambda d, res, dy: ((res[3] * (dy @ res[2].T)) / 2).T @ res[0],
    },
)
cases.wrong(
    "attention-scale-missing",
    "q",
    "scale",
    "dq is not divided by √D",
    edit={0: lambda d, res, dy: 2 * d},
)
cases.wrong(
    "attention-scale-twice",
    "k",
    "scale",
    "dk is divided by √D twice",
    edit={1: lambda d, res, dy: d / 2},
)
cases.wrong(
    "attention-scale-missing-both",
    ("q", "k"),
    "scale",
    "ds is not divided by √D",
    edit={0: lambda d, res, dy: 2 * d, 1: lambda d, res, dy: 2 * d},
)
cases.wrong(
    "attention-mask-forgotten",
    ("q", "k", "v"),
    "missing-term",
    "the backward recomputes the probabilities without the mask",
    bwd=lambda res, dy: attend_bwd((*res[:3], softmax(res[0] @ res[1].T / 2)), dy),
)
cases.wrong(
    "attention-swapped",
    ("q", "k"),
    "swapped-arguments",
    "dq and dk exchanged",
    bwd=lambda res, dy: tuple(attend_bwd(res, dy)[i] for i in (1, 0, 2)),
)
cases.wrong(
    "attention-value-untransposed",
    "v",
    "transposed",
    "dv = p dy, the transpose forgotten",
    edit={2: lambda d, res, dy: res[3] @ dy},
)
cases.wrong(
    "attention-key-untransposed",
    "k",
    "transposed",
    "dk = ds q, the transpose forgotten",
    edit={1: lambda d, res, dy: score_grad(res, dy) @ res[0]},
)
cases.wrong(
    "attention-value-zero",
    "v",
    "zero",
    "the values get no gradient",
    edit={2: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "attention-first-key",
    "k",
    ("local", "missing-term"),
    "the first key gets no gradient",
    edit={1: lambda d, res, dy: d.at[0].set(0)},
)
cases.wrong(
    "attention-detached",
    ("q", "k", "v"),
    "second-order",
    "the probabilities are detached",
    bwd=lambda res, dy: attend_bwd((*res[:3], lax.stop_gradient(res[3])), dy),
    shows="second-order",
)


def heads(q, k, v):
    """Multi-query attention: q[H, T, D] shares k[T, D] and v[T, D]."""
    return softmax(jnp.einsum("htd,sd->hts", q, k)) @ v


def heads_fwd(q, k, v):
    p = softmax(jnp.einsum("htd,sd->hts", q, k))
    return p @ v, (q, k, v, p)


def heads_bwd(residuals, dy):
    q, k, v, p = residuals
    ds = softmax_grad(p, jnp.einsum("hte,se->hts", dy, v))
    return (
        jnp.einsum("hts,sd->htd", ds, k),
        jnp.einsum("hts,htd->sd", ds, q),
        jnp.einsum("hts,hte->se", p, dy),
    )


cases.right(
    "multi-query",
    heads,
    heads_fwd,
    heads_bwd,
    lambda rng: (normal(rng, 3, 3, 2), normal(rng, 3, 2), normal(rng, 3, 2)),
)
cases.wrong(
    "multi-query-first-head",
    "v",
    ("one-example", "not-reduced", "overwritten"),
    "the shared values see the first head only",
    edit={2: lambda d, res, dy: res[3][0].T @ dy[0]},
)
cases.wrong(
    "multi-query-heads-averaged",
    "v",
    "averaged",
    "the shared values average over heads",
    edit={2: lambda d, res, dy: d / 3},
)
cases.wrong(
    "multi-query-not-reduced",
    "v",
    ("not-reduced", "shape"),
    "dv keeps the heads' axis",
    edit={2: lambda d, res, dy: jnp.einsum("hts,hte->hse", res[3], dy)},
    shows="structure",
)
cases.wrong(
    "multi-query-heads-exchanged",
    "q",
    "transposed",
    "heads and time exchanged in dq",
    edit={0: lambda d, res, dy: jnp.swapaxes(d, 0, 1)},
)


def rotate(x, angle):
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1
    )


def rotary(x):
    angle = jnp.arange(x.shape[0], dtype=x.dtype)[:, None] * jnp.asarray([0.7, 0.3], x.dtype)
    return rotate(x, angle)


def rotary_back(dy):
    angle = jnp.arange(dy.shape[0], dtype=dy.dtype)[:, None] * jnp.asarray([0.7, 0.3], dy.dtype)
    return rotate(dy, -angle)


cases.right(
    "rotary",
    rotary,
    lambda x: (rotary(x), None),
    lambda _, dy: (rotary_back(dy),),
    lambda rng: (normal(rng, 5, 4),),
)
cases.wrong(
    "rotary-forward-again",
    "x",
    ("transposed", "sign"),
    "the cotangent is rotated forwards",
    edit={0: lambda d, _, dy: rotary(dy)},
)
cases.wrong(
    "rotary-not-at-all",
    "x",
    ("missing-term", "surrogate"),
    "the rotation is left out: dx = dy",
    edit={0: lambda d, _, dy: dy},
)


def softcap(x):
    return 5 * jnp.tanh(x / 5)


cases.right(
    "softcap",
    softcap,
    lambda x: (softcap(x), jnp.tanh(x / 5)),
    lambda t, dy: (dy * (1 - t * t),),
    lambda rng: (normal(rng, 4, 4, scale=4),),
)
cases.wrong(
    "softcap-derivative", "x", "missing-term", "tanh' is left out", edit={0: lambda d, t, dy: dy}
)
cases.wrong(
    "softcap-inner", "x", "scale", "divided by the cap once more", edit={0: lambda d, t, dy: d / 5}
)


def dropout(x, key):
    keep = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(keep, 2 * x, 0)


cases.right(
    "dropout-explicit-key",
    dropout,
    lambda x, key: (dropout(x, key), key),
    lambda key, dy: (dropout(dy, key), None),
    lambda rng: (normal(rng, 6, 4), jax.random.PRNGKey(int(rng.integers(1000)))),
    "random, but by an explicit key",
)
cases.wrong(
    "dropout-other-mask",
    "x",
    "missing-term",
    "the backward draws another mask",
    edit={0: lambda d, key, dy: dropout(dy, jax.random.fold_in(key, 1))},
)
cases.wrong(
    "dropout-not-rescaled",
    "x",
    "scale",
    "1/(1 - p) is left out of the backward",
    edit={0: lambda d, key, dy: d / 2},
)
cases.wrong(
    "dropout-no-mask",
    "x",
    "missing-term",
    "the mask is left out of the backward",
    edit={0: lambda d, key, dy: 2 * dy},
)


def flash(q, k, v):
    return softmax(q @ k.T) @ v


def flash_fwd(q, k, v):
    s = q @ k.T
    lse = jax.nn.logsumexp(s, -1, keepdims=True)
    y = jnp.exp(s - lse) @ v
    return y, (q, k, v, y, lse)


def flash_bwd(residuals, dy):
    q, k, v, y, lse = residuals
    p = jnp.exp(q @ k.T - lse)
    delta = (y * dy).sum(-1, keepdims=True)
    ds = p * (dy @ v.T - delta)
    return ds @ k, ds.T @ q, p.T @ dy


cases.right(
    "flash-attention",
    flash,
    flash_fwd,
    flash_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 6, 3), normal(rng, 6, 3)),
    "probabilities rebuilt from logsumexp, delta from the output",
)
cases.wrong(
    "flash-delta-of-rows",
    ("q", "k"),
    "missing-term",
    "delta is averaged over the features instead of summed",
    bwd=lambda res, dy: (lambda ds: (ds @ res[1], ds.T @ res[0], flash_bwd(res, dy)[2]))(
        jnp.exp(res[0] @ res[1].T - res[4])
        * (dy @ res[2].T - (res[3] * dy).mean(-1, keepdims=True))
    ),
)
