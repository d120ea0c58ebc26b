"""Rules whose parts are made of one another: solves, recurrences, fixed points, tables.

A held-out trial of the checker found these: two right ones were refused, the wrong ones unnamed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.corpus.case import Family, normal, uniform

cases = Family("structure")


# Linear algebra --------------------------------------------------------------------------------


def lower_solve(matrix, b, transposed=False):
    return lax.linalg.triangular_solve(
        matrix, b, left_side=True, lower=True, transpose_a=transposed
    )


def lower_solve_bwd(residuals, dx, transposed=True, sign=-1.0):
    matrix, x = residuals
    db = lower_solve(matrix, dx, transposed)
    return sign * jnp.tril(db @ x.T), db


cases.right(
    "lower-solve",
    lambda matrix, b: lower_solve(matrix, b),
    lambda matrix, b: (lower_solve(matrix, b), (matrix, lower_solve(matrix, b))),
    lower_solve_bwd,
    lambda rng: (jnp.tril(normal(rng, 4, 4)) + 3 * jnp.eye(4, dtype="float32"), normal(rng, 4, 2)),
)
cases.wrong(
    "lower-solve-not-transposed",
    ("matrix", "b"),
    "transposed",
    "L x = db is solved for Lᵀ x = db, and dL is made of it",
    bwd=lambda residuals, dx: lower_solve_bwd(residuals, dx, transposed=False),
)


def fixed_point(w, b):
    return lax.scan(lambda z, _: (jnp.tanh(w @ z + b), None), jnp.zeros_like(b), None, length=60)[0]


def fixed_point_bwd(residuals, dz, transposed=True, once=False):
    w, z = residuals
    slope = 1 - z * z
    inner = jnp.eye(len(z), dtype=z.dtype) - slope[:, None] * w
    u = slope * (dz if once else jnp.linalg.solve(inner.T if transposed else inner, dz))
    return jnp.outer(u, z), u


cases.right(
    "fixed-point",
    fixed_point,
    lambda w, b: (fixed_point(w, b), (w, fixed_point(w, b))),
    fixed_point_bwd,
    lambda rng: (0.2 * normal(rng, 4, 4), normal(rng, 4)),
)
cases.wrong(
    "fixed-point-not-transposed",
    ("w", "b"),
    "transposed",
    "(1 - J) for (1 - J)ᵀ",
    bwd=lambda residuals, dz: fixed_point_bwd(residuals, dz, transposed=False),
)
cases.wrong(
    "fixed-point-one-step",
    ("w", "b"),
    "missing-term",
    "the derivative of the last step alone",
    bwd=lambda residuals, dz: fixed_point_bwd(residuals, dz, once=True),
)


# Recurrences -----------------------------------------------------------------------------------


def recurrence(decay, b):
    def joined(first, then):
        return first[0] * then[0], then[0] * first[1] + then[1]

    return lax.associative_scan(joined, (decay, b))[1]


def recurrence_bwd(residuals, dh, shifted=True):
    decay, h = residuals
    following = jnp.concatenate([decay[1:], jnp.ones_like(decay[:1])]) if shifted else decay

    def step(g, inputs):
        decay_t, dh_t = inputs
        g = g * decay_t + dh_t
        return g, g

    g = lax.scan(step, jnp.zeros_like(dh[0]), (following, dh), reverse=True)[1]
    return g * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]), g


cases.right(
    "associative-recurrence",
    recurrence,
    lambda decay, b: (recurrence(decay, b), (decay, recurrence(decay, b))),
    recurrence_bwd,
    lambda rng: (uniform(rng, 6, 3, low=0.2, high=0.9), normal(rng, 6, 3)),
)
cases.wrong(
    "associative-recurrence-decay-unshifted",
    ("decay", "b"),
    "shifted",
    "the decay of step t stands where that of t + 1 belongs",
    bwd=lambda residuals, dh: recurrence_bwd(residuals, dh, shifted=False),
)


def weights_of(x):
    return jnp.arange(2.0, 2.0 + x.shape[1], dtype=x.dtype)


cases.right(
    "weighted-cumsum",
    lambda x: weights_of(x) * lax.cumsum(x, 1),
    lambda x: (weights_of(x) * lax.cumsum(x, 1), None),
    lambda _, dy: (lax.cumsum(dy * weights_of(dy), 1, reverse=True),),
    lambda rng: (normal(rng, 3, 5),),
)
cases.wrong(
    "weighted-cumsum-forward",
    "x",
    ("transposed", "flipped"),
    "the running sum of the backward runs forward",
    bwd=lambda _, dy: (lax.cumsum(dy * weights_of(dy), 1),),
)


# Places ----------------------------------------------------------------------------------------


def sampled(image, t):
    i = jnp.clip(jnp.floor(t), 0, image.shape[0] - 2)
    left = i.astype("int32")
    return image[left] * (1 - (t - i)) + image[left + 1] * (t - i)


def sampled_bwd(residuals, dy, back=0):
    image, t = residuals
    i = jnp.clip(jnp.floor(t), 0, image.shape[0] - 2)
    left = i.astype("int32")
    dimage = jnp.zeros_like(image).at[left].add(dy * (1 - (t - i))).at[left + 1].add(dy * (t - i))
    return dimage, dy * (image[left + 1 - back] - image[left - back])


cases.right(
    "grid-sample",
    sampled,
    lambda image, t: (sampled(image, t), (image, t)),
    sampled_bwd,
    lambda rng: (normal(rng, 7), uniform(rng, 9, low=0.1, high=5.9)),
)
cases.wrong(
    "grid-sample-backward-difference",
    "t",
    "shifted",
    "the difference of the cell before",
    bwd=lambda residuals, dy: sampled_bwd(residuals, dy, back=1),
)


# Right, and once refused -----------------------------------------------------------------------


def spectral(w, u, x):
    v = lax.stop_gradient(w.T @ u)
    v = v / jnp.linalg.norm(v)
    u = lax.stop_gradient(w @ v)
    u = u / jnp.linalg.norm(u)
    return x @ (w / (u @ w @ v))


def spectral_bwd(residuals, dy):
    w, given, x = residuals
    v = w.T @ given
    v = v / jnp.linalg.norm(v)
    u = w @ v
    u = u / jnp.linalg.norm(u)
    sigma = u @ w @ v
    dw = x.T @ dy
    dw = dw / sigma - (dw * w).sum() / sigma**2 * jnp.outer(u, v)
    return dw, jnp.zeros_like(given), dy @ (w / sigma).T


cases.right(
    "spectral-norm-stopped",
    spectral,
    lambda *args: (spectral(*args), args),
    spectral_bwd,
    lambda rng: (normal(rng, 4, 3), normal(rng, 4), normal(rng, 5, 4)),
    "the forward stops gradients that the backward, differentiated again, does not",
)


def softmax_bwd(p, dy):
    return (p * (dy - (p * dy).sum(-1, keepdims=True)),)


cases.right(
    "softmax-of-one-hot",
    lambda x: jax.nn.softmax(x, -1),
    lambda x: (jax.nn.softmax(x, -1), jax.nn.softmax(x, -1)),
    softmax_bwd,
    lambda rng: (jnp.eye(4, dtype="float32") * 50,),
    "so saturated that every answer is rounding",
)

WINDOW = np.hanning(8)


def windowed(x):
    return x * jnp.asarray(WINDOW.astype("float32"), x.dtype)


cases.right(
    "two-tables",
    windowed,
    lambda x: (windowed(x), None),
    lambda _, dy: (dy * jnp.asarray(WINDOW, dy.dtype),),
    lambda rng: (normal(rng, 3, 8),),
    "a window in float32 forward, and the same in the cotangent's dtype backward",
)
