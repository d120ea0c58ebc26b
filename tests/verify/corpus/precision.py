"""Right in exact arithmetic, wrong in a dtype; and NaN where the input is finite."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal, uniform

cases = Family("precision")

ROWS = 1024


def accumulator(dtype):
    """The dtype in which sums of `dtype` are to be taken."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def dense(x, w):
    return x @ w


def wide(a, b):
    """aᵀ b with float32 sums, in a's dtype."""
    d = jnp.matmul(a.T, b, preferred_element_type=accumulator(a.dtype))
    return d.astype(a.dtype)


def running(x, dy):
    """Σ_n x_n dy_nᵀ, added up one by one in the dtype of x."""

    def step(total, rows):
        return total + jnp.outer(*rows), None

    return lax.scan(step, jnp.zeros((x.shape[1], dy.shape[1]), x.dtype), (x, dy))[0]


def tall(dtype):
    def inputs(rng):
        return normal(rng, ROWS, 2, dtype=dtype) + 1, normal(rng, 2, 2, dtype=dtype)

    return inputs


def dense_bwd(residuals, dy):
    x, w = residuals
    return wide(dy.T, w.T), wide(x, dy)


for _dtype in ("bfloat16", "float16"):
    cases.right(
        f"dense-{_dtype}",
        dense,
        lambda x, w: (dense(x, w), (x, w)),
        dense_bwd,
        tall(_dtype),
        f"{_dtype} with float32 sums",
    )
    cases.wrong(
        f"running-sum-{_dtype}",
        "w",
        "precision",
        f"the sum over {ROWS} rows runs in {_dtype}",
        edit={1: lambda d, res, dy: running(res[0], dy)},
        shows="precision",
    )


def total(x, a):
    return a * x.sum(dtype=accumulator(x.dtype)).astype(x.dtype)


def total_bwd(residuals, dy):
    x, a = residuals
    sum_x = x.sum(dtype=accumulator(x.dtype)).astype(x.dtype)
    return jnp.full_like(x, dy * a), dy * sum_x


cases.right(
    "total-bfloat16",
    total,
    lambda x, a: (total(x, a), (x, a)),
    total_bwd,
    lambda rng: (uniform(rng, 2000, low=0.5, dtype="bfloat16"), normal(rng, dtype="bfloat16")),
    "2000 terms in bfloat16, summed in float32",
)
cases.wrong(
    "total-stalls",
    "a",
    "precision",
    "a running bfloat16 sum stalls at 256",
    edit={
        1: lambda d, res, dy: (
            dy * lax.scan(lambda s, v: (s + v, None), jnp.zeros((), res[0].dtype), res[0])[0]
        )
    },
    shows="precision",
)


def small_dense(rng):
    return normal(rng, 6, 5), normal(rng, 5, 4)


def narrowed(dtype, *arrays):
    return [a.astype(dtype).astype(a.dtype) for a in arrays]


cases.right(
    "dense-float32",
    dense,
    lambda x, w: (dense(x, w), (x, w)),
    lambda res, dy: (dy @ res[1].T, res[0].T @ dy),
    small_dense,
)
cases.wrong(
    "residual-in-bfloat16",
    "w",
    "precision",
    "x is kept as bfloat16 to save memory",
    edit={1: lambda d, res, dy: narrowed(jnp.bfloat16, res[0])[0].T @ dy},
)
cases.wrong(
    "cotangent-in-float16",
    "x",
    "precision",
    "dy is cast to float16 first",
    edit={0: lambda d, res, dy: narrowed(jnp.float16, dy)[0] @ res[1].T},
)
cases.wrong(
    "product-in-bfloat16",
    ("x", "w"),
    "precision",
    "both products run in bfloat16",
    bwd=lambda res, dy: (
        (dy.astype(jnp.bfloat16) @ res[1].astype(jnp.bfloat16).T).astype(dy.dtype),
        (res[0].astype(jnp.bfloat16).T @ dy.astype(jnp.bfloat16)).astype(dy.dtype),
    ),
)
cases.wrong(
    "result-rounded",
    "w",
    "precision",
    "dw is rounded to bfloat16 at the end",
    edit={1: lambda d, res, dy: narrowed(jnp.bfloat16, d)[0]},
)


