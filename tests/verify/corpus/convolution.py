"""Convolutions in one to three dimensions, with what is forgotten in their transposes."""

import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal

cases = Family("convolution")

NUMBERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def correlate(x, w, *, stride=1, padding=1, dilation=1, groups=1, x_dilation=1):
    """y[n,i,o] = Σ x[n, i·s + k·d, c] w[k,c,o]; padding an int or one pair for every axis."""
    rank = x.ndim - 2
    pair = (padding, padding) if isinstance(padding, int) else padding
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * rank,
        [pair] * rank,
        lhs_dilation=(x_dilation,) * rank,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=NUMBERS[rank],
        feature_group_count=groups,
    )


def turned(w, *, flip=True, swap=True):
    """The kernel of the input gradient: mirrored in space, channels exchanged."""
    w = jnp.flip(w, range(w.ndim - 2)) if flip else w
    return jnp.swapaxes(w, -1, -2) if swap else w


def input_grad(dy, w, size, *, stride=1, padding=1, dilation=1, flip=True, swap=True, shift=0):
    """dx for inputs `size` long; `shift` moves the padding from one end to the other."""
    reach = dilation * (w.shape[0] - 1)
    low = reach - padding + shift
    high = size + reach - low - ((dy.shape[1] - 1) * stride + 1)
    return correlate(
        dy,
        turned(w, flip=flip, swap=swap),
        padding=(low, high),
        dilation=dilation,
        x_dilation=stride,
    )


def kernel_grad(x, dy, taps, *, stride=1, padding=1, dilation=1, shift=0):
    """dw of `taps` taps an axis: x correlated with dy, examples summed."""
    high = (taps - 1) * dilation + (dy.shape[1] - 1) * stride + 1 - x.shape[1] - (padding + shift)
    turned_x, turned_dy = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2)
    dw = correlate(
        turned_x, turned_dy, stride=dilation, padding=(padding + shift, high), dilation=stride
    )
    return jnp.moveaxis(dw, 0, -2)


def make_conv(**options):
    """forward, fwd and bwd of a convolution with bias and these options."""

    def conv(x, w, b):
        return correlate(x, w, **options) + b

    def fwd(x, w, b):
        return conv(x, w, b), (x, w)

    def bwd(residuals, dy):
        x, w = residuals
        return (
            input_grad(dy, w, x.shape[1], **options),
            kernel_grad(x, dy, w.shape[0], **options),
            dy.sum(range(dy.ndim - 1)),
        )

    return conv, fwd, bwd


def image(*, n=2, size=5, c=2, o=3, taps=3, rank=2):
    def inputs(rng):
        return (
            normal(rng, n, *(size,) * rank, c),
            normal(rng, *(taps,) * rank, c, o),
            normal(rng, o),
        )

    return inputs


