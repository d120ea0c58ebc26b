"""Moving entries about: gathers, scatters, sorts, slices, permutations, resizing."""

import jax
import jax.numpy as jnp

from tests.verify.corpus.case import Family, integers, normal, uniform

cases = Family("indexing")


def gather(table, ids):
    return table[ids]


def gather_bwd(residuals, dy):
    table, ids = residuals
    return jnp.zeros_like(table).at[ids].add(dy), None


def sentence(rng):
    return normal(rng, 6, 3), jnp.asarray([1, 4, 1, 0, 4, 1, 3], "int32")


cases.right(
    "embedding",
    gather,
    lambda table, ids: (table[ids], (table, ids)),
    gather_bwd,
    sentence,
    "some rows are taken more than once",
)
cases.wrong(
    "embedding-overwritten",
    "table",
    "overwritten",
    "repeated rows keep one contribution",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[1]].set(dy)},
)
cases.wrong(
    "embedding-averaged",
    "table",
    ("averaged", "missing-term"),
    "repeated rows are averaged",
    edit={
        0: lambda d, res, dy: d / jnp.maximum(jnp.zeros((6, 1), d.dtype).at[res[1], 0].add(1), 1)
    },
)
cases.wrong(
    "embedding-padding-row",
    "table",
    "local",
    "row 0 is taken for padding and zeroed",
    edit={0: lambda d, res, dy: d.at[0].set(0)},
)
cases.wrong(
    "embedding-shifted",
    "table",
    "shifted",
    "ids off by one",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[1] + 1].add(dy)},
)
cases.wrong(
    "embedding-maximum",
    "table",
    ("nonlinear", "overwritten"),
    "at[].max for at[].add",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[1]].max(dy)},
)
cases.wrong(
    "embedding-last-token",
    "table",
    ("one-example", "local", "overwritten"),
    "the last token is left out",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[1][:-1]].add(dy[:-1])},
)


def scatter_add(x, updates, ids):
    return x.at[ids].add(updates)


cases.right(
    "scatter-add",
    scatter_add,
    lambda x, u, ids: (scatter_add(x, u, ids), ids),
    lambda ids, dy: (dy, dy[ids], None),
    lambda rng: (normal(rng, 5, 2), normal(rng, 4, 2), jnp.asarray([2, 0, 2, 4], "int32")),
)
cases.wrong(
    "scatter-add-hole",
    "x",
    "local",
    "the hit rows of x get nothing, as in scatter-set",
    edit={0: lambda d, ids, dy: d.at[ids].set(0)},
)
cases.wrong(
    "scatter-add-first-rows",
    "updates",
    "shifted",
    "the first rows are returned",
    edit={1: lambda d, ids, dy: dy[:4]},
)


def scatter_set(x, updates):
    return x.at[1:4].set(updates)


cases.right(
    "scatter-set",
    scatter_set,
    lambda x, updates: (scatter_set(x, updates), None),
    lambda _, dy: (dy.at[1:4].set(0), dy[1:4]),
    lambda rng: (normal(rng, 6), normal(rng, 3)),
)
cases.wrong(
    "scatter-set-not-cleared",
    "x",
    ("local", "missing-term"),
    "overwritten entries of x still get a gradient",
    edit={0: lambda d, _, dy: dy},
)
cases.wrong(
    "scatter-set-shifted",
    "updates",
    "shifted",
    "the slice starts one too early",
    edit={1: lambda d, _, dy: dy[0:3]},
)


def segment_mean(x, ids):
    total = jnp.zeros((3, x.shape[1]), x.dtype).at[ids].add(x)
    return total / jnp.zeros((3, 1), x.dtype).at[ids, 0].add(1)


def segment_counts(ids, dtype):
    return jnp.zeros((3, 1), dtype).at[ids, 0].add(1)


