"""What a number looks like: the batch, a window's size, one over them, two."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]


class Count(NamedTuple):
    """A number of things that could be summed or averaged over."""

    size: int
    what: str


def counts(inputs: Sequence[tuple[str, Shape]], outputs: Sequence[Shape]) -> Iterator[Count]:
    """Numbers of things that could be summed or averaged over, the most likely first."""
    for shape in outputs:
        yield from _products("the output", shape)
    for name, shape in inputs:
        yield from _products(f"`{name}`", shape)
    for (name, shape), out in itertools.product(inputs, outputs):
        inside, outside = math.prod(shape), math.prod(out)
        if outside and inside % outside == 0 and inside > outside:
            yield Count(inside // outside, f"the entries of `{name}` for each output entry")
        if inside and outside % inside == 0 and outside > inside:
            yield Count(outside // inside, f"the output entries for each entry of `{name}`")


def _products(whose: str, shape: Shape) -> Iterator[Count]:
    axes = range(len(shape))
    for length in range(1, len(shape) + 1):
        for chosen in itertools.combinations(axes, length):
            size = math.prod(shape[a] for a in chosen)
            if size > 1:
                what = "axis" if length == 1 else "axes"
                yield Count(size, f"the size of {whose}'s {what} {', '.join(map(str, chosen))}")


def close(a: float, b: float) -> bool:
    """Whether two factors are one, as a measured gradient can tell."""
    return math.isclose(a, b, rel_tol=1e-6)


def count_like(factor: float, sizes: Iterable[Count]) -> Count | None:
    """The count that `factor` equals, if any."""
    return next((count for count in sizes if close(factor, count.size)), None)


def spelled(factor: float) -> str:
    """A factor as people write it: 1/9 rather than 0.1111."""
    if factor == 0 or not math.isfinite(factor):
        return f"{factor:g}"
    # One that is nearly 1 by as many digits as tell it from 1.
    if factor != 1 and math.isclose(factor, 1, rel_tol=1e-5):
        return f"1 {'+' if factor > 1 else '-'} {abs(factor - 1):.3g}"
    for denominator in range(1, 1025):
        numerator = factor * denominator
        if abs(numerator) < 1025 and math.isclose(numerator, round(numerator), rel_tol=1e-9):
            top = round(numerator)
            return f"{top}" if denominator == 1 else f"{top}/{denominator}"
    return f"{factor:.6g}"
