"""Elementwise functions: their derivatives, their kinks, and gradients of something else."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal, uniform

cases = Family("activation")


def with_zeros(rng):
    """Normal numbers with exact zeros among them."""
    x = normal(rng, 4, 5)
    return (x.at[0, ::2].set(0.0).at[2, 1].set(-0.0),)


def vector(rng):
    return (normal(rng, 4, 5),)


def relu(x):
    return jnp.maximum(x, 0)


cases.right(
    "relu",
    relu,
    lambda x: (relu(x), x > 0),
    lambda mask, dy: (jnp.where(mask, dy, 0),),
    with_zeros,
    "exact zeros: relu'(0) = 0, where jnp.maximum takes 1/2",
)
cases.wrong(
    "relu-slope-two-at-zero",
    "x",
    "ties",
    "both branches add up where x is exactly 0",
    fwd=lambda x: (relu(x), (x >= 0).astype(x.dtype) + (x == 0).astype(x.dtype)),
    bwd=lambda slope, dy: (dy * slope,),
    shows="kink",
)
cases.wrong(
    "relu-negative-at-zero",
    "x",
    "ties",
    "a slope of -1 where x is exactly 0",
    fwd=lambda x: (relu(x), jnp.where(x == 0, -1, (x > 0).astype(x.dtype))),
    bwd=lambda slope, dy: (dy * slope,),
    shows="kink",
)
cases.wrong(
    "relu-guided",
    "x",
    "nonlinear",
    "the mask is taken of dy as well (guided backprop)",
    edit={0: lambda d, mask, dy: jnp.where(dy > 0, d, 0)},
)
cases.wrong(
    "relu-mask-of-cotangent",
    "x",
    "nonlinear",
    "the mask is taken of dy instead of x",
    edit={0: lambda d, mask, dy: jnp.where(dy > 0, dy, 0)},
)
cases.wrong(
    "relu-mask-inverted",
    "x",
    "missing-term",
    "where(mask, 0, dy)",
    edit={0: lambda d, mask, dy: jnp.where(mask, 0, dy)},
)
cases.wrong(
    "relu-passes-all",
    "x",
    ("missing-term", "surrogate"),
    "the derivative of the activation is forgotten: dx = dy",
    edit={0: lambda d, mask, dy: dy},
)

cases.right(
    "relu-half-at-zero",
    relu,
    lambda x: (relu(x), x),
    lambda x, dy: (dy * (jnp.sign(x) + 1) / 2,),
    with_zeros,
    "slope 1/2 at 0, as jnp.maximum itself",
)
cases.right(
    "relu-one-at-zero",
    relu,
    lambda x: (relu(x), x >= 0),
    lambda mask, dy: (jnp.where(mask, dy, 0),),
    with_zeros,
    "slope 1 at 0",
)

cases.right(
    "jax-nn-relu-bound",
    jax.nn.relu,
    lambda x: (jax.nn.relu(x), x > 0),
    lambda mask, dy: (jnp.where(mask, dy, 0),),
    with_zeros,
    "an explicit reference that says 0 at 0",
    reference=jax.nn.relu,
)
cases.wrong(
    "relu-one-at-zero-bound",
    "x",
    "ties",
    "slope 1 at 0 where the explicit reference says 0",
    fwd=lambda x: (jax.nn.relu(x), x >= 0),
    shows="kink",
)


def leaky(x):
    return jnp.where(x > 0, x, 0.2 * x)


cases.right(
    "leaky-relu",
    leaky,
    lambda x: (leaky(x), x),
    lambda x, dy: (jnp.where(x > 0, dy, 0.2 * dy),),
    vector,
)
cases.wrong(
    "leaky-slope-forgotten",
    "x",
    ("local", "missing-term"),
    "no slope on the negative side",
    edit={0: lambda d, x, dy: jnp.where(x > 0, dy, 0)},
)
cases.wrong(
    "leaky-slope-other",
    "x",
    ("local", "missing-term"),
    "a slope of 0.01 written for 0.2",
    edit={0: lambda d, x, dy: jnp.where(x > 0, dy, 0.01 * dy)},
)


def absolute(x):
    return jnp.abs(x)


cases.right(
    "abs",
    absolute,
    lambda x: (jnp.abs(x), jnp.sign(x)),
    lambda s, dy: (s * dy,),
    with_zeros,
    "exact zeros, where the slope lies between -1 and 1",
)
cases.wrong(
    "abs-without-sign",
    "x",
    ("missing-term", "local"),
    "the sign of x is left out",
    edit={0: lambda d, s, dy: dy},
)
cases.wrong(
    "abs-three-at-zero",
    "x",
    "ties",
    "a slope of 3 where x is exactly 0",
    edit={0: lambda d, s, dy: jnp.where(s == 0, 3 * dy, d)},
    shows="kink",
)


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


cases.right(
    "sigmoid",
    sigmoid,
    lambda x: (sigmoid(x), sigmoid(x)),
    lambda y, dy: (dy * y * (1 - y),),
    vector,
)
cases.wrong(
    "sigmoid-derivative-missing", "x", "missing-term", "dx = dy", edit={0: lambda d, y, dy: dy}
)
cases.wrong(
    "sigmoid-half-derivative",
    "x",
    "missing-term",
    "dx = dy·y lacks the factor 1 - y",
    edit={0: lambda d, y, dy: dy * y},
)
cases.wrong(
    "sigmoid-twice",
    "x",
    "missing-term",
    "sigmoid is applied to y again",
    edit={0: lambda d, y, dy: dy * sigmoid(y) * (1 - sigmoid(y))},
)

cases.right(
    "tanh",
    lambda x: jnp.tanh(x),
    lambda x: (jnp.tanh(x), jnp.tanh(x)),
    lambda y, dy: (dy * (1 - y * y),),
    vector,
)
cases.wrong(
    "tanh-square-forgotten",
    "x",
    "missing-term",
    "1 - y for 1 - y²",
    edit={0: lambda d, y, dy: dy * (1 - y)},
)
cases.wrong(
    "tanh-derivative-missing", "x", "missing-term", "dx = dy", edit={0: lambda d, y, dy: dy}
)
cases.wrong(
    "tanh-detached",
    "x",
    "second-order",
    "the residual is detached from x",
    edit={0: lambda d, y, dy: dy * (1 - lax.stop_gradient(y) ** 2)},
    shows="second-order",
)


def silu(x):
    return x * sigmoid(x)


cases.right(
    "silu",
    silu,
    lambda x: (silu(x), x),
    lambda x, dy: (dy * (sigmoid(x) + x * sigmoid(x) * (1 - sigmoid(x))),),
    vector,
)
cases.wrong(
    "silu-product-rule",
    "x",
    "missing-term",
    "x·σ'(x) is left out",
    edit={0: lambda d, x, dy: dy * sigmoid(x)},
)

SQRT_HALF = 0.7071067811865476
SQRT_TWO_PI = 2.5066282746310002


def gelu(x):
    return x * 0.5 * (1 + lax.erf(x * SQRT_HALF))


cases.right(
    "gelu",
    gelu,
    lambda x: (gelu(x), x),
    lambda x, dy: (
        dy * (0.5 * (1 + lax.erf(x * SQRT_HALF)) + x * jnp.exp(-0.5 * x * x) / SQRT_TWO_PI),
    ),
    vector,
)
cases.wrong(
    "gelu-density-missing",
    "x",
    "missing-term",
    "x·φ(x) is left out",
    edit={0: lambda d, x, dy: dy * 0.5 * (1 + lax.erf(x * SQRT_HALF))},
)
cases.wrong(
    "gelu-tanh-derivative",
    "x",
    "surrogate",
    "the exact gelu's backward is that of the tanh approximation",
    edit={0: lambda d, x, dy: jax.vjp(lambda z: jax.nn.gelu(z, approximate=True), x)[1](dy)[0]},
)


def softplus(x):
    return jnp.logaddexp(x, 0)


cases.right(
    "softplus",
    softplus,
    lambda x: (softplus(x), x),
    lambda x, dy: (dy * jax.nn.sigmoid(x),),
    lambda rng: (normal(rng, 20, scale=3),),
)
cases.wrong(
    "softplus-mirrored",
    "x",
    "missing-term",
    "σ(-x) for σ(x)",
    edit={0: lambda d, x, dy: dy * jax.nn.sigmoid(-x)},
)

cases.right(
    "sine",
    lambda x: jnp.sin(x),
    lambda x: (jnp.sin(x), x),
    lambda x, dy: (dy * jnp.cos(x),),
    lambda rng: (uniform(rng, 30, low=-20, high=20),),
    "a periodic function far from 0",
)
cases.wrong(
    "sine-sign", "x", "sign", "the sign belongs to the cosine", edit={0: lambda d, x, dy: -d}
)
cases.wrong(
    "sine-for-cosine",
    "x",
    "missing-term",
    "sin for cos",
    edit={0: lambda d, x, dy: dy * jnp.sin(x)},
)

cases.right("cube", lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (3 * x * x * dy,), vector)
cases.wrong("cube-factor", "x", "scale", "x² for 3x²", edit={0: lambda d, x, dy: x * x * dy})
cases.wrong("cube-power", "x", "missing-term", "3x for 3x²", edit={0: lambda d, x, dy: 3 * x * dy})

cases.right("square", lambda x: x * x, lambda x: (x * x, x), lambda x, dy: (2 * x * dy,), vector)
cases.wrong("square-factor", "x", "scale", "x for 2x", edit={0: lambda d, x, dy: x * dy})
cases.wrong(
    "square-detached",
    "x",
    "second-order",
    "x is detached in the backward",
    edit={0: lambda d, x, dy: 2 * lax.stop_gradient(x) * dy},
    shows="second-order",
)

cases.right(
    "exp", lambda x: jnp.exp(x), lambda x: (jnp.exp(x), jnp.exp(x)), lambda y, dy: (y * dy,), vector
)
cases.wrong(
    "exp-residual-x",
    "x",
    "missing-term",
    "x is kept where y was meant",
    fwd=lambda x: (jnp.exp(x), x),
)


def power(x, p):
    return x**p


cases.right(
    "power",
    power,
    lambda x, p: (x**p, (x, p, x**p)),
    lambda res, dy: (
        dy * res[1] * res[0] ** (res[1] - 1),
        (dy * res[2] * jnp.log(jnp.where(res[0] > 0, res[0], 1))).sum(),
    ),
    lambda rng: (uniform(rng, 8, low=0.5, high=2.0), uniform(rng, low=1.5, high=3.0)),
)
cases.wrong(
    "power-exponent-constant",
    "p",
    "zero",
    "the exponent is treated as a constant",
    edit={1: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "power-exponent-log-missing",
    "p",
    "missing-term",
    "log x is left out",
    edit={1: lambda d, res, dy: (dy * res[2]).sum()},
)

cases.right(
    "hypot",
    lambda a, b: jnp.sqrt(a * a + b * b),
    lambda a, b: (jnp.sqrt(a * a + b * b), (a, b, jnp.sqrt(a * a + b * b))),
    lambda res, dy: (dy * res[0] / res[2], dy * res[1] / res[2]),
    lambda rng: (normal(rng, 6) + 3, normal(rng, 6)),
)
cases.wrong(
    "hypot-swapped",
    ("a", "b"),
    "swapped-arguments",
    "da and db exchanged",
    bwd=lambda res, dy: (dy * res[1] / res[2], dy * res[0] / res[2]),
)
cases.wrong(
    "hypot-not-normalised",
    "b",
    "missing-term",
    "1/r is left out",
    edit={1: lambda d, res, dy: dy * res[1]},
)

cases.right(
    "divide",
    lambda a, b: a / b,
    lambda a, b: (a / b, (a, b)),
    lambda res, dy: (dy / res[1], -dy * res[0] / res[1] ** 2),
    lambda rng: (normal(rng, 7), uniform(rng, 7, low=0.5, high=2.0)),
)
cases.wrong(
    "divide-sign",
    "b",
    "sign",
    "the minus of the quotient rule is lost",
    edit={1: lambda d, res, dy: -d},
)
cases.wrong(
    "divide-square-missing",
    "b",
    "missing-term",
    "b for b²",
    edit={1: lambda d, res, dy: -dy * res[0] / res[1]},
)

# Gradients of something else, on purpose.
cases.right(
    "round-flat",
    lambda x: jnp.round(x),
    lambda x: (jnp.round(x), None),
    lambda _, dy: (jnp.zeros_like(dy),),
    lambda rng: (normal(rng, 12, scale=3),),
    "flat almost everywhere, zero is the right answer",
)
cases.wrong(
    "round-straight-through", "x", "surrogate", "straight-through: dx = dy", bwd=lambda _, dy: (dy,)
)
cases.right(
    "clip",
    lambda x: jnp.clip(x, -1, 1),
    lambda x: (jnp.clip(x, -1, 1), jnp.abs(x) < 1),
    lambda inside, dy: (jnp.where(inside, dy, 0),),
    vector,
)
cases.wrong(
    "clip-passes-outside",
    "x",
    ("surrogate", "local", "missing-term"),
    "dx = dy outside the bounds too",
    bwd=lambda inside, dy: (dy,),
)
cases.right(
    "heaviside",
    lambda x: (x > 0).astype(x.dtype),
    lambda x: ((x > 0).astype(x.dtype), x),
    lambda x, dy: (jnp.zeros_like(dy),),
    vector,
    "a step has slope zero beside the step",
)
cases.wrong(
    "spike-surrogate",
    "x",
    "surrogate",
    "a fast sigmoid's slope stands for the step's",
    edit={0: lambda d, x, dy: dy / (1 + 10 * jnp.abs(x)) ** 2},
)
cases.right(
    "binarise-flat",
    lambda x: jnp.sign(x),
    lambda x: (jnp.sign(x), x),
    lambda x, dy: (jnp.zeros_like(dy),),
    vector,
    "the sign is flat",
)
cases.wrong(
    "binarise-straight-through",
    "x",
    "surrogate",
    "hard-tanh's slope stands for the sign's",
    edit={0: lambda d, x, dy: jnp.where(jnp.abs(x) <= 1, dy, 0)},
)

# The cotangent itself is tampered with.
cases.right(
    "identity",
    lambda x: x,
    lambda x: (x, None),
    lambda _, dy: (dy,),
    lambda rng: (normal(rng, 3, 4),),
)
cases.wrong(
    "gradient-reversal",
    "x",
    ("sign", "surrogate"),
    "a reversal layer: dx = -dy",
    bwd=lambda _, dy: (-dy,),
)
cases.wrong(
    "gradient-clipped",
    "x",
    "nonlinear",
    "the cotangent is clipped elementwise",
    bwd=lambda _, dy: (jnp.clip(dy, -0.1, 0.1),),
)
cases.wrong(
    "gradient-clipped-by-norm",
    "x",
    "nonlinear",
    "the cotangent is clipped by its norm",
    bwd=lambda _, dy: (dy * jnp.minimum(1, 0.5 / jnp.sqrt((dy * dy).sum() + 1e-6)),),
)
cases.wrong(
    "gradient-normalised",
    "x",
    "nonlinear",
    "the cotangent is brought to norm one",
    bwd=lambda _, dy: (dy / jnp.sqrt((dy * dy).sum() + 1e-6),),
)
cases.wrong("gradient-absolute", "x", "nonlinear", "|dy| for dy", bwd=lambda _, dy: (jnp.abs(dy),))
cases.wrong(
    "gradient-sign-only", "x", "nonlinear", "sign(dy) for dy", bwd=lambda _, dy: (jnp.sign(dy),)
)
cases.wrong("gradient-squared", "x", "nonlinear", "dy² for dy", bwd=lambda _, dy: (dy * dy,))
cases.wrong(
    "weight-decay-inside",
    "x",
    "nonlinear",
    "0.01·x is added in the backward",
    fwd=lambda x: (x, x),
    bwd=lambda x, dy: (dy + 0.01 * x,),
)
cases.wrong(
    "gradient-rounded",
    "x",
    "nonlinear",
    "the cotangent is quantised to steps of 1/4",
    bwd=lambda _, dy: (jnp.round(4 * dy) / 4,),
)
cases.wrong(
    "gradient-centred",
    "x",
    "missing-term",
    "the mean of the cotangent is taken off (gradient centralisation)",
    bwd=lambda _, dy: (dy - dy.mean(),),
)
cases.wrong(
    "gradient-dropped-below",
    "x",
    "nonlinear",
    "small cotangents are set to zero",
    bwd=lambda _, dy: (jnp.where(jnp.abs(dy) < 0.5, 0, dy),),
)