def standardise(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True))


def standardise_bwd(x, dy, variance=lambda x: x.var(-1, keepdims=True)):
    rstd = lax.rsqrt(variance(x))
    y = (x - x.mean(-1, keepdims=True)) * rstd
    return (rstd * (dy - dy.mean(-1, keepdims=True) - y * (y * dy).mean(-1, keepdims=True)),)


cases.right(
    "standardise-offset",
    standardise,
    lambda x: (standardise(x), x),
    standardise_bwd,
    lambda rng: (normal(rng, 4, 32) + 300,),
    "an offset of 300 standard deviations",
)
cases.wrong(
    "variance-by-moments",
    "x",
    "precision",
    "E[x²] - E[x]² cancels in float32",
    bwd=lambda x, dy: standardise_bwd(
        x, dy, lambda x: (x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2
    ),
    inputs=lambda rng: (normal(rng, 4, 32) + 300,),
    shows="precision",
)


cases.right(
    "sine-float16",
    lambda x: jnp.sin(x),
    lambda x: (jnp.sin(x), x),
    lambda x, dy: (dy * jnp.cos(x),),
    lambda rng: (normal(rng, 8, dtype="float16"),),
    "half precision throughout",
)
cases.wrong(
    "loss-scale-overflows",
    "x",
    ("nan", "precision"),
    "a loss scale of 2^17 beyond the range of float16",
    bwd=lambda x, dy: (
        (dy * jnp.asarray(131072.0).astype(dy.dtype))
        / jnp.asarray(131072.0).astype(dy.dtype)
        * jnp.cos(x),
    ),
    shows="precision",
)


def logistic(x):
    return jax.nn.sigmoid(x)


def large(rng):
    return (normal(rng, 12, scale=60).at[0].set(120.0).at[1].set(-120.0),)


cases.right(
    "sigmoid-saturated",
    logistic,
    lambda x: (logistic(x), x),
    lambda x, dy: (dy * logistic(x) * logistic(-x),),
    large,
    "arguments of ±120",
)
cases.wrong(
    "sigmoid-exp-squared",
    "x",
    "nan",
    "e/(1 + e)² with e = exp(x) is inf/inf for large x",
    edit={0: lambda d, x, dy: dy * jnp.exp(x) / (1 + jnp.exp(x)) ** 2},
    shows="nan",
)
cases.right(
    "softplus-saturated",
    lambda x: jnp.logaddexp(x, 0),
    lambda x: (jnp.logaddexp(x, 0), x),
    lambda x, dy: (dy * jax.nn.sigmoid(x),),
    large,
)
cases.wrong(
    "softplus-exp-ratio",
    "x",
    "nan",
    "exp(x)/(1 + exp(x)) is inf/inf for large x",
    edit={0: lambda d, x, dy: dy * (jnp.exp(x) / (1 + jnp.exp(x)))},
    shows="nan",
)


def softmax16(x):
    return jax.nn.softmax(x)


def naive_softmax_grad(x, dy):
    e = jnp.exp(x)
    y = e / e.sum(-1, keepdims=True)
    return y * (dy - (y * dy).sum(-1, keepdims=True))


cases.right(
    "softmax-float16",
    softmax16,
    lambda x: (softmax16(x), softmax16(x)),
    lambda y, dy: (y * (dy - (y * dy).sum(-1, keepdims=True)),),
    lambda rng: (normal(rng, 3, 4, dtype="float16") + 14,),
    "exp(14) overflows float16",
)
cases.wrong(
    "softmax-float16-overflow",
    "x",
    ("nan", "precision"),
    "the backward's exp takes no maximum off",
    shows="nan",
    fwd=lambda x: (softmax16(x), x),
    bwd=lambda x, dy: (naive_softmax_grad(x, dy),),
)


def length(x):
    return jnp.sqrt((x * x).sum(-1))


def safe_unit(x):
    n = length(x)[..., None]
    return jnp.where(n > 0, x / jnp.where(n > 0, n, 1), 0)


def with_zero_row(rng):
    return (normal(rng, 3, 4).at[1].set(0),)


cases.right(
    "norm-at-zero",
    length,
    lambda x: (length(x), x),
    lambda x, dy: (dy[:, None] * safe_unit(x),),
    with_zero_row,
    "a zero row, where the norm has a kink",
)
cases.wrong(
    "norm-at-zero-nan",
    "x",
    "nan",
    "x/|x| is 0/0 for the zero row",
    shows="nan",
    edit={0: lambda d, x, dy: dy[:, None] * x / length(x)[:, None]},
)


def root(x):
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def half_line(rng):
    return (jnp.abs(normal(rng, 8)).at[2].set(-1.0).at[5].set(-0.5),)


cases.right(
    "root-of-positive",
    root,
    lambda x: (root(x), x),
    lambda x, dy: (jnp.where(x > 0, dy / (2 * jnp.sqrt(jnp.where(x > 0, x, 1))), 0),),
    half_line,
    "the double where",
)
cases.wrong(
    "root-where-trap",
    "x",
    "nan",
    "where outside only: 0·nan for negative x",
    shows="nan",
    edit={0: lambda d, x, dy: (x > 0).astype(x.dtype) * dy / (2 * jnp.sqrt(x))},
)
cases.wrong(
    "root-where-trap-plain",
    "x",
    "nan",
    "autodiff's own where-trap",
    shows="nan",
    make=lambda: lambda x: jnp.where(x > 0, jnp.sqrt(x), 0),
)


def sinc(x):
    safe = jnp.where(x == 0, 1, x)
    return jnp.where(x == 0, 1, jnp.sin(safe) / safe)


def sinc_bwd(x, dy):
    safe = jnp.where(x == 0, 1, x)
    return (dy * jnp.where(x == 0, 0, (jnp.cos(safe) - jnp.sin(safe) / safe) / safe),)


cases.right(
    "sinc",
    sinc,
    lambda x: (sinc(x), x),
    sinc_bwd,
    lambda rng: (normal(rng, 6, scale=3).at[2].set(0),),
    "0/0 at an exact zero, limit 1",
)
cases.wrong(
    "sinc-at-zero",
    "x",
    "nan",
    "0/0 where x is exactly 0",
    shows="nan",
    edit={0: lambda d, x, dy: dy * (jnp.cos(x) - jnp.sin(x) / x) / x},
)


def guarded(x, mask):
    s = jnp.where(mask, x, -jnp.inf)
    top = jnp.where(mask.any(-1, keepdims=True), s.max(-1, keepdims=True), 0)
    e = jnp.where(mask, jnp.exp(s - lax.stop_gradient(top)), 0)
    n = e.sum(-1, keepdims=True)
    return e / jnp.where(n > 0, n, 1)


def guarded_inputs(rng):
    mask = jnp.asarray(rng.random((3, 4)) < 0.6).at[1].set(False).at[0, 0].set(True)
    return normal(rng, 3, 4), mask


cases.right(
    "masked-softmax",
    guarded,
    lambda x, mask: (guarded(x, mask), guarded(x, mask)),
    lambda y, dy: (y * (dy - (y * dy).sum(-1, keepdims=True)), None),
    guarded_inputs,
    "a row that is masked altogether",
)
cases.wrong(
    "masked-softmax-empty-row",
    "x",
    "nan",
    "0/0 in the row that is masked altogether",
    shows="nan",
    fwd=lambda x, mask: (guarded(x, mask), (x, mask)),
    bwd=lambda res, dy: (
        (lambda y: y * (dy - (y * dy).sum(-1, keepdims=True)))(
            jax.nn.softmax(jnp.where(res[1], res[0], -jnp.inf))
        ),
        None,
    ),
)


def hypotenuse(a, b):
    top = lax.stop_gradient(jnp.maximum(jnp.abs(a), jnp.abs(b)))
    return top * jnp.sqrt((a / top) ** 2 + (b / top) ** 2)


def tiny(rng):
    return normal(rng, 5, scale=1e-25) + 1e-25, normal(rng, 5, scale=1e-25) - 1e-25


cases.right(
    "hypot-tiny",
    hypotenuse,
    lambda a, b: (hypotenuse(a, b), (a, b)),
    lambda res, dy: (dy * res[0] / hypotenuse(*res), dy * res[1] / hypotenuse(*res)),
    tiny,
    "squares that underflow in float32",
)
cases.wrong(
    "hypot-underflow",
    ("a", "b"),
    ("nan", "precision"),
    "a² underflows to 0 in float32",
    shows="nan",
    bwd=lambda res, dy: (
        dy * res[0] / jnp.sqrt(res[0] ** 2 + res[1] ** 2),
        dy * res[1] / jnp.sqrt(res[0] ** 2 + res[1] ** 2),
    ),
)


def power(x):
    return x**1.5


cases.right(
    "power-at-zero",
    power,
    lambda x: (power(x), x),
    lambda x, dy: (1.5 * jnp.sqrt(x) * dy,),
    lambda rng: (uniform(rng, 6).at[3].set(0),),
    "an exact zero at the edge of the domain",
)
cases.wrong(
    "power-by-log",
    "x",
    "nan",
    "x^1.5 · 1.5/x is 0·inf at 0",
    shows="nan",
    edit={0: lambda d, x, dy: dy * power(x) * 1.5 / x},
)


def attention_row(q, k):
    return jax.nn.softmax(q @ k.T)


def attention_row_bwd(residuals, dy, cast=lambda p: p):
    q, k, p = residuals
    ds = cast(p) * (dy - (cast(p) * dy).sum(-1, keepdims=True))
    return ds @ k, ds.T @ q


cases.right(
    "scores",
    attention_row,
    lambda q, k: (attention_row(q, k), (q, k, attention_row(q, k))),
    attention_row_bwd,
    lambda rng: (normal(rng, 3, 2), normal(rng, 4, 2)),
)
cases.wrong(
    "probabilities-in-bfloat16",
    ("q", "k"),
    "precision",
    "p is kept as bfloat16",
    bwd=lambda res, dy: attention_row_bwd(res, dy, lambda p: narrowed(jnp.bfloat16, p)[0]),
)


cases.right(
    "log1p-tiny",
    lambda x: jnp.expm1(x),
    lambda x: (jnp.expm1(x), jnp.expm1(x)),
    lambda y, dy: (dy * (y + 1),),
    lambda rng: (normal(rng, 6, scale=1e-6),),
    "expm1 of tiny numbers",
)


def logit_gap(a, b):
    return (a - b) ** 2


cases.right(
    "close-numbers",
    logit_gap,
    lambda a, b: (logit_gap(a, b), (a, b)),
    lambda res, dy: (2 * (res[0] - res[1]) * dy, -2 * (res[0] - res[1]) * dy),
    lambda rng: (lambda a: (a, a + normal(rng, 6, scale=1e-3)))(normal(rng, 6) + 100),
    "a difference of nearly equal numbers, exact by subtraction",
)
cases.wrong(
    "close-numbers-expanded",
    "a",
    "precision",
    "2a - 2b by way of (a² - ab)/a cancels",
    edit={0: lambda d, res, dy: dy * 2 * (res[0] * res[0] - res[0] * res[1]) / res[0]},
    shows="precision",
)