cases.right(
    "segment-mean",
    segment_mean,
    lambda x, ids: (segment_mean(x, ids), ids),
    lambda ids, dy: ((dy / segment_counts(ids, dy.dtype))[ids], None),
    lambda rng: (normal(rng, 6, 2), jnp.asarray([0, 1, 1, 2, 2, 2], "int32")),
)
cases.wrong(
    "segment-mean-as-sum",
    "x",
    "missing-term",
    "the counts are left out",
    edit={0: lambda d, ids, dy: dy[ids]},
)
cases.wrong(
    "segment-mean-mean-count",
    "x",
    ("missing-term", "local"),
    "every segment is divided by the mean count",
    edit={0: lambda d, ids, dy: dy[ids] / 2},
)


def sort(x):
    return jnp.sort(x)


cases.right(
    "sort",
    sort,
    lambda x: (jnp.sort(x), jnp.argsort(x)),
    lambda order, dy: (jnp.zeros_like(dy).at[order].set(dy),),
    lambda rng: (normal(rng, 8),),
)
cases.wrong(
    "sort-permutation-not-inverted",
    "x",
    ("transposed", "shifted"),
    "dy[order] for the inverse permutation",
    edit={0: lambda d, order, dy: dy[order]},
)
cases.wrong(
    "sort-not-permuted",
    "x",
    ("shifted", "missing-term"),
    "dx = dy",
    edit={0: lambda d, order, dy: dy},
)
cases.wrong(
    "sort-descending",
    "x",
    "flipped",
    "the order is that of a descending sort",
    edit={0: lambda d, order, dy: jnp.zeros_like(dy).at[order[::-1]].set(dy)},
)


def top(x):
    return jax.lax.top_k(x, 3)[0]


cases.right(
    "top-k",
    top,
    lambda x: (top(x), (jax.lax.top_k(x, 3)[1], x)),
    lambda res, dy: (jnp.zeros_like(res[1]).at[res[0]].set(dy),),
    lambda rng: (normal(rng, 8),),
)
cases.wrong(
    "top-k-first-places",
    "x",
    "shifted",
    "the gradient goes to the first places",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[:3].set(dy)},
)
cases.wrong(
    "top-k-only-first",
    "x",
    ("local", "one-example", "missing-term"),
    "only the largest gets its gradient",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[0][0]].set(dy[0])},
)
cases.wrong(
    "top-k-ranks-reversed",
    "x",
    ("flipped", "shifted"),
    "ranks in the opposite order",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[res[0]].set(dy[::-1])},
)

PERMUTATION = (3, 0, 4, 1, 2)


cases.right(
    "permute",
    lambda x: x[jnp.asarray(PERMUTATION)],
    lambda x: (x[jnp.asarray(PERMUTATION)], None),
    lambda _, dy: (dy[jnp.argsort(jnp.asarray(PERMUTATION))],),
    lambda rng: (normal(rng, 5, 2),),
)
cases.wrong(
    "permute-not-inverted",
    "x",
    ("transposed", "shifted"),
    "permuted again instead of back",
    edit={0: lambda d, _, dy: dy[jnp.asarray(PERMUTATION)]},
)

cases.right(
    "roll",
    lambda x: jnp.roll(x, 2, 0),
    lambda x: (jnp.roll(x, 2, 0), None),
    lambda _, dy: (jnp.roll(dy, -2, 0),),
    lambda rng: (normal(rng, 7, 2),),
)
cases.wrong(
    "roll-same-way",
    "x",
    ("shifted", "transposed"),
    "rolled on instead of back",
    edit={0: lambda d, _, dy: jnp.roll(dy, 2, 0)},
)
cases.wrong(
    "roll-one-short",
    "x",
    "shifted",
    "rolled back by one instead of two",
    edit={0: lambda d, _, dy: jnp.roll(dy, -1, 0)},
)

