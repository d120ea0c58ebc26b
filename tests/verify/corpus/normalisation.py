"""Layer, batch, group, RMS and L2 normalisation: the terms that go through the statistics."""

import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal

cases = Family("normalisation")

EPS = 1e-5


def moments(x, axis):
    mean = x.mean(axis, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis, keepdims=True)
    return mean, lax.rsqrt(variance + EPS)


def make_norm(axis, reduced):
    """Normalise over `axis`; gamma and beta are summed over `reduced`."""

    def norm(x, gamma, beta):
        mean, rstd = moments(x, axis)
        return (x - mean) * rstd * gamma + beta

    def fwd(x, gamma, beta):
        mean, rstd = moments(x, axis)
        normed = (x - mean) * rstd
        return normed * gamma + beta, (normed, rstd, gamma)

    def bwd(residuals, dy):
        normed, rstd, gamma = residuals
        g = dy * gamma
        dx = rstd * (
            g - g.mean(axis, keepdims=True) - normed * (g * normed).mean(axis, keepdims=True)
        )
        return dx, (dy * normed).sum(reduced), dy.sum(reduced)

    return norm, fwd, bwd


def rows(rng):
    return normal(rng, 3, 6, scale=2) + 1, normal(rng, 6) + 1, normal(rng, 6)


def scaled(residuals, dy):
    normed, rstd, gamma = residuals
    return normed, rstd, dy * gamma


def layer_without_mean(d, residuals, dy):
    normed, rstd, g = scaled(residuals, dy)
    return rstd * (g - normed * (g * normed).mean(-1, keepdims=True))


def layer_without_variance(d, residuals, dy):
    _, rstd, g = scaled(residuals, dy)
    return rstd * (g - g.mean(-1, keepdims=True))


cases.right("layer-norm", *make_norm(-1, 0), rows)
cases.wrong(
    "layer-norm-mean-term",
    "x",
    "missing-term",
    "the mean is treated as a constant",
    edit={0: layer_without_mean},
)
cases.wrong(
    "layer-norm-variance-term",
    "x",
    "missing-term",
    "the variance is treated as a constant",
    edit={0: layer_without_variance},
)
cases.wrong(
    "layer-norm-both-terms",
    "x",
    "missing-term",
    "dx = dy·gamma·rstd only",
    edit={0: lambda d, res, dy: res[1] * dy * res[2]},
)
cases.wrong(
    "layer-norm-gamma",
    "x",
    "missing-term",
    "dx leaves gamma out",
    edit={
        0: lambda d, res, dy: make_norm(-1, 0)[2]((res[0], res[1], jnp.ones_like(res[2])), dy)[0]
    },
)
cases.wrong(
    "layer-norm-rstd",
    "x",
    "missing-term",
    "dx leaves 1/σ out",
    edit={0: lambda d, res, dy: d / res[1]},
)
cases.wrong(
    "layer-norm-gamma-not-normed",
    "gamma",
    ("missing-term", "swapped-arguments"),
    "dgamma is dy summed, without the normed input",
    edit={1: lambda d, res, dy: dy.sum(0)},
)
cases.wrong(
    "layer-norm-beta-averaged",
    "beta",
    "averaged",
    "dbeta is a mean over the rows",
    edit={2: lambda d, res, dy: dy.mean(0)},
)
cases.wrong(
    "layer-norm-gamma-last-row",
    "gamma",
    ("one-example", "overwritten"),
    "dgamma is assigned row by row",
    edit={1: lambda d, res, dy: (dy * res[0])[-1]},
)
cases.wrong(
    "layer-norm-sums-for-means",
    "x",
    ("missing-term", "scale"),
    "the two means in dx are sums",
    edit={
        0: lambda d, res, dy: (
            res[1]
            * (
                dy * res[2]
                - (dy * res[2]).sum(-1, keepdims=True)
                - res[0] * (dy * res[2] * res[0]).sum(-1, keepdims=True)
            )
        )
    },
)
cases.wrong(
    "layer-norm-plus",
    "x",
    ("missing-term", "sign"),
    "the variance term has the other sign",
    edit={0: lambda d, res, dy: 2 * layer_without_variance(d, res, dy) - d},
)
cases.wrong(
    "layer-norm-swapped",
    ("gamma", "beta"),
    "swapped-arguments",
    "dgamma and dbeta exchanged",
    bwd=lambda res, dy: tuple(make_norm(-1, 0)[2](res, dy)[i] for i in (0, 2, 1)),
)
cases.wrong(
    "layer-norm-detached",
    ("x", "gamma"),
    "second-order",
    "the normed input is kept detached",
    bwd=lambda res, dy: make_norm(-1, 0)[2]((lax.stop_gradient(res[0]), *res[1:]), dy),
    shows="second-order",
)
cases.wrong(
    "layer-norm-rstd-detached",
    "x",
    "second-order",
    "1/σ is kept detached",
    bwd=lambda res, dy: make_norm(-1, 0)[2]((res[0], lax.stop_gradient(res[1]), res[2]), dy),
    shows="second-order",
)


