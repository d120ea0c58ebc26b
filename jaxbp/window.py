"""How a kernel slides over its input, and every shape that follows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxbp.arguments import (
    Shape,
    choice,
    describe,
    dimension,
    entries,
    ints,
    known,
    not_negative,
    not_too_large,
    reject,
)

Pairs = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """A sliding window over the spatial axes, all sizes static.

    In (3.5) to (3.7) `i` counts windows, `m` cells in a window, and the cell `m` of window `i` lies
    at the input's place `stride * i + dilation * m - low`.
    """

    size: Shape
    stride: Shape
    padding: Pairs  # (low, high) a spatial axis; a negative one crops
    dilation: Shape

    @property
    def cells(self) -> int:
        """|K|, the number of cells in the window."""
        return math.prod(self.size)

    @property
    def span(self) -> Shape:
        """How far the dilated window reaches, first cell to last, both counted."""
        return tuple(
            d * (k - 1) + 1 if k else 0 for k, d in zip(self.size, self.dilation, strict=True)
        )

    @property
    def low(self) -> Shape:
        """The padding before each spatial axis."""
        return tuple(low for low, _ in self.padding)

    @property
    def turned(self) -> Window:
        """The window of the convolution that is this one's input gradient, where no stride is.

        Its kernel is this one's, turned by 180° (3.7).
        """
        return self._replace(
            padding=tuple(
                (span - 1 - low, span - 1 - high)
                for span, (low, high) in zip(self.span, self.padding, strict=True)
            )
        )

    @property
    def pads(self) -> bool:
        """Whether a cell of a window may lie in the padding."""
        return not all(known(p) and p <= 0 for pair in self.padding for p in pair)

    def offsets(self) -> Iterator[Shape]:
        """Each cell's place from the window's first cell, dilated, in row-major order."""
        for cell in itertools.product(*map(range, self.size)):
            yield tuple(d * m for d, m in zip(self.dilation, cell, strict=True))

    def padded(self, spatial: Shape) -> Shape:
        """The spatial shape after padding (or cropping)."""
        return tuple(n + low + high for n, (low, high) in zip(spatial, self.padding, strict=True))

    def output(self, spatial: Shape) -> Shape:
        """The number of windows along each axis: whole windows only, remainders are dropped."""
        return tuple(
            not_negative((n - span) // s + 1)
            for n, span, s in zip(self.padded(spatial), self.span, self.stride, strict=True)
        )

    def reach(self, windows: Shape) -> Shape:
        """The padded places that so many windows touch: stride * (windows - 1) + span."""
        return tuple(
            s * (n - 1) + span if n else 0
            for n, s, span in zip(windows, self.stride, self.span, strict=True)
        )


def dilated(n: int, stride: int) -> int:
    """How far so many places reach that lie a stride apart, first to last, both counted."""
    return not_negative(stride * (n - 1) + 1)


def make_window(
    function: str,
    spatial: Shape,
    size: Shape,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    stride_name: str = "stride",
) -> Window:
    """Return the window that the user's options describe on an input of this spatial shape."""
    axes = len(spatial)
    stride = ints(function, stride_name, stride, axes)
    dilation = ints(function, "dilation", dilation, axes)
    window = Window(size, stride, ((0, 0),) * axes, dilation)
    window = window._replace(padding=_padding(function, padding, spatial, window))
    if any(known(n) and n < 0 for n in window.padded(spatial)):
        raise reject(
            function, "padding", f"a crop of at most the input's {spatial}", describe(padding)
        )
    return window


def make_pairs(function: str, padding: Any, axes: int) -> Pairs:
    """Return an int, or one (low, high) pair a spatial axis, as pairs."""
    expected = f"'SAME', 'VALID', an int or {axes} (low, high) pairs of ints (one a spatial axis)"
    try:
        pairs: tuple[tuple[int, ...], ...] = ((dimension(padding),) * 2,) * axes
    except TypeError:
        try:
            pairs = tuple(tuple(map(dimension, entries(pair))) for pair in entries(padding))
        except TypeError:
            raise reject(function, "padding", expected, describe(padding), TypeError) from None
    not_too_large(function, "padding", padding, itertools.chain(*pairs))
    if len(pairs) != axes or any(len(pair) != 2 for pair in pairs):
        raise reject(function, "padding", expected, describe(padding))
    return tuple((low, high) for low, high in pairs)


def _padding(function: str, padding: Any, spatial: Shape, window: Window) -> Pairs:
    if not isinstance(padding, str):
        return make_pairs(function, padding, len(spatial))
    if choice(function, "padding", padding, ("SAME", "VALID")) == "VALID":
        return ((0, 0),) * len(spatial)
    pairs = []
    for n, span, s in zip(spatial, window.span, window.stride, strict=True):
        total = not_negative((-(-n // s) - 1) * s + span - n)  # ceil(n / s) windows
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def make_transposed_window(
    function: str,
    spatial: Shape,
    size: Shape,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> tuple[Window, Shape]:
    """Return the window of the convolution that `conv_transpose` is the adjoint of, and its input.

    The user's pairs pad the input that stride has dilated, as lax reads them, so the convolution
    going the other way, from output to input, has the padding `span - 1 - pair`.
    """
    axes = len(spatial)
    stride = ints(function, "stride", stride, axes)
    dilation = ints(function, "dilation", dilation, axes)
    window = Window(size, stride, ((0, 0),) * axes, dilation)
    if isinstance(padding, str):
        choice(function, "padding", padding, ("SAME", "VALID"))
        pairs = tuple(
            _transposed_padding(span, s, padding)
            for span, s in zip(window.span, stride, strict=True)
        )
    else:
        pairs = make_pairs(function, padding, axes)
    padded = tuple(
        dilated(n, s) + low + high for n, s, (low, high) in zip(spatial, stride, pairs, strict=True)
    )
    if any(known(n) and n < 0 for n in padded):
        raise reject(
            function, "padding", f"a crop of at most the dilated {spatial}", describe(padding)
        )
    left = tuple(n - span + 1 for n, span in zip(padded, window.span, strict=True))
    # Where less than no place is left, the padding is that much less too, so that the convolution
    # has a window for each place of the input all the same.
    missing = tuple(min(n, 0) if known(n) else 0 for n in left)
    back = tuple(
        (span - 1 - low, span - 1 - high + less)
        for span, (low, high), less in zip(window.span, pairs, missing, strict=True)
    )
    return window._replace(padding=back), tuple(map(not_negative, left))


def _transposed_padding(span: int, stride: int, padding: str) -> tuple[int, int]:
    # "SAME" gives n * stride places, "VALID" every place that a window can reach.
    if padding == "SAME":
        total = span + stride - 2
        low = span - 1 if stride > span - 1 else -(-total // 2)
    else:
        total = span + stride - 2 + max(span - stride, 0)
        low = span - 1
    return low, total - low