cases.right(
    "flip",
    lambda x: x[::-1],
    lambda x: (x[::-1], None),
    lambda _, dy: (dy[::-1],),
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong("flip-not-flipped-back", "x", "flipped", "dx = dy", edit={0: lambda d, _, dy: dy})

cases.right(
    "transpose-cycle",
    lambda x: jnp.transpose(x, (1, 2, 0)),
    lambda x: (jnp.transpose(x, (1, 2, 0)), None),
    lambda _, dy: (jnp.transpose(dy, (2, 0, 1)),),
    lambda rng: (normal(rng, 3, 3, 3),),
)
cases.wrong(
    "transpose-not-inverted",
    "x",
    "transposed",
    "the cycle is repeated instead of undone",
    edit={0: lambda d, _, dy: jnp.transpose(dy, (1, 2, 0))},
)

cases.right(
    "flatten",
    lambda x: x.reshape(-1),
    lambda x: (x.reshape(-1), x),
    lambda x, dy: (dy.reshape(x.shape),),
    lambda rng: (normal(rng, 3, 4),),
)
cases.wrong(
    "flatten-column-major",
    "x",
    "transposed",
    "unflattened in column-major order",
    edit={0: lambda d, x, dy: dy.reshape(4, 3).T},
)


cases.right(
    "concatenate",
    lambda a, b: jnp.concatenate([a, b]),
    lambda a, b: (jnp.concatenate([a, b]), None),
    lambda _, dy: (dy[:3], dy[3:]),
    lambda rng: (normal(rng, 3, 2), normal(rng, 3, 2)),
)
cases.wrong(
    "concatenate-exchanged",
    ("a", "b"),
    "swapped-arguments",
    "the halves are exchanged",
    bwd=lambda _, dy: (dy[3:], dy[:3]),
)
cases.wrong(
    "concatenate-off-by-one",
    "b",
    "shifted",
    "the second half starts one too early",
    edit={1: lambda d, _, dy: dy[2:5]},
)
cases.wrong(
    "concatenate-interleaved",
    ("a", "b"),
    ("transposed", "shifted", "swapped-arguments"),
    "even and odd rows instead of halves",
    bwd=lambda _, dy: (dy[::2], dy[1::2]),
)

cases.right(
    "pad",
    lambda x: jnp.pad(x, (2, 1)),
    lambda x: (jnp.pad(x, (2, 1)), None),
    lambda _, dy: (dy[2:-1],),
    lambda rng: (normal(rng, 6),),
)
cases.wrong(
    "pad-cropped-wrong-side",
    "x",
    "shifted",
    "cropped by 1 and 2 instead of 2 and 1",
    edit={0: lambda d, _, dy: dy[1:-2]},
)

cases.right(
    "slice-strided",
    lambda x: x[1::2],
    lambda x: (x[1::2], x),
    lambda x, dy: (jnp.zeros_like(x).at[1::2].set(dy),),
    lambda rng: (normal(rng, 8),),
)
cases.wrong(
    "slice-start-forgotten",
    "x",
    "shifted",
    "the start of the slice is forgotten",
    edit={0: lambda d, x, dy: jnp.zeros_like(x).at[::2].set(dy)},
)
cases.wrong(
    "slice-step-forgotten",
    "x",
    "shifted",
    "the step of the slice is forgotten",
    edit={0: lambda d, x, dy: jnp.zeros_like(x).at[1:5].set(dy)},
)

cases.right(
    "repeat",
    lambda x: jnp.repeat(x, 3, 0),
    lambda x: (jnp.repeat(x, 3, 0), None),
    lambda _, dy: (dy.reshape(-1, 3, dy.shape[1]).sum(1),),
    lambda rng: (normal(rng, 4, 2),),
)
cases.wrong(
    "repeat-averaged",
    "x",
    "averaged",
    "the three copies are averaged",
    edit={0: lambda d, _, dy: d / 3},
)
cases.wrong(
    "repeat-first-copy",
    "x",
    ("overwritten", "one-example", "not-reduced"),
    "the first of three copies is taken",
    edit={0: lambda d, _, dy: dy[::3]},
)
cases.wrong(
    "repeat-as-tile",
    "x",
    ("transposed", "shifted"),
    "summed as if tiled",
    edit={0: lambda d, _, dy: dy.reshape(3, 4, 2).sum(0)},
)

cases.right(
    "where",
    lambda c, a, b: jnp.where(c, a, b),
    lambda c, a, b: (jnp.where(c, a, b), c),
    lambda c, dy: (None, jnp.where(c, dy, 0), jnp.where(c, 0, dy)),
    lambda rng: (jnp.asarray(rng.random(8) < 0.5), normal(rng, 8), normal(rng, 8)),
    "a boolean argument",
)
cases.wrong(
    "where-exchanged",
    ("a", "b"),
    "swapped-arguments",
    "the branches are exchanged",
    bwd=lambda c, dy: (None, jnp.where(c, 0, dy), jnp.where(c, dy, 0)),
)
cases.wrong(
    "where-not-masked",
    "a",
    ("local", "missing-term"),
    "a gets the whole cotangent",
    edit={1: lambda d, c, dy: dy},
)

cases.right(
    "upsample-nearest",
    lambda x: jnp.repeat(jnp.repeat(x, 2, 0), 2, 1),
    lambda x: (jnp.repeat(jnp.repeat(x, 2, 0), 2, 1), x),
    lambda x, dy: (dy.reshape(x.shape[0], 2, x.shape[1], 2).sum((1, 3)),),
    lambda rng: (normal(rng, 4, 4),),
)
cases.wrong(
    "upsample-averaged",
    "x",
    "averaged",
    "averaged over the copies",
    edit={0: lambda d, x, dy: d / 4},
)
cases.wrong(
    "upsample-strided",
    "x",
    ("overwritten", "not-reduced", "one-example"),
    "the upper left copy only",
    edit={0: lambda d, x, dy: dy[::2, ::2]},
)

cases.right(
    "pixel-shuffle",
    lambda x: x.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4),
    lambda x: (x.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4), None),
    lambda _, dy: (dy.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(2, 2, 4),),
    lambda rng: (normal(rng, 2, 2, 4),),
)
cases.wrong(
    "pixel-shuffle-order",
    "x",
    "transposed",
    "the sub-pixels come column by column",
    edit={0: lambda d, _, dy: d.reshape(2, 2, 2, 2).swapaxes(2, 3).reshape(2, 2, 4)},
)
cases.wrong(
    "pixel-shuffle-not-unshuffled",
    "x",
    ("transposed", "shifted"),
    "reshaped without the transpose",
    edit={0: lambda d, _, dy: dy.reshape(2, 2, 4)},
)


