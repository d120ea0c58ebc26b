"""Pooling: winners, ties, overlaps, padding and counts."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.verify.corpus.case import Family, integers, normal

cases = Family("pooling")


def windows(x, size, stride):
    """Cells of every window, row-major, of x[N, H, W, C]: [N, H', W', size², C]."""
    n, h, w, c = x.shape
    rows, columns = (h - size) // stride + 1, (w - size) // stride + 1
    cells = [
        lax.slice(
            x,
            (0, i, j, 0),
            (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, c),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(cells, 3)


def spread(dcells, shape, size, stride, put=lambda at, share: at.add(share)):
    """The transpose of `windows`; `put` is how a share enters the image."""
    dx = jnp.zeros(shape, dcells.dtype)
    rows, columns = dcells.shape[1:3]
    for cell in range(size * size):
        i, j = divmod(cell, size)
        at = dx.at[
            :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride
        ]
        dx = put(at, dcells[..., cell, :])
    return dx


def one_hot(winner, cells):
    """The winner's cell of each window, [..., cells, C]."""
    return winner[..., None, :] == jnp.arange(cells)[:, None]


def make_max_pool(size, stride):
    def max_pool(x):
        return windows(x, size, stride).max(3)

    def fwd(x):
        cells = windows(x, size, stride)
        return cells.max(3), (cells.argmax(3), x)

    def bwd(residuals, dy):
        winner, x = residuals
        dcells = jnp.where(one_hot(winner, size * size), dy[..., None, :], 0)
        return (spread(dcells, x.shape, size, stride),)

    return max_pool, fwd, bwd


def placed(winner, dy, shape, size, stride):
    dcells = jnp.where(one_hot(winner, size * size), dy[..., None, :], 0)
    return spread(dcells, shape, size, stride)


def photograph(rng):
    return (normal(rng, 2, 6, 6, 2),)


