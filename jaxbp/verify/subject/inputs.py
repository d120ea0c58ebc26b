"""Other inputs like the given ones: away from ties and symmetries, but with their promises kept.

A rule may rely on what its argument is: a probability, a symmetric matrix, a sorted row. New data
keep every such property that the given data show.
"""

import numpy as np

from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.vectors import Vector, pack, unpack


def another_point(subject: Subject, rng: np.random.Generator, spread: float) -> Vector:
    """Move every leaf by about `spread` of its size."""
    return pack([_moved(v, rng, spread) for v in _parts(subject)])


def with_zeros(subject: Subject, rng: np.random.Generator) -> Vector:
    """About a quarter of the entries zero, as far as what is promised allows."""
    return pack([_zeroed(v, rng) for v in _parts(subject)])


def enlarged(subject: Subject, factor: float) -> Vector:
    """Everything so many times as large, but for what sums to one."""
    return pack([v if _axis_of_ones(v) is not None else factor * v for v in _parts(subject)])


def is_positive_definite(v: np.ndarray) -> bool:
    """Whether each of the matrices is symmetric, with positive eigenvalues alone."""
    if not v.size or v.dtype.kind == "c" or not np.all(np.isfinite(v)):
        return False
    return _is_symmetric(v) and bool(np.linalg.eigvalsh(v).min() > 0)


def last_bits(v: Vector, rng: np.random.Generator, eps: float) -> Vector:
    """Change a vector by a few rounding errors of relative size `eps`."""
    return v * (1.0 + eps * rng.uniform(-1.0, 1.0, v.shape))


def cotangent(rng: np.random.Generator, size: int) -> Vector:
    """A dense random cotangent."""
    return rng.normal(size=size)


def one_hot(size: int, index: int) -> Vector:
    """The cotangent that picks one output."""
    c = np.zeros(size)
    c[index] = 1.0
    return c


def sample_rows(size: int, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` indices below `size`: all of them, or the ends and random ones between."""
    if size <= count:
        return list(range(size))
    inner = rng.choice(np.arange(1, size - 1), count - 2, replace=False)
    return [0, *sorted(int(i) for i in inner), size - 1]


def _parts(subject: Subject) -> list[np.ndarray]:
    """The leaves in double precision: real ones stay real beside complex ones."""
    x = subject.x
    parts = [unpack(x[leaf.part], leaf) for leaf in subject.leaves]
    return [
        v if leaf.dtype.kind == "c" else v.real
        for v, leaf in zip(parts, subject.leaves, strict=True)
    ]


def _moved(v: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    if not v.size or not np.all(np.isfinite(v)):
        return v
    noise = rng.normal(size=v.shape) if v.dtype.kind != "c" else _complex_normal(rng, v.shape)
    size = float(np.sqrt(np.mean(np.abs(v) ** 2))) or 1.0
    free = v * (1.0 + spread * rng.uniform(-1.0, 1.0, v.shape))
    if v.dtype.kind == "c":
        return free + spread * size * noise
    constant = np.ptp(v) == 0.0
    if constant:
        lift = np.abs(noise) if v.flat[0] > 0 else noise
        return free + spread * size * lift
    if np.all(v >= 0):
        moved = free + np.where(v == 0, 0.1 * spread * size * np.abs(noise), 0.0)
    else:
        moved = free + spread * size * noise * 0.5
    if np.all((v >= 0) & (v <= 1)):
        moved = np.clip(1.0 - np.abs(1.0 - np.abs(moved)), 0.0, 1.0)  # turned back at the ends
    return _with_promises(v, moved)


def _zeroed(v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    keep = rng.random(v.shape) > 0.25
    if not np.all(np.isfinite(v)) or is_positive_definite(v):
        return v
    if _is_symmetric(v):
        keep &= np.swapaxes(keep, -1, -2)
    if _order(v):  # only what is nearest to zero can be zero and stay in its place
        least = np.argmin(np.abs(v), axis=-1, keepdims=True)
        keep = np.arange(v.shape[-1]) != least
    zeroed = v * keep
    axis = _axis_of_ones(v)
    if axis is not None:
        sums = zeroed.sum(axis=axis, keepdims=True)
        zeroed = np.divide(zeroed, sums, out=v.copy(), where=sums > 0)
    return zeroed


def _with_promises(v: np.ndarray, moved: np.ndarray) -> np.ndarray:
    axis = _axis_of_ones(v)
    if axis is not None:
        return moved / moved.sum(axis=axis, keepdims=True)
    if v.ndim >= 2 and v.shape[-1] == v.shape[-2] > 1:
        if _is_symmetric(v):
            if is_positive_definite(v):
                moved = _changed_both_ways(v, moved - v)
            moved = (moved + np.swapaxes(moved, -1, -2)) / 2.0
        for triangle in (np.tril, np.triu):
            if np.array_equal(v, triangle(v)):
                moved = triangle(moved)
    order = _order(v)
    return order * np.sort(order * moved, axis=-1) if order else moved


def _axis_of_ones(v: np.ndarray) -> int | None:
    """The last axis along which everything is positive and sums to one."""
    if v.dtype.kind == "c":
        return None
    for axis in reversed(range(v.ndim)):
        if v.shape[axis] > 1 and np.all(v >= 0) and np.allclose(v.sum(axis=axis), 1.0, rtol=1e-5):
            return axis
    return None


def _order(v: np.ndarray) -> int:
    """1 where every row rises, -1 where every row falls, else 0.

    Even of two numbers alone: bounds and knots need it, and others lose nothing. The rows of a
    small matrix rise by chance.
    """
    enough = 2 if v.ndim == 1 else 4
    if v.dtype.kind == "c" or not v.ndim or not v.size or v.shape[-1] < enough:
        return 0
    if _is_symmetric(v):
        return 0
    steps = np.diff(v, axis=-1)
    return int(np.all(steps > 0)) - int(np.all(steps < 0))


def _is_symmetric(v: np.ndarray) -> bool:
    square = v.ndim >= 2 and v.shape[-1] == v.shape[-2] > 1
    return square and bool(np.array_equal(v, np.swapaxes(v, -1, -2)))


def _changed_both_ways(v: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(1 + E) v (1 + E)ᵀ for an E of the change's size: positive definite as v is."""
    size = np.sqrt(np.mean(v**2) * v.shape[-1])
    factor = np.eye(v.shape[-1]) + change / size
    return np.asarray(factor @ v @ np.swapaxes(factor, -1, -2))


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)
