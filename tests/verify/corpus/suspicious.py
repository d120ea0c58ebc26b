"""Right rules that look suspicious: none of them may be refused."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, integers, normal, rule, uniform

cases = Family("suspicious")


def right(name, forward, slope, inputs, why, **options):
    """An elementwise rule dx = slope(x)·dy."""
    cases.right(
        name,
        forward,
        lambda x: (forward(x), x),
        lambda x, dy: (slope(x) * dy,),
        inputs,
        why,
        **options,
    )


# Extreme arguments -----------------------------------------------------------------------------


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def cross_entropy_bwd(residuals, dl):
    logits, labels = residuals
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return dl[:, None] * (jax.nn.softmax(logits) - hot), None


cases.right(
    "logits-1e4",
    cross_entropy,
    lambda z, labels: (cross_entropy(z, labels), (z, labels)),
    cross_entropy_bwd,
    lambda rng: (1e4 * jnp.sign(normal(rng, 4, 3)), integers(rng, 3, 4)),
    "logits of ±1e4, saturated and exactly tied",
)
cases.right(
    "logits-random-1e4",
    cross_entropy,
    lambda z, labels: (cross_entropy(z, labels), (z, labels)),
    cross_entropy_bwd,
    lambda rng: (normal(rng, 4, 3, scale=1e4), integers(rng, 3, 4)),
    "logits of about 1e4",
)
right(
    "near-overflow",
    lambda x: 2 * x,
    lambda x: 2 * jnp.ones_like(x),
    lambda rng: (normal(rng, 5, scale=1e37),),
    "values near the end of float32",
)
right(
    "tiny-values",
    lambda x: x * x,
    lambda x: 2 * x,
    lambda rng: (normal(rng, 5, scale=1e-12),),
    "values of 1e-12 whose squares are near 1e-24",
)
right(
    "steep-exponential",
    lambda x: jnp.exp(20 * x),
    lambda x: 20 * jnp.exp(20 * x),
    lambda rng: (uniform(rng, 6, low=-1, high=1),),
    "slopes from 1e-8 to 1e10",
)
right(
    "steep-step",
    lambda x: jnp.tanh(1e4 * x),
    lambda x: 1e4 * (1 - jnp.tanh(1e4 * x) ** 2),
    lambda rng: (normal(rng, 6, scale=1e-4),),
    "a step 1e-4 wide, met on its slope",
)
right(
    "fast-periodic",
    lambda x: jnp.sin(1000 * x),
    lambda x: 1000 * jnp.cos(1000 * x),
    lambda rng: (uniform(rng, 6),),
    "a period of 0.006",
)
right(
    "tenth-power",
    lambda x: x**10,
    lambda x: 10 * x**9,
    lambda rng: (normal(rng, 8),),
    "from almost flat to steep",
)
right(
    "reciprocal-near-zero",
    lambda x: 1 / x,
    lambda x: -1 / x**2,
    lambda rng: (uniform(rng, 6, low=1e-3, high=1e-2),),
    "near a pole",
)
right(
    "tangent-near-pole",
    lambda x: jnp.tan(x),
    lambda x: 1 + jnp.tan(x) ** 2,
    lambda rng: (uniform(rng, 4, low=1.5, high=1.55),),
    "near a pole",
)
right(
    "constant-offset",
    lambda x: x * x + 1e6,
    lambda x: 2 * x,
    lambda rng: (normal(rng, 5),),
    "a large constant in the value drowns the differences",
)

# Near the edge of a domain ---------------------------------------------------------------------

right(
    "log-near-zero",
    lambda x: jnp.log(x),
    lambda x: 1 / x,
    lambda rng: (uniform(rng, 5, low=1e-7, high=1e-5),),
    "log at 1e-6",
)
right(
    "root-near-zero",
    lambda x: jnp.sqrt(x),
    lambda x: 0.5 / jnp.sqrt(x),
    lambda rng: (uniform(rng, 5, low=1e-9, high=1e-7),),
    "sqrt at 1e-8",
)
right(
    "arcsine-near-one",
    lambda x: jnp.arcsin(x),
    lambda x: 1 / jnp.sqrt((1 - x) * (1 + x)),
    lambda rng: (uniform(rng, 5, low=0.99, high=0.9999),),
    "arcsin below 1",
)
right(
    "x-log-x",
    lambda x: x * jnp.log(x),
    lambda x: jnp.log(x) + 1,
    lambda rng: (uniform(rng, 5, low=1e-6, high=1e-3),),
    "x log x near 0",
)
right(
    "artanh",
    lambda x: jnp.arctanh(x),
    lambda x: 1 / ((1 - x) * (1 + x)),
    lambda rng: (uniform(rng, 5, low=-0.99, high=0.99),),
    "both ends of an interval",
)
right(
    "half-power",
    lambda x: jnp.abs(x) ** 0.5,
    lambda x: 0.5 * jnp.sign(x) / jnp.sqrt(jnp.abs(x)),
    lambda rng: (normal(rng, 6, scale=1e-3),),
    "an infinite slope close by",
)

# Kinks, on them and beside them ----------------------------------------------------------------

right(
    "relu-all-zero",
    lambda x: jnp.maximum(x, 0),
    lambda x: (x > 0).astype(x.dtype),
    lambda rng: (jnp.zeros((3, 4), "float32"),),
    "every argument on the kink",
)
right(
    "relu-beside-kink",
    lambda x: jnp.maximum(x, 0),
    lambda x: (x > 0).astype(x.dtype),
    lambda rng: (normal(rng, 8, scale=1e-6),),
    "a millionth from the kink",
)
right(
    "abs-beside-kink",
    lambda x: jnp.abs(x),
    jnp.sign,
    lambda rng: (normal(rng, 8, scale=1e-5),),
    "near the kink of |x|",
)
right(
    "floor",
    lambda x: jnp.floor(x),
    jnp.zeros_like,
    lambda rng: (normal(rng, 8, scale=5),),
    "steps; the slope is zero",
)
right(
    "fraction",
    lambda x: x - jnp.floor(x),
    jnp.ones_like,
    lambda rng: (normal(rng, 8, scale=5),),
    "a saw tooth",
)
right(
    "triangle-wave",
    lambda x: jnp.abs(x - 2 * jnp.round(x / 2)),
    lambda x: jnp.sign(x - 2 * jnp.round(x / 2)),
    lambda rng: (normal(rng, 8, scale=3),),
    "kinks at every integer",
)
right(
    "clip-on-bound",
    lambda x: jnp.clip(x, -1, 1),
    lambda x: (jnp.abs(x) < 1).astype(x.dtype),
    lambda rng: (normal(rng, 8).at[::3].set(1.0),),
    "arguments exactly on the bound",
)
right(
    "soft-threshold",
    lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    lambda x: (jnp.abs(x) > 0.5).astype(x.dtype),
    lambda rng: (normal(rng, 8).at[2].set(0.5),),
    "a kink at ±1/2",
)
right(
    "max-with-constant",
    lambda x: jnp.maximum(x, 3),
    lambda x: (x > 3).astype(x.dtype),
    lambda rng: (normal(rng, 6),),
    "the gradient is zero throughout",
)
right(
    "constant",
    lambda x: jnp.zeros_like(x) + 2,
    jnp.zeros_like,
    lambda rng: (normal(rng, 5),),
    "the value does not depend on the argument",
)
right(
    "piecewise-smooth",
    lambda x: jnp.where(x < 0, x, jnp.sin(x)),
    lambda x: jnp.where(x < 0, 1, jnp.cos(x)),
    lambda rng: (normal(rng, 8).at[3].set(0),),
    "pieces that join smoothly at an exact zero",
)

# Many terms ------------------------------------------------------------------------------------

cases.right(
    "sum-of-1e5",
    lambda x: x.sum(),
    lambda x: (x.sum(), x),
    lambda x, dy: (jnp.full_like(x, dy),),
    lambda rng: (normal(rng, 100_000),),
    "1e5 terms",
)
cases.right(
    "mean-of-1e5",
    lambda x, a: a * (x * x).mean(),
    lambda x, a: (a * (x * x).mean(), (x, a)),
    lambda res, dy: (2 * dy * res[1] * res[0] / res[0].size, dy * (res[0] * res[0]).mean()),
    lambda rng: (normal(rng, 100_000), normal(rng)),
    "gradients of 1e-5 beside one of order one",
)
cases.right(
    "bias-of-1e4",
    lambda x, b: x + b,
    lambda x, b: (x + b, None),
    lambda _, dy: (dy, dy.sum(0)),
    lambda rng: (normal(rng, 10_000, 3), normal(rng, 3)),
    "a bias summed over 1e4 rows",
)
cases.right(
    "alternating-sum",
    lambda x, a: a * x.sum(),
    lambda x, a: (a * x.sum(), (x, a)),
    lambda res, dy: (jnp.full_like(res[0], dy * res[1]), dy * res[0].sum()),
    lambda rng: (lambda v: (jnp.concatenate([v, -v]), normal(rng)))(normal(rng, 500)),
    "terms that cancel to almost zero",
)

# Half precision --------------------------------------------------------------------------------


def layer(x, w, b):
    return jnp.tanh(x @ w + b)


def layer_bwd(residuals, dy):
    x, w, y = residuals
    dz = dy * (1 - y * y)
    return dz @ w.T, x.T @ dz, dz.astype("float32").sum(0).astype(dz.dtype)


def layer_inputs(dtype):
    return lambda rng: (
        normal(rng, 16, 4, dtype=dtype),
        normal(rng, 4, 3, dtype=dtype),
        normal(rng, 3, dtype=dtype),
    )


for _dtype in ("bfloat16", "float16"):
    cases.right(
        f"layer-{_dtype}",
        layer,
        lambda x, w, b: (layer(x, w, b), (x, w, layer(x, w, b))),
        layer_bwd,
        layer_inputs(_dtype),
        f"a layer in {_dtype}",
    )
    right(
        f"sine-wide-{_dtype}",
        lambda x: jnp.sin(x),
        lambda x: jnp.cos(x),
        lambda rng, dtype=_dtype: (normal(rng, 8, scale=3, dtype=dtype),),
        f"sin in {_dtype}",
    )
right(
    "bfloat16-integers",
    lambda x: x * x,
    lambda x: 2 * x,
    lambda rng: (integers(rng, 200, 6).astype("bfloat16"),),
    "whole numbers in bfloat16",
)
cases.right(
    "mixed-precision",
    lambda x, w: (x.astype(w.dtype) @ w).astype("bfloat16"),
    lambda x, w: ((x.astype(w.dtype) @ w).astype("bfloat16"), (x, w)),
    lambda res, dy: (
        (dy.astype(res[1].dtype) @ res[1].T).astype(res[0].dtype),
        res[0].astype(res[1].dtype).T @ dy.astype(res[1].dtype),
    ),
    lambda rng: (normal(rng, 4, 3, dtype="bfloat16"), normal(rng, 3, 2)),
    "bfloat16 activations, float32 weights",
)


def float32_inside(x):
    return jnp.exp(x.astype("float32")).astype(x.dtype)


cases.right(
    "float32-inside",
    float32_inside,
    lambda x: (float32_inside(x), x),
    lambda x, dy: ((jnp.exp(x.astype("float32")) * dy.astype("float32")).astype(x.dtype),),
    lambda rng: (normal(rng, 6),),
    "float32 inside whatever comes",
)

# Empty and odd shapes --------------------------------------------------------------------------


def dense(x, w, b):
    return x @ w + b


def dense_bwd(residuals, dy):
    x, w = residuals
    return dy @ w.T, x.T @ dy, dy.sum(0)


def dense_of(n, i, o):
    return lambda rng: (normal(rng, n, i), normal(rng, i, o), normal(rng, o))


for _name, _shape in (
    ("no-rows", (0, 3, 2)),
    ("no-features", (3, 0, 2)),
    ("no-outputs", (3, 2, 0)),
    ("one-by-one", (1, 1, 1)),
    ("one-row", (1, 4, 3)),
):
    cases.right(
        f"dense-{_name}",
        dense,
        lambda x, w, b: (dense(x, w, b), (x, w)),
        dense_bwd,
        dense_of(*_shape),
        f"shapes {_shape}",
    )
right("scalar", lambda x: x**3, lambda x: 3 * x * x, lambda rng: (normal(rng),), "no axes at all")
right(
    "no-entries",
    lambda x: jnp.sin(x),
    lambda x: jnp.cos(x),
    lambda rng: (jnp.zeros((0,), "float32"),),
    "no entries at all",
)
right(
    "many-axes",
    lambda x: jnp.sin(x),
    lambda x: jnp.cos(x),
    lambda rng: (normal(rng, 1, 2, 1, 2, 1, 2),),
    "six axes",
)
cases.right(
    "zero-inputs",
    dense,
    lambda x, w, b: (dense(x, w, b), (x, w)),
    dense_bwd,
    lambda rng: (
        jnp.zeros((3, 4), "float32"),
        jnp.zeros((4, 2), "float32"),
        jnp.zeros(2, "float32"),
    ),
    "every gradient but the bias's is zero",
)
cases.right(
    "equal-inputs",
    dense,
    lambda x, w, b: (dense(x, w, b), (x, w)),
    dense_bwd,
    lambda rng: (jnp.ones((3, 4), "float32"), jnp.ones((4, 2), "float32"), jnp.ones(2, "float32")),
    "every entry is one",
)
cases.right(
    "unused-argument",
    lambda x, unused: x * x,
    lambda x, unused: (x * x, x),
    lambda x, dy: (2 * x * dy, None),
    lambda rng: (normal(rng, 4), normal(rng, 3)),
    "None for an argument that has no influence",
)

# Other formulas, equal values ------------------------------------------------------------------

right(
    "sigmoid-by-tanh",
    jax.nn.sigmoid,
    lambda x: 0.25 * (1 - jnp.tanh(x / 2) ** 2),
    lambda rng: (normal(rng, 8),),
    "another formula of the same slope",
)
right(
    "softplus-by-tanh",
    lambda x: jnp.logaddexp(x, 0),
    lambda x: 0.5 * (1 + jnp.tanh(x / 2)),
    lambda rng: (normal(rng, 8),),
    "another formula of the same slope",
)
right(
    "tanh-by-cosh",
    lambda x: jnp.tanh(x),
    lambda x: 1 / jnp.cosh(x) ** 2,
    lambda rng: (normal(rng, 8),),
    "another formula of the same slope",
)
right(
    "by-autodiff",
    lambda x: jnp.sin(x) * jnp.exp(x),
    jax.vmap(jax.grad(lambda t: jnp.sin(t) * jnp.exp(t))),
    lambda rng: (normal(rng, 5),),
    "the slope by jax.grad, inside the rule",
)
right(
    "polynomial-by-horner",
    lambda x: 1 + x * (2 + x * (3 + 4 * x)),
    lambda x: 2 + x * (6 + 12 * x),
    lambda rng: (normal(rng, 8),),
    "Horner's scheme",
)
right(
    "cosine-by-phase",
    lambda x: jnp.sin(x),
    lambda x: jnp.sin(x + 1.5707963267948966),
    lambda rng: (normal(rng, 8),),
    "cos by a shifted sin",
)


def slope_by_scan(x):
    """3x² as a scan, since there is no reason why a slope must be one expression."""
    return lax.fori_loop(0, 3, lambda _, total: total + x * x, jnp.zeros_like(x))


right(
    "slope-by-loop",
    lambda x: x**3,
    slope_by_scan,
    lambda rng: (normal(rng, 5),),
    "a loop in the backward",
)
right(
    "slope-by-cond",
    lambda x: x * x,
    lambda x: lax.cond(x.sum() > 0, lambda z: 2 * z, lambda z: z + z, x),
    lambda rng: (normal(rng, 5),),
    "a cond in the backward",
)


def by_while(x):
    return lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + x), (0, jnp.zeros_like(x))
    )[1]


right(
    "slope-by-while",
    lambda x: x * x,
    by_while,
    lambda rng: (normal(rng, 5),),
    "a while loop in the backward",
)
cases.right(
    "jitted-inside",
    lambda x: jnp.sin(x),
    lambda x: (jax.jit(jnp.sin)(x), x),
    lambda x, dy: (jax.jit(lambda x, dy: jnp.cos(x) * dy)(x, dy),),
    lambda rng: (normal(rng, 5),),
    "jit inside fwd and bwd",
)
cases.right(
    "recomputed",
    lambda x: jnp.tanh(jnp.sin(x)),
    lambda x: (jnp.tanh(jnp.sin(x)), x),
    lambda x, dy: (jax.checkpoint(lambda x: (1 - jnp.tanh(jnp.sin(x)) ** 2) * jnp.cos(x))(x) * dy,),
    lambda rng: (normal(rng, 5),),
    "checkpoint in the backward",
)


def nested():
    inner = rule(lambda x: jnp.sin(x), lambda x: (jnp.sin(x), x), lambda x, dy: (jnp.cos(x) * dy,))
    return rule(
        lambda x: inner(x) * x,
        lambda x: (inner(x) * x, x),
        lambda x, dy: (jax.vjp(lambda z: inner(z) * z, x)[1](dy)[0],),
    )


cases.right(
    "rule-in-a-rule",
    lambda x: jnp.sin(x) * x,
    None,
    None,
    lambda rng: (normal(rng, 5),),
    "a custom_vjp that calls another",
    make=nested,
)


def symbolic():
    made = jax.custom_vjp(lambda x, w: x @ w)
    made.defvjp(
        lambda x, w: (x.value @ w.value, (x.value, w.value)),
        lambda res, dy: (dy @ res[1].T, res[0].T @ dy),
        symbolic_zeros=True,
    )
    return made


cases.right(
    "symbolic-zeros",
    lambda x, w: x @ w,
    None,
    None,
    lambda rng: (normal(rng, 3, 2), normal(rng, 2, 4)),
    "defvjp(symbolic_zeros=True)",
    make=symbolic,
)
cases.right(
    "weak-typed",
    lambda x, a: a * jnp.sin(x),
    lambda x, a: (a * jnp.sin(x), (x, a)),
    lambda res, dy: (res[1] * jnp.cos(res[0]) * dy, (jnp.sin(res[0]) * dy).sum()),
    lambda rng: (normal(rng, 4), float(rng.normal())),
    "a Python float for an argument",
)
cases.right(
    "boolean-mask",
    lambda x, mask: jnp.where(mask, x * x, 0),
    lambda x, mask: (jnp.where(mask, x * x, 0), (x, mask)),
    lambda res, dy: (jnp.where(res[1], 2 * res[0] * dy, 0), None),
    lambda rng: (normal(rng, 6), jnp.asarray(rng.random(6) < 0.5)),
    "a boolean argument",
)
cases.right(
    "random-by-key",
    lambda x, key: x + 0.1 * jax.random.normal(key, x.shape, x.dtype),
    lambda x, key: (x + 0.1 * jax.random.normal(key, x.shape, x.dtype), None),
    lambda _, dy: (dy, None),
    lambda rng: (normal(rng, 5), jax.random.key(int(rng.integers(99)))),
    "noise by a typed key",
)

# Linear algebra --------------------------------------------------------------------------------


def spectrum_energy(x):
    return (jnp.abs(jnp.fft.rfft(x)) ** 2).sum()


def spectrum_energy_bwd(x, dy):
    n = x.shape[0]
    weights = jnp.ones(n // 2 + 1, x.dtype).at[1 : (n + 1) // 2].set(0.5)
    return (2 * dy * n * jnp.fft.irfft(jnp.fft.rfft(x) * weights.astype(complex), n),)


cases.right(
    "fft-energy",
    spectrum_energy,
    lambda x: (spectrum_energy(x), x),
    spectrum_energy_bwd,
    lambda rng: (normal(rng, 8),),
    "complex numbers inside",
)


def symmetric(rng):
    a = normal(rng, 3, 3)
    return (a @ a.T + 2 * jnp.eye(3, dtype=a.dtype),)


cases.right(
    "log-determinant",
    lambda a: jnp.linalg.slogdet(a)[1],
    lambda a: (jnp.linalg.slogdet(a)[1], a),
    lambda a, dy: (dy * jnp.linalg.inv(a).T,),
    symmetric,
    "an inverse in the backward",
)
cases.right(
    "solve",
    lambda a, b: jnp.linalg.solve(a, b),
    lambda a, b: (jnp.linalg.solve(a, b), (a, jnp.linalg.solve(a, b))),
    lambda res, dy: (lambda g: (-jnp.outer(g, res[1]), g))(jnp.linalg.solve(res[0].T, dy)),
    lambda rng: (symmetric(rng)[0], normal(rng, 3)),
    "the implicit rule of a linear system",
)
