"""Other inputs like the given ones: away from ties and symmetries, but with their promises kept.

A rule may rely on what its argument is: a probability, a symmetric matrix, a sorted row. New data
keep every such property that the given data show.
"""

import numpy as np

from jaxbp.verify.subject import Subject, Vector, pack, unpack


def another_point(subject: Subject, rng: np.random.Generator, spread: float) -> Vector:
    """Move every leaf by about `spread` of its size."""
    x = subject.x
    return pack([_moved(unpack(x[leaf.part], leaf), rng, spread) for leaf in subject.leaves])


def with_zeros(subject: Subject, rng: np.random.Generator) -> Vector:
    """About a quarter of the entries zero, but those of matrices that would lose a promise."""
    keep = rng.random(subject.x.shape) > 0.25
    for leaf in subject.leaves:
        if is_positive_definite(unpack(subject.x[leaf.part], leaf)):
            keep[leaf.part] = True
    return subject.x * keep


def is_positive_definite(v: np.ndarray) -> bool:
    """Whether each of the matrices is symmetric, with positive eigenvalues alone."""
    if v.ndim < 2 or v.shape[-1] != v.shape[-2] or v.shape[-1] < 2 or not v.size:
        return False
    if v.dtype.kind == "c" or not np.all(np.isfinite(v)):
        return False
    return bool(np.array_equal(v, np.swapaxes(v, -1, -2)) and np.linalg.eigvalsh(v).min() > 0)


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


def _with_promises(v: np.ndarray, moved: np.ndarray) -> np.ndarray:
    for axis in reversed(range(v.ndim)):
        sums = v.sum(axis=axis)
        if v.shape[axis] > 1 and np.all(v >= 0) and np.allclose(sums, 1.0, rtol=1e-5):
            return moved / moved.sum(axis=axis, keepdims=True)
    if v.ndim and v.shape[-1] > 3 and np.all(np.diff(v, axis=-1) > 0):
        return np.sort(moved, axis=-1)
    if v.ndim >= 2 and v.shape[-1] == v.shape[-2] and v.shape[-1] > 1:
        if np.array_equal(v, np.swapaxes(v, -1, -2)):
            if is_positive_definite(v):
                moved = _changed_both_ways(v, moved - v)
            moved = (moved + np.swapaxes(moved, -1, -2)) / 2.0
        for triangle in (np.tril, np.triu):
            if np.array_equal(v, triangle(v)):
                moved = triangle(moved)
    return moved


def _changed_both_ways(v: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(1 + E) v (1 + E)ᵀ for an E of the change's size: positive definite as v is."""
    size = np.sqrt(np.mean(v**2) * v.shape[-1])
    factor = np.eye(v.shape[-1]) + change / size
    return np.asarray(factor @ v @ np.swapaxes(factor, -1, -2))


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)