cases.right("max-pool", *make_max_pool(2, 2), photograph)
cases.wrong(
    "max-pool-cell-transposed",
    "x",
    ("transposed", "shifted"),
    "row and column of the winner are exchanged",
    edit={0: lambda d, res, dy: placed(res[0] % 2 * 2 + res[0] // 2, dy, res[1].shape, 2, 2)},
)
cases.wrong(
    "max-pool-next-cell",
    "x",
    "shifted",
    "the winner's index is off by one",
    edit={0: lambda d, res, dy: placed((res[0] + 1) % 4, dy, res[1].shape, 2, 2)},
)
cases.wrong(
    "max-pool-first-cell",
    "x",
    "shifted",
    "every gradient goes to the first cell",
    edit={0: lambda d, res, dy: placed(0 * res[0], dy, res[1].shape, 2, 2)},
)
cases.wrong(
    "max-pool-smallest-wins",
    "x",
    "shifted",
    "argmin for argmax",
    fwd=lambda x: (windows(x, 2, 2).max(3), (windows(x, 2, 2).argmin(3), x)),
)
cases.wrong(
    "max-pool-as-average",
    "x",
    "surrogate",
    "the gradient of average pooling on a maximum",
    edit={
        0: lambda d, res, dy: spread(
            jnp.broadcast_to(dy[..., None, :] / 4, (*dy.shape[:3], 4, dy.shape[3])),
            res[1].shape,
            2,
            2,
        )
    },
)
cases.wrong(
    "max-pool-unpooled-everywhere",
    "x",
    "missing-term",
    "every cell gets the whole gradient, the winner's mask is forgotten",
    edit={0: lambda d, res, dy: jnp.repeat(jnp.repeat(dy, 2, 1), 2, 2)},
)
cases.wrong(
    "max-pool-batch",
    "x",
    "one-example",
    "only the first image gets a gradient",
    edit={0: lambda d, res, dy: d.at[1:].set(0)},
)

cases.right("max-pool-overlapping", *make_max_pool(3, 2), lambda rng: (normal(rng, 2, 7, 7, 1),))
cases.wrong(
    "max-pool-overlap-overwritten",
    "x",
    "overwritten",
    "an input that wins twice keeps one of its gradients",
    edit={
        0: lambda d, res, dy: spread(
            jnp.where(one_hot(res[0], 9), dy[..., None, :], 0),
            res[1].shape,
            3,
            2,
            lambda at, share: at.set(jnp.where(share != 0, share, at.get())),
        )
    },
)
cases.wrong(
    "max-pool-window-two",
    "x",
    "shifted",
    "the winner is read as if the window were two wide",
    edit={0: lambda d, res, dy: placed(res[0] // 2 * 3 + res[0] % 2, dy, res[1].shape, 3, 2)},
)


def tied(rng):
    """Small integers: most windows hold their maximum more than once."""
    return (integers(rng, 2, 2, 4, 4, 2).astype("float32"),)


def tie_mask(x):
    cells = windows(x, 2, 2)
    return (cells == cells.max(3, keepdims=True)).astype(x.dtype)


max_pool, max_pool_fwd, max_pool_bwd = make_max_pool(2, 2)
cases.right(
    "max-pool-ties-first",
    max_pool,
    max_pool_fwd,
    max_pool_bwd,
    tied,
    "exact ties, the first cell wins",
)
cases.right(
    "max-pool-ties-split",
    max_pool,
    lambda x: (max_pool(x), x),
    lambda x, dy: (
        spread(dy[..., None, :] * tie_mask(x) / tie_mask(x).sum(3, keepdims=True), x.shape, 2, 2),
    ),
    tied,
    "exact ties, the gradient is shared",
)
cases.wrong(
    "max-pool-ties-doubled",
    "x",
    "ties",
    "every tied cell gets the whole gradient",
    edit={0: lambda d, x, dy: spread(dy[..., None, :] * tie_mask(x), x.shape, 2, 2)},
    shows="kink",
)
cases.wrong(
    "max-pool-ties-none",
    "x",
    "ties",
    "tied windows get no gradient at all",
    edit={
        0: lambda d, x, dy: spread(
            jnp.where(tie_mask(x).sum(3, keepdims=True) == 1, dy[..., None, :] * tie_mask(x), 0),
            x.shape,
            2,
            2,
        )
    },
    shows="kink",
)


def first_wins(x):
    cells = windows(x, 2, 2)
    winner = lax.stop_gradient(cells).argmax(3, keepdims=True)
    return jnp.take_along_axis(cells, winner, 3)[..., 0, :]


cases.right(
    "max-pool-ties-bound",
    max_pool,
    max_pool_fwd,
    max_pool_bwd,
    tied,
    "an explicit reference that says who wins a tie",
    reference=first_wins,
)
cases.wrong(
    "max-pool-last-wins",
    "x",
    "ties",
    "the last cell wins where the reference takes the first",
    fwd=lambda x: (max_pool(x), (3 - windows(x, 2, 2)[..., ::-1, :].argmax(3), x)),
    shows="kink",
)
cases.wrong(
    "max-pool-split-for-first",
    "x",
    "ties",
    "shared where the reference takes the first",
    fwd=lambda x: (max_pool(x), x),
    bwd=lambda x, dy: (
        spread(dy[..., None, :] * tie_mask(x) / tie_mask(x).sum(3, keepdims=True), x.shape, 2, 2),
    ),
    shows="kink",
)


def make_avg_pool(size, stride):
    def avg_pool(x):
        return windows(x, size, stride).mean(3)

    def bwd(x, dy):
        dcells = jnp.broadcast_to(dy[..., None, :] / size**2, (*dy.shape[:3], size**2, dy.shape[3]))
        return (spread(dcells, x.shape, size, stride),)

    return avg_pool, lambda x: (avg_pool(x), x), bwd


cases.right("avg-pool", *make_avg_pool(2, 2), photograph)
cases.wrong(
    "avg-pool-count-missing",
    "x",
    "scale",
    "not divided by the window's four cells",
    edit={0: lambda d, x, dy: 4 * d},
)
cases.wrong(
    "avg-pool-count-side",
    "x",
    "scale",
    "divided by the window's side instead of its area",
    edit={0: lambda d, x, dy: 2 * d},
)
cases.wrong(
    "avg-pool-batch-too",
    "x",
    "scale",
    "divided by the batch size as well",
    edit={0: lambda d, x, dy: d / x.shape[0]},
)
cases.wrong(
    "avg-pool-one-cell",
    "x",
    ("missing-term", "overwritten", "local"),
    "only the first cell of each window gets its share",
    edit={0: lambda d, x, dy: jnp.zeros_like(x).at[:, ::2, ::2].set(dy / 4)},
)
cases.wrong(
    "avg-pool-tiled",
    "x",
    ("shifted", "transposed"),
    "tile for repeat: cells are copied image by image",
    edit={0: lambda d, x, dy: jnp.tile(dy / 4, (1, 2, 2, 1))},
)

cases.right("avg-pool-overlapping", *make_avg_pool(3, 1), lambda rng: (normal(rng, 1, 5, 5, 2),))
cases.wrong(
    "avg-pool-overlap-overwritten",
    "x",
    "overwritten",
    "each pixel keeps the share of one window",
    edit={
        0: lambda d, x, dy: spread(
            jnp.broadcast_to(dy[..., None, :] / 9, (*dy.shape[:3], 9, dy.shape[3])),
            x.shape,
            3,
            1,
            lambda at, share: at.set(share),
        )
    },
)
cases.wrong(
    "avg-pool-overlap-averaged",
    "x",
    ("averaged", "scale", "missing-term"),
    "overlapping shares are averaged over the windows that touch a pixel",
    edit={0: lambda d, x, dy: d / make_avg_pool(3, 1)[2](x, jnp.full_like(dy, 9.0))[0]},
)


def padded_counts(h, w, dtype):
    """How many true pixels each 3×3 window at stride 1 and padding 1 holds, [H, W, 1]."""
    rows = np.minimum(np.arange(h) + 1, h - 1) - np.maximum(np.arange(h) - 1, 0) + 1
    columns = np.minimum(np.arange(w) + 1, w - 1) - np.maximum(np.arange(w) - 1, 0) + 1
    return jnp.asarray(np.outer(rows, columns)[..., None], dtype)


def box(x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return windows(padded, 3, 1).sum(3)


def same_avg_pool(x):
    return box(x) / padded_counts(*x.shape[1:3], x.dtype)


cases.right(
    "avg-pool-true-count",
    same_avg_pool,
    lambda x: (same_avg_pool(x), x),
    lambda x, dy: (box(dy / padded_counts(*x.shape[1:3], x.dtype)),),
    lambda rng: (normal(rng, 1, 5, 5, 1),),
    "padding is not counted",
)
cases.wrong(
    "avg-pool-padding-counted",
    "x",
    "border",
    "nine cells are counted at the border too",
    edit={0: lambda d, x, dy: box(dy) / 9},
)
cases.wrong(
    "avg-pool-count-outside",
    "x",
    ("border", "missing-term", "transposed"),
    "the count is that of the pixel, not of the window",
    edit={0: lambda d, x, dy: box(dy) / padded_counts(*x.shape[1:3], x.dtype)},
)


def global_avg(x):
    return x.mean((1, 2))


cases.right(
    "global-avg-pool",
    global_avg,
    lambda x: (global_avg(x), x),
    lambda x, dy: (jnp.broadcast_to(dy[:, None, None] / (x.shape[1] * x.shape[2]), x.shape),),
    photograph,
)
cases.wrong(
    "global-avg-not-divided",
    "x",
    "scale",
    "1/(H·W) is missing",
    edit={0: lambda d, x, dy: jnp.broadcast_to(dy[:, None, None], x.shape)},
)
cases.wrong(
    "global-avg-divided-twice",
    "x",
    ("scale", "averaged"),
    "1/(H·W) is put in twice",
    edit={0: lambda d, x, dy: d / (x.shape[1] * x.shape[2])},
)
cases.wrong(
    "global-avg-first-pixel",
    "x",
    ("local", "missing-term", "one-example"),
    "the whole gradient goes to the first pixel",
    edit={0: lambda d, x, dy: jnp.zeros_like(x).at[:, 0, 0].set(dy)},
)


def global_max(x):
    return x.max((1, 2))


def global_max_bwd(x, dy):
    flat = x.reshape(x.shape[0], -1, x.shape[3])
    mask = flat.argmax(1)[:, None] == jnp.arange(flat.shape[1])[:, None]
    return (jnp.where(mask, dy[:, None], 0).reshape(x.shape),)


cases.right("global-max-pool", global_max, lambda x: (global_max(x), x), global_max_bwd, photograph)
cases.wrong(
    "global-max-of-batch",
    "x",
    ("missing-term", "local", "one-example"),
    "the winner is sought over the batch too",
    edit={0: lambda d, x, dy: jnp.where(x == x.max((0, 1, 2)), dy[:, None, None], 0)},
)
