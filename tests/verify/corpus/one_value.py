"""Backwards that are right but for one value in them: what held-out trials could not name."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.corpus.case import Family, normal, uniform

cases = Family("one-value")


# A sum over the wrong axis ---------------------------------------------------------------------


def softmax(x):
    return jax.nn.softmax(x, -1)


def softmax_bwd(y, dy, axis=-1):
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


cases.right(
    "softmax-of-rows",
    softmax,
    lambda x: (softmax(x), softmax(x)),
    softmax_bwd,
    lambda rng: (normal(rng, 4, 5),),
)
cases.wrong(
    "softmax-summed-over-columns",
    "x",
    "missing-term",
    "the weighted sum of dy goes over the columns",
    bwd=lambda y, dy: softmax_bwd(y, dy, 0),
)


def log_softmax(x):
    return jax.nn.log_softmax(x, -1)


cases.right(
    "log-softmax-of-rows",
    log_softmax,
    lambda x: (log_softmax(x), x),
    lambda x, dy: (dy - softmax(x) * dy.sum(-1, keepdims=True),),
    lambda rng: (normal(rng, 4, 5),),
)
cases.wrong(
    "log-softmax-summed-over-columns",
    "x",
    "missing-term",
    "the sum of dy goes over the columns",
    bwd=lambda x, dy: (dy - softmax(x) * dy.sum(0, keepdims=True),),
)


def attention(q, k, v):
    return softmax(q @ k.T / 2) @ v


def scores_grad(q, k, v, dy, axis=-1):
    return softmax_bwd(softmax(q @ k.T / 2), dy @ v.T, axis)[0] / 2


def attention_bwd(residuals, dy, axis=-1):
    q, k, v = residuals
    ds = scores_grad(q, k, v, dy, axis)
    return ds @ k, ds.T @ q, softmax(q @ k.T / 2).T @ dy


cases.right(
    "attention-of-unequal-lengths",
    attention,
    lambda *args: (attention(*args), args),
    attention_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 5, 3), normal(rng, 5, 2)),
)
cases.wrong(
    "attention-summed-over-queries",
    ("q", "k"),
    "missing-term",
    "softmax's sum goes over the queries",
    bwd=lambda residuals, dy: attention_bwd(residuals, dy, 0),
)


def standardised(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def standardised_bwd(x, dy, axis=-1):
    s = jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = standardised(x)
    mean = dy.mean(axis, keepdims=True)
    return ((dy - mean - y * (dy * y).mean(-1, keepdims=True)) / s,)


cases.right(
    "standardised-rows",
    standardised,
    lambda x: (standardised(x), x),
    standardised_bwd,
    lambda rng: (normal(rng, 4, 6),),
)
cases.wrong(
    "standardised-mean-over-batch",
    "x",
    "missing-term",
    "the mean of dy is taken over the batch",
    bwd=lambda x, dy: standardised_bwd(x, dy, 0),
)

KEPT = jnp.asarray(np.array([[1, 1, 0, 1, 0], [1, 0, 1, 1, 1], [0, 1, 1, 0, 1]]), bool)


def masked_softmax(x):
    return jnp.where(KEPT, softmax(jnp.where(KEPT, x, -1e9)), 0)


cases.right(
    "softmax-of-the-kept",
    masked_softmax,
    lambda x: (masked_softmax(x), masked_softmax(x)),
    softmax_bwd,
    lambda rng: (normal(rng, 3, 5),),
)
cases.wrong(
    "softmax-of-the-kept-plain-mean",
    "x",
    "missing-term",
    "dy's plain mean stands for its weighted one",
    bwd=lambda y, dy: (y * (dy - dy.mean(-1, keepdims=True)),),
)

# A value that enters rearranged ----------------------------------------------------------------


def eigenvalues(a):
    return jnp.linalg.eigh((a + a.T) / 2)[0]


def eigenvalues_bwd(a, dy, turned=False):
    v = jnp.linalg.eigh((a + a.T) / 2)[1]
    v = v.T if turned else v
    return ((v * dy) @ v.T,)


cases.right(
    "eigenvalues",
    eigenvalues,
    lambda a: (eigenvalues(a), a),
    eigenvalues_bwd,
    lambda rng: (normal(rng, 4, 4),),
)
cases.wrong(
    "eigenvectors-in-rows",
    "a",
    "transposed",
    "the eigenvectors are taken for the rows",
    bwd=lambda a, dy: eigenvalues_bwd(a, dy, True),
)


def singular_values(a):
    return jnp.linalg.svd(a, compute_uv=False)


def singular_values_bwd(a, dy, turned=False):
    u, _, vt = jnp.linalg.svd(a, full_matrices=False)
    return ((u * dy) @ (vt.T if turned else vt),)


cases.right(
    "singular-values",
    singular_values,
    lambda a: (singular_values(a), a),
    singular_values_bwd,
    lambda rng: (normal(rng, 4, 4),),
)
cases.wrong(
    "singular-vectors-turned-twice",
    "a",
    "transposed",
    "svd gives the transpose of v already",
    bwd=lambda a, dy: singular_values_bwd(a, dy, True),
)

SEGMENTS = np.array([0, 0, 1, 2, 2, 2])


def segment_means(x):
    counts = jnp.asarray([2, 1, 3], x.dtype)[:, None]
    return jax.ops.segment_sum(x, SEGMENTS, 3) / counts


def segment_means_bwd(_, dy, by=0):
    counts = jnp.asarray([2, 1, 3], dy.dtype)[:, None]
    return ((dy / counts)[(SEGMENTS + by) % 3],)


cases.right(
    "segment-means",
    segment_means,
    lambda x: (segment_means(x), None),
    segment_means_bwd,
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong(
    "segment-means-neighbour",
    "x",
    "shifted",
    "each row takes its neighbour's segment",
    bwd=lambda _, dy: segment_means_bwd(_, dy, 1),
)


def segment_softmax(x):
    e = jnp.exp(x - jax.ops.segment_max(x, SEGMENTS, 3)[SEGMENTS])
    return e / jax.ops.segment_sum(e, SEGMENTS, 3)[SEGMENTS]


def segment_softmax_bwd(p, dy, by=0):
    return (p * (dy - jax.ops.segment_sum(dy * p, SEGMENTS, 3)[(SEGMENTS + by) % 3]),)


cases.right(
    "segment-softmax",
    segment_softmax,
    lambda x: (segment_softmax(x), segment_softmax(x)),
    segment_softmax_bwd,
    lambda rng: (normal(rng, 6),),
)
cases.wrong(
    "segment-softmax-neighbour",
    "x",
    ("shifted", "missing-term"),
    "each row takes the sum of its neighbour's segment",
    bwd=lambda p, dy: segment_softmax_bwd(p, dy, 1),
)

# A scan differentiated at the states after each step -------------------------------------------


def euler(x, w):
    def step(x, _):
        x = x + 0.1 * jnp.tanh(w @ x)
        return x, x

    return lax.scan(step, x, None, 5)[1]


def euler_bwd(residuals, dy, after=False):
    x, w = residuals
    states = euler(x, w)
    before = states if after else jnp.concatenate([x[None], states[:-1]])
    dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
    for t in reversed(range(5)):
        dx = dx + dy[t]
        slope = 0.1 * (1 - jnp.tanh(w @ before[t]) ** 2) * dx
        dw = dw + jnp.outer(slope, before[t])
        dx = dx + w.T @ slope
    return dx, dw


cases.right(
    "euler-steps",
    euler,
    lambda *args: (euler(*args), args),
    euler_bwd,
    lambda rng: (normal(rng, 3), normal(rng, 3, 3)),
)
cases.wrong(
    "euler-updated-states",
    ("x", "w"),
    ("shifted", "missing-term"),
    "the states are those after each step",
    bwd=lambda residuals, dy: euler_bwd(residuals, dy, True),
)


def logistic_map(x, r):
    def step(x, _):
        x = r * x * (1 - x)
        return x, x

    return lax.scan(step, x, None, 4)[1]


def logistic_map_bwd(residuals, dy, after=False):
    x, r = residuals
    states = logistic_map(x, r)
    before = states if after else jnp.concatenate([x[None], states[:-1]])
    dx, dr = jnp.zeros_like(x), jnp.zeros_like(r)
    for t in reversed(range(4)):
        dx = dx + dy[t]
        dr = dr + dx * before[t] * (1 - before[t])
        dx = dx * r * (1 - 2 * before[t])
    return dx, dr


cases.right(
    "logistic-map",
    logistic_map,
    lambda *args: (logistic_map(*args), args),
    logistic_map_bwd,
    lambda rng: (uniform(rng, 4, low=0.2, high=0.8), uniform(rng, 4, low=2.0, high=3.0)),
)
cases.wrong(
    "logistic-map-updated-states",
    ("x", "r"),
    ("shifted", "missing-term"),
    "the states are those after each step",
    bwd=lambda residuals, dy: logistic_map_bwd(residuals, dy, True),
)

# A wrong power, or another value ---------------------------------------------------------------


def gaussian_loss(m, lv, t):
    return 0.5 * (lv + (t - m) ** 2 * jnp.exp(-lv)).sum(-1)


def gaussian_loss_bwd(residuals, dy):
    m, lv, t = residuals
    dy, g = dy[:, None], (t - m) * jnp.exp(-lv)
    return -dy * g, 0.5 * dy * (1 - (t - m) * g), dy * g


cases.right(
    "gaussian-loss",
    gaussian_loss,
    lambda *args: (gaussian_loss(*args), args),
    gaussian_loss_bwd,
    lambda rng: (normal(rng, 3, 4), normal(rng, 3, 4), normal(rng, 3, 4)),
)
cases.wrong(
    "gaussian-loss-over-deviation",
    "m",
    "missing-term",
    "divided by the deviation, not the variance",
    edit={0: lambda d, res, dy: -dy[:, None] * (res[2] - res[0]) * jnp.exp(-res[1] / 2)},
)
cases.wrong(
    "gaussian-loss-deviation-for-variance",
    "lv",
    "missing-term",
    "the slope by the variance has the deviation in it",
    edit={
        1: lambda d, res, dy: (
            0.5 * dy[:, None] * (1 - (res[2] - res[0]) ** 2 * jnp.exp(-res[1] / 2))
        )
    },
)


def cosine(a, b):
    return (a * b).sum(-1) / (jnp.sqrt((a * a).sum(-1)) * jnp.sqrt((b * b).sum(-1)))


def cosine_bwd(residuals, dy, power=2):
    a, b = residuals
    lengths = [jnp.sqrt((v * v).sum(-1))[:, None] for v in (a, b)]
    y, dy = cosine(a, b)[:, None], dy[:, None]
    da = b / (lengths[0] * lengths[1]) - y / lengths[0] ** power * a
    db = a / (lengths[0] * lengths[1]) - y / lengths[1] ** 2 * b
    return dy * da, dy * db


cases.right(
    "cosine-of-rows",
    cosine,
    lambda *args: (cosine(*args), args),
    cosine_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 4, 3)),
)
cases.wrong(
    "cosine-length-not-squared",
    "a",
    "missing-term",
    "the length stands for its square",
    bwd=lambda residuals, dy: cosine_bwd(residuals, dy, 1),
)


cases.right(
    "attention-of-one-length",
    attention,
    lambda *args: (attention(*args), args),
    attention_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 4, 3), normal(rng, 4, 3)),
)
cases.wrong(
    "attention-scores-for-weights",
    "v",
    "missing-term",
    "dv takes the scores for the weights",
    edit={2: lambda d, res, dy: (res[0] @ res[1].T / 2).T @ dy},
)
cases.wrong(
    "attention-k-for-q",
    "k",
    "missing-term",
    "dk takes k for q",
    edit={1: lambda d, res, dy: scores_grad(*res, dy).T @ res[1]},
)


def low_rank(x, a, b):
    return x + 0.5 * (x @ a) @ b


def low_rank_bwd(residuals, dy):
    x, a, b = residuals
    dz = 0.5 * dy
    return dy + (dz @ b.T) @ a.T, x.T @ (dz @ b.T), (x @ a).T @ dz


cases.right(
    "low-rank-update",
    low_rank,
    lambda *args: (low_rank(*args), args),
    low_rank_bwd,
    lambda rng: (normal(rng, 5, 4), normal(rng, 4, 2), normal(rng, 2, 4)),
)
cases.wrong(
    "low-rank-of-the-input",
    "b",
    "missing-term",
    "the input's first columns stand for the product with a",
    edit={2: lambda d, res, dy: res[0][:, :2].T @ (0.5 * dy)},
)


def experts(x, g, w):
    return jnp.einsum("ne,nd,edf->nf", softmax(x @ g), x, w)


def experts_bwd(residuals, dy):
    x, g, w = residuals
    p = softmax(x @ g)
    (dl,) = softmax_bwd(p, jnp.einsum("nf,nd,edf->ne", dy, x, w))
    dx = jnp.einsum("ne,nf,edf->nd", p, dy, w) + dl @ g.T
    return dx, x.T @ dl, jnp.einsum("ne,nd,nf->edf", p, x, dy)


cases.right(
    "soft-experts",
    experts,
    lambda *args: (experts(*args), args),
    experts_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 3, 2), normal(rng, 2, 3, 3)),
)
cases.wrong(
    "experts-unweighted",
    "w",
    "missing-term",
    "every expert learns from every example alike",
    edit={2: lambda d, res, dy: jnp.broadcast_to(res[0].T @ dy, d.shape)},
)
cases.wrong(
    "experts-gate-constant",
    "x",
    "missing-term",
    "the gate's path is left out",
    edit={0: lambda d, res, dy: jnp.einsum("ne,nf,edf->nd", softmax(res[0] @ res[1]), dy, res[2])},
)

# Others of the same trial ----------------------------------------------------------------------


def dilated(x, w):
    return sum(x[2 * k : 2 * k + 5] @ w[k] for k in range(3))


def dilated_bwd(residuals, dy, step=2):
    x, w = residuals
    dx = jnp.zeros_like(x)
    for k in range(3):
        dx = dx.at[step * k : step * k + 5].add(dy @ w[k].T)
    return dx, jnp.stack([x[step * k : step * k + 5].T @ dy for k in range(3)])


cases.right(
    "dilated-taps",
    dilated,
    lambda *args: (dilated(*args), args),
    dilated_bwd,
    lambda rng: (normal(rng, 9, 2), normal(rng, 3, 2, 3)),
)
cases.wrong(
    "dilation-forgotten",
    ("x", "w"),
    ("shifted", "missing-term"),
    "the backward has no dilation",
    bwd=lambda residuals, dy: dilated_bwd(residuals, dy, 1),
)


def quadratic(x, s):
    return 0.5 * ((x @ s) * x).sum(-1)


cases.right(
    "half-quadratic-form",
    quadratic,
    lambda *args: (quadratic(*args), args),
    lambda res, dy: (
        0.5 * dy[:, None] * (res[0] @ (res[1] + res[1].T)),
        0.5 * jnp.einsum("n,ni,nj->ij", dy, res[0], res[0]),
    ),
    lambda rng: (normal(rng, 4, 3), normal(rng, 3, 3)),
)
cases.wrong(
    "quadratic-taken-for-symmetric",
    "x",
    ("missing-term", "transposed"),
    "s is taken for symmetric",
    edit={0: lambda d, res, dy: dy[:, None] * (res[0] @ res[1])},
)


def log_determinant(a):
    return jnp.linalg.slogdet(a)[1]


cases.right(
    "log-of-determinant",
    log_determinant,
    lambda a: (log_determinant(a), a),
    lambda a, dy: (dy * jnp.linalg.inv(a).T,),
    lambda rng: (normal(rng, 3, 3) + 2 * jnp.eye(3, dtype="float32"),),
)
cases.wrong(
    "log-determinant-inverse-not-turned",
    "a",
    "transposed",
    "the inverse for its transpose",
    edit={0: lambda d, a, dy: d.T},
)
cases.wrong(
    "log-determinant-of-determinant",
    "a",
    ("scale", "missing-term"),
    "the logarithm's derivative is left out",
    edit={0: lambda d, a, dy: d * jnp.linalg.det(a)},
)


def midpoints(x):
    return 0.5 * (x[:-1] + x[1:])


def midpoints_bwd(_, dy, mode="constant"):
    before, after = jnp.pad(dy, ((1, 0), (0, 0)), mode), jnp.pad(dy, ((0, 1), (0, 0)), mode)
    return (0.5 * (before + after),)


cases.right(
    "midpoints",
    midpoints,
    lambda x: (midpoints(x), None),
    midpoints_bwd,
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong(
    "midpoints-edge-repeated",
    "x",
    "border",
    "the edge is repeated where zeros belong",
    bwd=lambda _, dy: midpoints_bwd(_, dy, "edge"),
)


def tempered(x, t):
    return t * jax.nn.logsumexp(x / t, -1)


def tempered_bwd(residuals, dy):
    x, t = residuals
    p, top = softmax(x / t), jax.nn.logsumexp(x / t, -1)
    return dy[:, None] * p, (dy * (top - (p * x).sum(-1) / t)).sum()


cases.right(
    "tempered-maximum",
    tempered,
    lambda *args: (tempered(*args), args),
    tempered_bwd,
    lambda rng: (normal(rng, 4, 5), uniform(rng, low=0.5, high=2.0)),
)
cases.wrong(
    "temperature-outside-alone",
    "t",
    "missing-term",
    "the temperature under the sum is a constant",
    edit={1: lambda d, res, dy: (dy * jax.nn.logsumexp(res[0] / res[1], -1)).sum()},
)
cases.wrong(
    "temperature-not-under-softmax",
    "x",
    "missing-term",
    "softmax of x, not of x / t",
    edit={0: lambda d, res, dy: dy[:, None] * softmax(res[0])},
)