cases.right("conv2d", *make_conv(), image())
cases.wrong(
    "conv-kernel-not-rotated",
    "x",
    "flipped",
    "dx correlates with the kernel unturned",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 5, flip=False)},
)
cases.wrong(
    "conv-kernel-grad-flipped",
    "w",
    "flipped",
    "dw is mirrored in space",
    edit={1: lambda d, res, dy: jnp.flip(d, (0, 1))},
)
cases.wrong(
    "conv-kernel-grad-half-flipped",
    "w",
    "flipped",
    "dw is mirrored along one axis",
    edit={1: lambda d, res, dy: jnp.flip(d, 0)},
)
cases.wrong(
    "conv-kernel-grad-turned",
    "w",
    "transposed",
    "dw has height and width exchanged",
    edit={1: lambda d, res, dy: jnp.swapaxes(d, 0, 1)},
)
cases.wrong(
    "conv-input-shifted",
    "x",
    "shifted",
    "padding off by one in dx",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 5, shift=1)},
)
cases.wrong(
    "conv-kernel-grad-shifted",
    "w",
    "shifted",
    "padding off by one in dw",
    edit={1: lambda d, res, dy: kernel_grad(res[0], dy, 3, shift=1)},
)
cases.wrong(
    "conv-bias-averaged",
    "b",
    "averaged",
    "the bias averages over examples and pixels",
    edit={2: lambda d, res, dy: dy.mean((0, 1, 2))},
)
cases.wrong(
    "conv-bias-pixels-averaged",
    "b",
    "averaged",
    "the bias averages over pixels",
    edit={2: lambda d, res, dy: dy.mean((1, 2)).sum(0)},
)
cases.wrong(
    "conv-bias-one-axis",
    "b",
    ("not-reduced", "shape"),
    "the bias is not summed over width",
    edit={2: lambda d, res, dy: dy.sum((0, 1))},
    shows="structure",
)
cases.wrong(
    "conv-bias-one-column",
    "b",
    ("not-reduced", "overwritten", "one-example"),
    "the bias is summed over examples and height, at the first column",
    edit={2: lambda d, res, dy: dy.sum((0, 1))[0]},
)
cases.wrong(
    "conv-kernel-first-example",
    "w",
    "one-example",
    "dw sees the first example only",
    edit={1: lambda d, res, dy: kernel_grad(res[0][:1], dy[:1], 3)},
)
cases.wrong(
    "conv-kernel-averaged",
    "w",
    ("averaged", "scale"),
    "dw is a mean over examples",
    edit={1: lambda d, res, dy: d / dy.shape[0]},
)
cases.wrong(
    "conv-border-of-input",
    "x",
    "border",
    "dx is zero on the border (VALID for SAME)",
    edit={0: lambda d, res, dy: jnp.pad(d[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1), (0, 0)))},
)
cases.wrong(
    "conv-one-border-pixel",
    "x",
    ("local", "border"),
    "one corner pixel is left at zero",
    edit={0: lambda d, res, dy: d.at[0, 0, 0, 0].set(0)},
)
cases.wrong(
    "conv-edge-column",
    "x",
    ("border", "local"),
    "the last column is doubled",
    edit={0: lambda d, res, dy: d.at[:, :, -1].multiply(2)},
)
cases.wrong(
    "conv-centre-tap",
    "w",
    "local",
    "the centre tap is skipped",
    edit={1: lambda d, res, dy: d.at[1, 1].set(0)},
)
cases.wrong(
    "conv-two-channels-lost",
    "x",
    "local",
    "the second input channel gets nothing",
    edit={0: lambda d, res, dy: d.at[..., 1].set(0)},
)

cases.right(
    "conv2d-square-channels",
    *make_conv(),
    image(c=3, o=3),
    "as many channels in as out, so that shapes cannot tell",
)
cases.wrong(
    "conv-channels-unswapped",
    "x",
    "transposed",
    "the kernel's channels are not exchanged",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 5, swap=False)},
)
cases.wrong(
    "conv-kernel-grad-channels",
    "w",
    "transposed",
    "dw has channels in and out exchanged",
    edit={1: lambda d, res, dy: jnp.swapaxes(d, 2, 3)},
)
cases.wrong(
    "conv-neither-turned-nor-swapped",
    "x",
    ("flipped", "transposed"),
    "dx is the forward convolution of dy",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 5, flip=False, swap=False)},
)

cases.right("conv2d-strided", *make_conv(stride=2), image(size=7), "a stride leaves gaps in dx")
cases.wrong(
    "conv-stride-forgotten",
    "x",
    ("shifted", "missing-term"),
    "dy is not spread by the stride",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 7)},
)
cases.wrong(
    "conv-stride-shifted",
    "x",
    "shifted",
    "dy is spread, one pixel too far",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 7, stride=2, shift=1)},
)
cases.wrong(
    "conv-stride-forgotten-in-kernel",
    "w",
    ("shifted", "missing-term"),
    "x is read at every pixel instead of every second",
    edit={1: lambda d, res, dy: kernel_grad(res[0], dy, 3)},
)
cases.wrong(
    "conv-strided-flip",
    "x",
    "flipped",
    "the kernel unturned, with stride",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 7, stride=2, flip=False)},
)

cases.right("conv2d-dilated", *make_conv(dilation=2, padding=2), image(size=6))
cases.wrong(
    "conv-dilation-forgotten",
    "x",
    ("shifted", "missing-term"),
    "the kernel is not dilated in dx",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 6)},
)
cases.wrong(
    "conv-dilation-flip",
    "x",
    "flipped",
    "the kernel unturned, with dilation",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 6, dilation=2, padding=2, flip=False)},
)

cases.right("conv1d", *make_conv(), image(size=8, rank=1))
cases.wrong(
    "conv1d-kernel-not-rotated",
    "x",
    "flipped",
    "dx correlates with the kernel unturned",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 8, flip=False)},
)
cases.wrong(
    "conv1d-time-reversed",
    "x",
    "flipped",
    "dx runs backwards in time",
    edit={0: lambda d, res, dy: d[:, ::-1]},
)
cases.wrong(
    "conv1d-lag",
    "x",
    "shifted",
    "dx comes one step late",
    edit={0: lambda d, res, dy: jnp.roll(d, 1, 1)},
)