def one_row(rng):
    return normal(rng, 1, 6, scale=0.005), normal(rng, 6) + 1, normal(rng, 6)


cases.right(
    "layer-norm-small",
    *make_norm(-1, 0),
    one_row,
    "a variance near eps, so that eps counts in the derivative",
)
cases.wrong(
    "layer-norm-eps",
    "x",
    ("missing-term", "scale"),
    "the backward's 1/σ leaves eps out",
    edit={0: lambda d, res, dy: d / jnp.sqrt(1 - EPS * res[1] ** 2)},
)


def batch_images(rng):
    return normal(rng, 4, 3, 2) * 2 + 1, normal(rng, 2) + 1, normal(rng, 2)


def batch_without(term):
    def change(d, residuals, dy):
        normed, rstd, g = scaled(residuals, dy)
        kept = {
            "mean": normed * (g * normed).mean((0, 1), keepdims=True),
            "variance": g.mean((0, 1), keepdims=True),
            "both": 0,
        }[term]
        return rstd * (g - kept)

    return change


cases.right("batch-norm", *make_norm((0, 1), (0, 1)), batch_images)
cases.wrong(
    "batch-norm-mean-term",
    "x",
    "missing-term",
    "the mean is treated as a constant",
    edit={0: batch_without("mean")},
)
cases.wrong(
    "batch-norm-variance-term",
    "x",
    "missing-term",
    "the variance is treated as a constant",
    edit={0: batch_without("variance")},
)
cases.wrong(
    "batch-norm-as-inference",
    "x",
    "missing-term",
    "the statistics are constants, as in inference",
    edit={0: batch_without("both")},
)
cases.wrong(
    "batch-norm-time-only",
    "beta",
    ("one-example", "not-reduced", "overwritten"),
    "dbeta is summed over time at the first example",
    edit={2: lambda d, res, dy: dy.sum(1)[0]},
)
cases.wrong(
    "batch-norm-unbiased",
    "x",
    ("missing-term", "scale"),
    "the backward divides by n - 1 where the forward divides by n",
    edit={
        0: lambda d, res, dy: (
            lambda normed, rstd, g: (
                rstd
                * (
                    g
                    - g.mean((0, 1), keepdims=True)
                    - normed * (g * normed).sum((0, 1), keepdims=True) / 11
                )
            )
        )(*scaled(res, dy))
    },
)
cases.wrong(
    "batch-norm-beta-times",
    "beta",
    "scale",
    "dbeta is multiplied by the batch size",
    edit={2: lambda d, res, dy: d * dy.shape[0]},
)


def rms(x, gamma):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS) * gamma


def rms_fwd(x, gamma):
    rstd = lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)
    return x * rstd * gamma, (x * rstd, rstd, gamma)


def rms_bwd(residuals, dy):
    normed, rstd, gamma = residuals
    g = dy * gamma
    dx = rstd * (g - normed * (g * normed).mean(-1, keepdims=True))
    return dx, (dy * normed).sum(0)


cases.right("rms-norm", rms, rms_fwd, rms_bwd, lambda rng: (normal(rng, 3, 5), normal(rng, 5) + 1))
cases.wrong(
    "rms-norm-projection",
    "x",
    "missing-term",
    "the projection on x is left out",
    edit={0: lambda d, res, dy: res[1] * dy * res[2]},
)
cases.wrong(
    "rms-norm-as-layer-norm",
    "x",
    "missing-term",
    "dx of layer norm: the mean is taken off",
    edit={0: lambda d, res, dy: d - (res[1] * dy * res[2]).mean(-1, keepdims=True)},
)
cases.wrong(
    "rms-norm-gamma-zero",
    "gamma",
    "zero",
    "gamma is forgotten",
    edit={1: lambda d, res, dy: jnp.zeros_like(d)},
)


