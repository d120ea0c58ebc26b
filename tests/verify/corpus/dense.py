"""Products, sums and broadcasting: dense layers, einsum, bilinear forms."""

import jax.numpy as jnp
import numpy as np

from tests.verify.corpus.case import Family, normal

cases = Family("dense")


def dense(x, w, b):
    return x @ w + b


def dense_fwd(x, w, b):
    return dense(x, w, b), (x, w)


def dense_bwd(residuals, dy):
    x, w = residuals
    return dy @ w.T, x.T @ dy, dy.sum(0)


def oblong(rng):
    return normal(rng, 5, 4), normal(rng, 4, 3), normal(rng, 3)


def square(rng):
    return normal(rng, 4, 4), normal(rng, 4, 4), normal(rng, 4)


cases.right("dense", dense, dense_fwd, dense_bwd, oblong)
cases.wrong(
    "dense-bias-averaged",
    "b",
    "averaged",
    "the bias takes the mean over the batch",
    edit={2: lambda d, res, dy: dy.mean(0)},
)
cases.wrong(
    "dense-bias-first-example",
    "b",
    "one-example",
    "the bias sees the first example only",
    edit={2: lambda d, res, dy: dy[0]},
)
cases.wrong(
    "dense-weight-averaged",
    "w",
    ("averaged", "scale"),
    "the weight gradient is divided by the batch size",
    edit={1: lambda d, res, dy: d / dy.shape[0]},
)
cases.wrong(
    "dense-weight-last-example",
    "w",
    ("one-example", "overwritten"),
    "a loop over the batch assigns the outer product instead of adding it",
    edit={1: lambda d, res, dy: jnp.outer(res[0][-1], dy[-1])},
)
cases.wrong(
    "dense-weight-half-batch",
    "w",
    "one-example",
    "only the first two examples count",
    edit={1: lambda d, res, dy: res[0][:2].T @ dy[:2]},
)
cases.wrong(
    "dense-weight-doubled",
    "w",
    "scale",
    "the weight gradient is added twice",
    edit={1: lambda d, res, dy: 2 * d},
)
cases.wrong(
    "dense-input-scaled",
    "x",
    "scale",
    "a stray learning rate of 0.1",
    edit={0: lambda d, res, dy: 0.1 * d},
)
cases.wrong(
    "dense-bias-sign",
    "b",
    "sign",
    "the bias gradient has the sign of a descent step",
    edit={2: lambda d, res, dy: -d},
)
cases.wrong(
    "dense-weight-zero",
    "w",
    "zero",
    "the weights are treated as frozen",
    edit={1: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "dense-bias-zero",
    "b",
    "zero",
    "the bias is forgotten",
    edit={2: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "dense-one-cotangent-short",
    (),
    "structure",
    "two cotangents for three arguments",
    bwd=lambda res, dy: dense_bwd(res, dy)[:2],
    shows="structure",
)
cases.wrong(
    "dense-weight-shape",
    "w",
    ("shape", "transposed"),
    "dw comes as [O, I]",
    edit={1: lambda d, res, dy: d.T},
    shows="structure",
)
cases.wrong(
    "dense-bias-not-reduced",
    "b",
    ("not-reduced", "shape"),
    "db is dy itself, [N, O]",
    edit={2: lambda d, res, dy: dy},
    shows="structure",
)
cases.wrong(
    "dense-bias-keeps-axis",
    "b",
    "shape",
    "db is summed with keepdims, [1, O] for [O]",
    edit={2: lambda d, res, dy: dy.sum(0, keepdims=True)},
    shows="structure",
)
cases.wrong(
    "dense-weight-bfloat16",
    "w",
    "dtype",
    "dw comes as bfloat16 for float32 weights",
    edit={1: lambda d, res, dy: d.astype(jnp.bfloat16)},
    shows="structure",
)
cases.wrong(
    "dense-list-for-tuple",
    (),
    "structure",
    "dw is wrapped in a tuple of its own",
    edit={1: lambda d, res, dy: (d,)},
    shows="structure",
)
cases.wrong(
    "dense-weight-none",
    "w",
    ("zero", "structure"),
    "None is returned for the weights",
    edit={1: lambda d, res, dy: None},
    shows="gradient",
)

cases.right(
    "dense-square",
    dense,
    dense_fwd,
    dense_bwd,
    square,
    "every array is square, so that only values can tell an exchange",
)
cases.wrong(
    "dense-weight-transposed",
    "w",
    "transposed",
    "dw = dyᵀ x",
    edit={1: lambda d, res, dy: dy.T @ res[0]},
)
cases.wrong(
    "dense-input-untransposed",
    "x",
    "transposed",
    "dx = dy w, the transpose forgotten",
    edit={0: lambda d, res, dy: dy @ res[1]},
)
cases.wrong(
    "dense-swapped",
    ("x", "w"),
    "swapped-arguments",
    "dx and dw come in the wrong order",
    bwd=lambda res, dy: tuple(dense_bwd(res, dy)[i] for i in (1, 0, 2)),
)
cases.wrong(
    "dense-bias-wrong-axis",
    "b",
    ("transposed", "not-reduced"),
    "the bias sums over features instead of examples",
    edit={2: lambda d, res, dy: dy.sum(1)},
)
cases.wrong(
    "dense-weight-row-lost",
    "w",
    "local",
    "one row of dw is left at zero",
    edit={1: lambda d, res, dy: d.at[2].set(0)},
)


def batched(a, b):
    return jnp.einsum("nij,njk->nik", a, b)


cases.right(
    "batched-matmul",
    batched,
    lambda a, b: (batched(a, b), (a, b)),
    lambda res, dy: (
        jnp.einsum("nik,njk->nij", dy, res[1]),
        jnp.einsum("nij,nik->njk", res[0], dy),
    ),
    lambda rng: (normal(rng, 2, 3, 3), normal(rng, 2, 3, 3)),
)
cases.wrong(
    "batched-matmul-contraction",
    "a",
    "transposed",
    "einsum contracts b's other index",
    edit={0: lambda d, res, dy: jnp.einsum("nij,njk->nik", dy, res[1])},
)
cases.wrong(
    "batched-matmul-shared-first",
    "b",
    "one-example",
    "only the first matrix is paired",
    edit={1: lambda d, res, dy: d.at[1:].set(0)},
)
cases.wrong(
    "batched-matmul-swapped",
    ("a", "b"),
    "swapped-arguments",
    "da and db exchanged",
    bwd=lambda res, dy: (
        jnp.einsum("nij,nik->njk", res[0], dy),
        jnp.einsum("nik,njk->nij", dy, res[1]),
    ),
)


def bilinear(x, w, y):
    return jnp.einsum("ni,ij,nj->n", x, w, y)


cases.right(
    "bilinear",
    bilinear,
    lambda x, w, y: (bilinear(x, w, y), (x, w, y)),
    lambda res, dy: (
        dy[:, None] * (res[2] @ res[1].T),
        jnp.einsum("n,ni,nj->ij", dy, res[0], res[2]),
        dy[:, None] * (res[0] @ res[1]),
    ),
    lambda rng: (normal(rng, 4, 3), normal(rng, 3, 3), normal(rng, 4, 3)),
)
cases.wrong(
    "bilinear-weight-transposed",
    "w",
    "transposed",
    "the outer product is turned",
    edit={1: lambda d, res, dy: jnp.einsum("n,ni,nj->ij", dy, res[2], res[0])},
)
cases.wrong(
    "bilinear-cotangent-forgotten",
    "w",
    "nonlinear",
    "dw leaves dy out",
    edit={1: lambda d, res, dy: jnp.einsum("ni,nj->ij", res[0], res[2])},
)
cases.wrong(
    "bilinear-right-zero",
    "y",
    "zero",
    "the second vector is treated as data",
    edit={2: lambda d, res, dy: jnp.zeros_like(d)},
)


def scale_shift(x, scale, shift):
    return x * scale + shift


def scale_shift_bwd(res, dy):
    x, scale = res
    return dy * scale, (dy * x).sum((0, 1)), dy.sum((0, 1))


cases.right(
    "scale-shift",
    scale_shift,
    lambda x, scale, shift: (x * scale + shift, (x, scale)),
    scale_shift_bwd,
    lambda rng: (normal(rng, 3, 4, 5), normal(rng, 5), normal(rng, 5)),
)
cases.wrong(
    "scale-shift-not-reduced",
    "scale",
    ("not-reduced", "shape"),
    "dscale keeps the axes over which scale was broadcast",
    edit={1: lambda d, res, dy: dy * res[0]},
    shows="structure",
)
cases.wrong(
    "scale-shift-one-axis",
    "shift",
    ("not-reduced", "shape"),
    "the shift is summed over the batch but not over time",
    edit={2: lambda d, res, dy: dy.sum(0)},
    shows="structure",
)
cases.wrong(
    "scale-shift-time-averaged",
    "shift",
    "averaged",
    "summed over the batch, averaged over time",
    edit={2: lambda d, res, dy: dy.mean(1).sum(0)},
)
cases.wrong(
    "scale-shift-first-step",
    "scale",
    ("not-reduced", "one-example", "overwritten"),
    "summed over the batch, taken at the first step",
    edit={1: lambda d, res, dy: (dy * res[0]).sum(0)[0]},
)
cases.wrong(
    "scale-shift-factor-missing",
    "x",
    "missing-term",
    "dx leaves the scale out",
    edit={0: lambda d, res, dy: dy},
)
cases.wrong(
    "scale-shift-input-missing",
    "scale",
    ("missing-term", "swapped-arguments"),
    "dscale leaves x out, and so is what dshift should be",
    edit={1: lambda d, res, dy: dy.sum((0, 1))},
)


def outer_sum(a, b):
    return a * b


cases.right(
    "broadcast-both-ways",
    outer_sum,
    lambda a, b: (a * b, (a, b)),
    lambda res, dy: (
        (dy * res[1]).sum(0).sum(1, keepdims=True),
        (dy * res[0]).sum(1, keepdims=True),
    ),
    lambda rng: (normal(rng, 4, 1, 3), normal(rng, 2, 1, 5, 3)),
    "both arguments are broadcast, one of them in rank as well",
)
cases.wrong(
    "broadcast-mean",
    "b",
    "averaged",
    "the broadcast axis of b is averaged",
    edit={1: lambda d, res, dy: (dy * res[0]).mean(1, keepdims=True)},
)
cases.wrong(
    "broadcast-slice",
    "b",
    ("not-reduced", "one-example", "overwritten"),
    "the broadcast axis of b is cut to its first entry",
    edit={1: lambda d, res, dy: (dy * res[0])[:, :1]},
)
cases.wrong(
    "broadcast-rank-slice",
    "a",
    ("not-reduced", "one-example", "overwritten"),
    "the axis that broadcasting put in front is indexed away",
    edit={0: lambda d, res, dy: (dy * res[1])[0].sum(1, keepdims=True)},
)


def scaled(x, a):
    return a * x


cases.right(
    "scalar-factor",
    scaled,
    lambda x, a: (a * x, (x, a)),
    lambda res, dy: (res[1] * dy, (res[0] * dy).sum()),
    lambda rng: (normal(rng, 6, 2), normal(rng)),
)
cases.wrong(
    "scalar-factor-mean",
    "a",
    "averaged",
    "the scalar's gradient is a mean",
    edit={1: lambda d, res, dy: (res[0] * dy).mean()},
)
cases.wrong(
    "scalar-factor-not-reduced",
    "a",
    ("not-reduced", "shape"),
    "the scalar gets an array",
    edit={1: lambda d, res, dy: res[0] * dy},
    shows="structure",
)
cases.wrong(
    "scalar-factor-max",
    "a",
    ("nonlinear", "overwritten"),
    "max for sum",
    edit={1: lambda d, res, dy: (res[0] * dy).max()},
)


def trace_of_product(a, b):
    return jnp.trace(a @ b)


cases.right(
    "trace-of-product",
    trace_of_product,
    lambda a, b: (trace_of_product(a, b), (a, b)),
    lambda res, dy: (dy * res[1].T, dy * res[0].T),
    lambda rng: (normal(rng, 4, 4), normal(rng, 4, 4)),
)
cases.wrong(
    "trace-not-transposed",
    "a",
    "transposed",
    "d tr(ab)/da = b, the transpose forgotten",
    edit={0: lambda d, res, dy: dy * res[1]},
)


def quadratic(x, a):
    return x @ a @ x


cases.right(
    "quadratic-form",
    quadratic,
    lambda x, a: (quadratic(x, a), (x, a)),
    lambda res, dy: (dy * ((res[1] + res[1].T) @ res[0]), dy * jnp.outer(res[0], res[0])),
    lambda rng: (normal(rng, 5), normal(rng, 5, 5)),
)
cases.wrong(
    "quadratic-form-one-side",
    "x",
    "missing-term",
    "dx = a x lacks the term aᵀ x",
    edit={0: lambda d, res, dy: dy * (res[1] @ res[0])},
)
cases.wrong(
    "quadratic-form-symmetric",
    "x",
    ("transposed", "missing-term"),
    "dx = 2 a x holds for a symmetric matrix only",
    edit={0: lambda d, res, dy: dy * 2 * (res[1] @ res[0])},
)


def inverse(a):
    return jnp.linalg.inv(a)


def regular(rng):
    return (normal(rng, 3, 3, scale=0.3) + 2 * jnp.asarray(np.eye(3), "float32"),)


cases.right(
    "matrix-inverse",
    inverse,
    lambda a: (inverse(a), inverse(a)),
    lambda y, dy: (-(y.T @ dy @ y.T),),
    regular,
)
cases.wrong(
    "matrix-inverse-sign", "a", "sign", "the minus of d(a⁻¹) is lost", edit={0: lambda d, y, dy: -d}
)
cases.wrong(
    "matrix-inverse-untransposed",
    "a",
    "transposed",
    "-y dy y, both transposes forgotten",
    edit={0: lambda d, y, dy: -(y @ dy @ y)},
)