cases.right("conv3d", *make_conv(), image(n=1, size=3, c=1, o=2, rank=3))
cases.wrong(
    "conv3d-depth-not-flipped",
    "w",
    "flipped",
    "dw is mirrored in depth",
    edit={1: lambda d, res, dy: jnp.flip(d, 0)},
)
cases.wrong(
    "conv3d-axes-cycled",
    "w",
    "transposed",
    "dw's three axes are cycled",
    edit={1: lambda d, res, dy: jnp.transpose(d, (1, 2, 0, 3, 4))},
)


def depthwise(x, w):
    return correlate(x, w, groups=x.shape[-1])


def depthwise_bwd(residuals, dy):
    x, w = residuals
    one = [kernel_grad(x[..., i : i + 1], dy[..., i : i + 1], 3) for i in range(x.shape[-1])]
    return (correlate(dy, jnp.flip(w, (0, 1)), groups=x.shape[-1]), jnp.concatenate(one, -1))


cases.right(
    "conv2d-depthwise",
    depthwise,
    lambda x, w: (depthwise(x, w), (x, w)),
    depthwise_bwd,
    lambda rng: (normal(rng, 2, 4, 4, 3), normal(rng, 3, 3, 1, 3)),
)
cases.wrong(
    "depthwise-not-rotated",
    "x",
    "flipped",
    "every channel's kernel unturned",
    edit={0: lambda d, res, dy: correlate(dy, res[1], groups=3)},
)
cases.wrong(
    "depthwise-channels-mixed",
    "w",
    ("shifted", "transposed"),
    "each channel's kernel gradient goes to the next channel",
    edit={1: lambda d, res, dy: jnp.roll(d, 1, -1)},
)
cases.wrong(
    "depthwise-summed",
    "w",
    ("missing-term", "averaged"),
    "every channel gets the sum over channels",
    edit={1: lambda d, res, dy: jnp.broadcast_to(d.sum(-1, keepdims=True), d.shape)},
)


def grouped(x, w):
    return correlate(x, w, groups=2)


def grouped_bwd(residuals, dy):
    x, w = residuals
    halves = zip(jnp.split(x, 2, -1), jnp.split(w, 2, -1), jnp.split(dy, 2, -1), strict=True)
    parts = [(input_grad(dyg, wg, 4), kernel_grad(xg, dyg, 3)) for xg, wg, dyg in halves]
    return tuple(jnp.concatenate(part, -1) for part in zip(*parts, strict=True))


def interleaved(d):
    """Channels counted [within group, group] where [group, within group] was meant."""
    return jnp.swapaxes(d.reshape(*d.shape[:-1], 2, -1), -1, -2).reshape(d.shape)


cases.right(
    "conv2d-grouped",
    grouped,
    lambda x, w: (grouped(x, w), (x, w)),
    grouped_bwd,
    lambda rng: (normal(rng, 1, 4, 4, 4), normal(rng, 3, 3, 2, 4)),
)
cases.wrong(
    "groups-interleaved",
    "x",
    "transposed",
    "dx counts channels before groups",
    edit={0: lambda d, res, dy: interleaved(d)},
)
cases.wrong(
    "groups-exchanged",
    "w",
    ("shifted", "transposed", "flipped"),
    "the two groups' kernel gradients are exchanged",
    edit={1: lambda d, res, dy: jnp.roll(d, 2, -1)},
)
cases.wrong(
    "groups-first-only",
    "x",
    ("local", "one-example"),
    "only the first group gets dx",
    edit={0: lambda d, res, dy: d.at[..., 2:].set(0)},
)


def conv_transpose(x, w):
    return input_grad(x, w, 2 * x.shape[1] - 1, stride=2)


cases.right(
    "conv2d-transposed",
    conv_transpose,
    lambda x, w: (conv_transpose(x, w), (x, w)),
    lambda res, dy: (correlate(dy, res[1], stride=2), kernel_grad(dy, res[0], 3, stride=2)),
    lambda rng: (normal(rng, 1, 3, 3, 2), normal(rng, 3, 3, 3, 2)),
)
cases.wrong(
    "transposed-conv-flipped",
    "x",
    "flipped",
    "dx turns the kernel once too often",
    edit={0: lambda d, res, dy: correlate(dy, jnp.flip(res[1], (0, 1)), stride=2)},
)
cases.wrong(
    "transposed-conv-kernel-mirrored",
    "w",
    "flipped",
    "dw is mirrored",
    edit={1: lambda d, res, dy: jnp.flip(d, (0, 1))},
)