def interpolate(x, position):
    """x[T] at fractional positions, linearly."""
    i = jnp.floor(position).astype("int32")
    f = position - jnp.floor(position)
    return (1 - f) * x[i] + f * x[i + 1]


def interpolate_bwd(residuals, dy):
    x, position = residuals
    i = jnp.floor(position).astype("int32")
    f = position - jnp.floor(position)
    return jnp.zeros_like(x).at[i].add((1 - f) * dy).at[i + 1].add(f * dy), dy * (x[i + 1] - x[i])


cases.right(
    "interpolate",
    interpolate,
    lambda x, position: (interpolate(x, position), (x, position)),
    interpolate_bwd,
    lambda rng: (normal(rng, 6), uniform(rng, 5, high=4.9)),
    "piecewise linear in the position",
)
cases.wrong(
    "interpolate-weights-exchanged",
    "x",
    ("shifted", "swapped-arguments"),
    "the two neighbours' weights are exchanged",
    edit={
        0: lambda d, res, dy: (
            lambda i, f: jnp.zeros_like(d).at[i].add(f * dy).at[i + 1].add((1 - f) * dy)
        )(jnp.floor(res[1]).astype("int32"), res[1] - jnp.floor(res[1]))
    },
)
cases.wrong(
    "interpolate-left-only",
    "x",
    "missing-term",
    "the right neighbour gets nothing",
    edit={
        0: lambda d, res, dy: (lambda i, f: jnp.zeros_like(d).at[i].add((1 - f) * dy))(
            jnp.floor(res[1]).astype("int32"), res[1] - jnp.floor(res[1])
        )
    },
)
cases.wrong(
    "interpolate-position-zero",
    "position",
    "zero",
    "the positions are treated as constants",
    edit={1: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "interpolate-position-sign",
    "position",
    "sign",
    "left minus right",
    edit={1: lambda d, res, dy: -d},
)


cases.right(
    "maximum",
    lambda a, b: jnp.maximum(a, b),
    lambda a, b: (jnp.maximum(a, b), a >= b),
    lambda first, dy: (jnp.where(first, dy, 0), jnp.where(first, 0, dy)),
    lambda rng: (lambda a: (a, normal(rng, 8).at[::2].set(a[::2])))(normal(rng, 8)),
    "exact ties between two arguments, the first takes all",
)
cases.wrong(
    "maximum-both",
    ("a", "b"),
    "ties",
    "at a tie both arguments get the whole gradient",
    fwd=lambda a, b: (jnp.maximum(a, b), (a >= b, b >= a)),
    bwd=lambda res, dy: (jnp.where(res[0], dy, 0), jnp.where(res[1], dy, 0)),
    shows="kink",
)
cases.wrong(
    "maximum-exchanged",
    ("a", "b"),
    "swapped-arguments",
    "the smaller one gets the gradient",
    fwd=lambda a, b: (jnp.maximum(a, b), a < b),
    inputs=lambda rng: (normal(rng, 8), normal(rng, 8)),
)

cases.right(
    "median",
    lambda x: jnp.sort(x)[x.size // 2],
    lambda x: (jnp.sort(x)[x.size // 2], (jnp.argsort(x)[x.size // 2], x)),
    lambda res, dy: (jnp.zeros_like(res[1]).at[res[0]].set(dy),),
    lambda rng: (normal(rng, 7),),
)
cases.wrong(
    "median-sorted-place",
    "x",
    "shifted",
    "the gradient goes to the middle place instead of the median",
    edit={0: lambda d, res, dy: jnp.zeros_like(d).at[3].set(dy)},
)

cases.right(
    "max-tied",
    lambda x: x.max(),
    lambda x: (x.max(), (x, jnp.argmax(x))),
    lambda res, dy: (jnp.zeros_like(res[0]).at[res[1]].set(dy),),
    lambda rng: (jnp.clip(normal(rng, 9), -1, 0.3).at[4].set(0.3).at[6].set(0.3),),
    "several maxima, the first takes all",
)
cases.wrong(
    "max-all-tied",
    "x",
    "ties",
    "every one of the equal maxima gets the whole gradient",
    edit={0: lambda d, res, dy: jnp.where(res[0] == res[0].max(), dy, 0)},
    shows="kink",
)

cases.right(
    "diagonal",
    lambda x: jnp.diagonal(x),
    lambda x: (jnp.diagonal(x), None),
    lambda _, dy: (jnp.diag(dy),),
    lambda rng: (normal(rng, 4, 4),),
)
cases.wrong(
    "diagonal-filled",
    "x",
    ("missing-term", "local"),
    "the whole row gets the diagonal's gradient",
    edit={0: lambda d, _, dy: jnp.broadcast_to(dy[:, None], d.shape)},
)
cases.right(
    "lower-triangle",
    lambda x: jnp.tril(x),
    lambda x: (jnp.tril(x), None),
    lambda _, dy: (jnp.tril(dy),),
    lambda rng: (normal(rng, 4, 4),),
)
cases.wrong(
    "triangle-not-masked",
    "x",
    ("local", "missing-term"),
    "the upper triangle gets a gradient",
    edit={0: lambda d, _, dy: dy},
)
cases.wrong(
    "triangle-upper",
    "x",
    "transposed",
    "the upper triangle for the lower",
    edit={0: lambda d, _, dy: jnp.triu(dy)},
)
cases.wrong(
    "triangle-diagonal-lost",
    "x",
    ("local", "missing-term"),
    "the diagonal is left out",
    edit={0: lambda d, _, dy: jnp.tril(dy, -1)},
)

cases.right(
    "one-hot-lookup",
    lambda table, ids: jax.nn.one_hot(ids, 5, dtype=table.dtype) @ table,
    lambda table, ids: (jax.nn.one_hot(ids, 5, dtype=table.dtype) @ table, ids),
    lambda ids, dy: (jax.nn.one_hot(ids, 5, dtype=dy.dtype).T @ dy, None),
    lambda rng: (normal(rng, 5, 3), integers(rng, 5, 6)),
)
cases.wrong(
    "one-hot-first-token",
    "table",
    ("one-example", "overwritten", "local"),
    "the first token only",
    edit={0: lambda d, ids, dy: jax.nn.one_hot(ids, 5, dtype=dy.dtype)[:1].T @ dy[:1]},
)