def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True))


def unit_bwd(residuals, dy):
    y, length = residuals
    return ((dy - y * (y * dy).sum(-1, keepdims=True)) / length,)


cases.right(
    "l2-normalise",
    unit,
    lambda x: (unit(x), (unit(x), jnp.sqrt((x * x).sum(-1, keepdims=True)))),
    unit_bwd,
    lambda rng: (normal(rng, 4, 5),),
)
cases.wrong(
    "l2-normalise-projection",
    "x",
    "missing-term",
    "dx = dy / |x|",
    edit={0: lambda d, res, dy: dy / res[1]},
)
cases.wrong(
    "l2-normalise-length",
    "x",
    "missing-term",
    "1/|x| is left out of dx",
    edit={0: lambda d, res, dy: d * res[1]},
)
cases.wrong(
    "l2-normalise-all",
    "x",
    "missing-term",
    "the projection is taken over the whole array instead of each row",
    edit={0: lambda d, res, dy: (dy - res[0] * (res[0] * dy).sum()) / res[1]},
)


def weight_norm(v, g):
    return g * v / jnp.sqrt((v * v).sum(0))


def weight_norm_fwd(v, g):
    length = jnp.sqrt((v * v).sum(0))
    return g * v / length, (v / length, length, g)


cases.right(
    "weight-norm",
    weight_norm,
    weight_norm_fwd,
    lambda res, dw: (res[2] / res[1] * (dw - res[0] * (res[0] * dw).sum(0)), (res[0] * dw).sum(0)),
    lambda rng: (normal(rng, 4, 3), normal(rng, 3)),
)
cases.wrong(
    "weight-norm-projection",
    "v",
    "missing-term",
    "dv lacks the projection",
    edit={0: lambda d, res, dw: res[2] / res[1] * dw},
)
cases.wrong(
    "weight-norm-gain-averaged",
    "g",
    "averaged",
    "dg is a mean over the inputs",
    edit={1: lambda d, res, dw: (res[0] * dw).mean(0)},
)


def grouped_norm(x):
    parts = x.reshape(*x.shape[:-1], 2, -1)
    mean, rstd = moments(parts, (1, 3))
    return ((parts - mean) * rstd).reshape(x.shape)


def grouped_norm_bwd(x, dy):
    parts, g = x.reshape(*x.shape[:-1], 2, -1), dy.reshape(*x.shape[:-1], 2, -1)
    mean, rstd = moments(parts, (1, 3))
    normed = (parts - mean) * rstd
    dx = rstd * (
        g - g.mean((1, 3), keepdims=True) - normed * (g * normed).mean((1, 3), keepdims=True)
    )
    return (dx.reshape(x.shape),)


cases.right(
    "group-norm",
    grouped_norm,
    lambda x: (grouped_norm(x), x),
    grouped_norm_bwd,
    lambda rng: (normal(rng, 2, 3, 4),),
)
cases.wrong(
    "group-norm-one-group",
    "x",
    "missing-term",
    "the backward takes all channels as one group",
    edit={
        0: lambda d, x, dy: (
            lambda mean, rstd: (
                rstd
                * (
                    dy
                    - dy.mean((1, 2), keepdims=True)
                    - (x - mean) * rstd * (dy * (x - mean) * rstd).mean((1, 2), keepdims=True)
                )
            )
        )(*moments(x, (1, 2)))
    },
)


def standardised(x):
    return (x - x.mean()) / jnp.std(x, ddof=1)


def standardised_bwd(x, dy):
    z, s = standardised(x), jnp.std(x, ddof=1)
    return ((dy - dy.mean() - z * (z * dy).sum() / (x.size - 1)) / s,)


cases.right(
    "standardise",
    standardised,
    lambda x: (standardised(x), x),
    standardised_bwd,
    lambda rng: (normal(rng, 5),),
)
cases.wrong(
    "standardise-ddof",
    "x",
    ("missing-term", "scale"),
    "n for n - 1 in the backward",
    edit={
        0: lambda d, x, dy: (
            (dy - dy.mean() - standardised(x) * (standardised(x) * dy).mean()) / jnp.std(x, ddof=1)
        )
    },
)