def columns(x):
    """The nine taps under each pixel of a padded image, [N, H, W, 9, C]."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    return jnp.stack([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], 3)


def by_columns(x, w):
    return jnp.einsum("nijkc,kco->nijo", columns(x), w.reshape(9, *w.shape[2:]))


def fold(dcols, shape, put):
    """Columns back to pixels; `put` is how a tap's share enters the image."""
    dx = jnp.zeros((shape[0], shape[1] + 2, shape[2] + 2, shape[3]), dcols.dtype)
    for tap in range(9):
        i, j = divmod(tap, 3)
        dx = put(dx.at[:, i : i + shape[1], j : j + shape[2]], dcols[..., tap, :])
    return dx[:, 1:-1, 1:-1]


def by_columns_bwd(residuals, dy, put=lambda at, share: at.add(share)):
    x, w = residuals
    dcols = jnp.einsum("nijo,kco->nijkc", dy, w.reshape(9, *w.shape[2:]))
    dw = jnp.einsum("nijkc,nijo->kco", columns(x), dy).reshape(w.shape)
    return fold(dcols, x.shape, put), dw


cases.right(
    "conv2d-by-columns",
    by_columns,
    lambda x, w: (by_columns(x, w), (x, w)),
    by_columns_bwd,
    lambda rng: (normal(rng, 2, 4, 4, 2), normal(rng, 3, 3, 2, 3)),
    "im2col: another order of the same sums",
)
cases.wrong(
    "columns-overwritten",
    "x",
    "overwritten",
    "col2im assigns where it must add",
    bwd=lambda res, dy: by_columns_bwd(res, dy, lambda at, share: at.set(share)),
)
cases.wrong(
    "columns-averaged",
    "x",
    ("averaged", "scale"),
    "col2im averages the nine taps",
    edit={0: lambda d, res, dy: d / 9},
)
cases.wrong(
    "columns-one-tap-lost",
    "x",
    "missing-term",
    "the loop over taps ends one too early",
    edit={
        0: lambda d, res, dy: (
            d
            - fold(
                jnp.einsum("nijo,kco->nijkc", dy, res[1].reshape(9, 2, 3)).at[..., :8, :].set(0),
                res[0].shape,
                lambda at, share: at.add(share),
            )
        )
    },
)


def reflected(x, w):
    return correlate(jnp.pad(x, ((0, 0), (1, 1), (0, 0)), mode="reflect"), w, padding=0)


def reflected_bwd(residuals, dy):
    x, w = residuals
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)), mode="reflect")
    full = input_grad(dy, w, padded.shape[1], padding=0)
    dx = full[:, 1:-1].at[:, 1].add(full[:, 0]).at[:, -2].add(full[:, -1])
    return dx, kernel_grad(padded, dy, w.shape[0], padding=0)


cases.right(
    "conv1d-reflected",
    reflected,
    lambda x, w: (reflected(x, w), (x, w)),
    reflected_bwd,
    lambda rng: (normal(rng, 2, 7, 2), normal(rng, 3, 2, 2)),
    "what falls into the padding returns into the image",
)
cases.wrong(
    "reflect-padding-dropped",
    "x",
    ("border", "missing-term", "local"),
    "what falls into the padding is dropped",
    edit={0: lambda d, res, dy: input_grad(dy, res[1], 9, padding=0)[:, 1:-1]},
)
cases.wrong(
    "reflect-as-edge",
    "x",
    ("border", "shifted", "local"),
    "reflection folded back as if the edge were repeated",
    edit={
        0: lambda d, res, dy: (
            lambda full: full[:, 1:-1].at[:, 0].add(full[:, 0]).at[:, -1].add(full[:, -1])
        )(input_grad(dy, res[1], 9, padding=0))
    },
)
cases.wrong(
    "reflect-kernel-from-zeros",
    "w",
    ("border", "missing-term"),
    "dw reads zeros where the image was reflected",
    edit={1: lambda d, res, dy: kernel_grad(res[0], dy, 3)},
)
