"""The mistakes in which a known value stands where another belongs: x for y, sin for cos.

Each function takes the evidence for one leaf and yields explanations. What is known are the
arguments, what the function computes on its way, and the usual functions of these.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.diagnose.mistakes.answers import (
    entry_by_entry,
    explained_early,
    jacobian_point,
    jacobians,
    rearrangements,
)

MOST_VALUES = 60
MOST_PAIRED = 90
FIT = 1e-6


def taken_elsewhere(e: Evidence) -> Iterator[Diagnosis]:
    """The derivative taken at a value that the function computes, not at the argument."""
    known = {x.tobytes(): e.values(x) for x in e.points}
    here = known[e.points[0].tobytes()]
    tried = 0
    for leaf, (number, (name, value)) in itertools.product(e.leaves, enumerate(here)):
        if value.size != leaf.size or leaf.size < 2 or tried >= MOST_VALUES:
            continue
        if np.array_equal(value.reshape(-1), e.points[0][leaf.part]):
            continue
        tried += 1

        def change(x, c, leaf=leaf, number=number):  # type: ignore[no-untyped-def]
            changed = x.copy()
            changed[leaf.part] = known[x.tobytes()][number][1].reshape(-1)
            return changed, c

        yield Diagnosis(
            "missing-term",
            f"the cotangent is right with {name} in the place of `{leaf.name}`: a residual is "
            "taken for another",
            explained_early(e, change),
        )


def value_displaced(e: Evidence) -> Iterator[Diagnosis]:
    """Each entry multiplied with another entry of a value than its own."""
    same = np.all(e.points == e.points[0], axis=1)
    got, truth = e.got[same], e.truth[same]
    if e.leaf.size < 3 or not truth.any():
        return
    top = float(np.abs(got).max() + np.abs(truth).max())
    for name, value in _bases(e, e.points[0]):
        if value.size != e.leaf.size or np.ptp(value) == 0:
            continue
        v = value.reshape(1, *e.leaf.shape)
        for word, sentence, moved in rearrangements(v, e.leaf.shape):
            if np.array_equal(moved, v):
                continue
            for mine, theirs in ((v, moved), (moved, v)):  # got / truth is theirs / mine
                a, b = got * mine, truth * theirs
                if 2 * np.count_nonzero(a) < np.count_nonzero(got):
                    continue  # zero for zero says nothing
                # Each by its own size: a mask's -1e30 among them makes no other one equal.
                if np.all(np.abs(a - b) <= 1e-7 * top * (np.abs(mine) + np.abs(theirs))):
                    yield Diagnosis(
                        word, f"{name} enters {sentence}, or from one step to the next", 1.0
                    )
                    return


def another_value(e: Evidence) -> Iterator[Diagnosis]:
    """Entry by entry, a factor or summand that is known, and not the right one."""
    found = jacobians(e)
    if found is None:
        return
    _, got, truth, tolerance = found
    linked = (np.abs(truth) > tolerance) | (np.abs(got) > tolerance)
    if e.leaf.size >= 4 and entry_by_entry(e):
        mine, theirs, shape = got.sum(axis=0), truth.sum(axis=0), e.leaf.shape
    elif len(e.outputs) == 1 and len(got) >= 4 and linked.sum(axis=1).max() <= 1:
        mine, theirs, shape = got.sum(axis=1), truth.sum(axis=1), e.outputs[0]
    else:
        return
    candidates = _candidates(e, shape)
    if e.given is not None and not np.array_equal(e.given, jacobian_point(e)):
        for leaf in e.leaves:
            if leaf.shape == shape and _multiple(mine, e.given[leaf.part]):
                yield Diagnosis(
                    "nondeterministic",
                    f"`{leaf.name}` of the first call stands where that of this call belongs: "
                    "something is kept between calls",
                    1.0,
                )
                return
    for name, value in candidates:
        factor = _multiple(mine, value)
        if factor:
            yield Diagnosis(
                "missing-term",
                f"each entry of the incoming cotangent is multiplied by {_times(factor, name)}, "
                "which is not what it must be multiplied by",
                1.0,
            )
            return
    with np.errstate(all="ignore"):
        ratio = np.where((theirs != 0) | (mine != 0), mine / theirs, np.nan)
    if np.isfinite(ratio).sum() >= 4 and np.all(np.isfinite(ratio) | np.isnan(ratio)):
        for name, value in candidates:
            factor = _multiple(ratio, value)
            if factor:
                what = f"each contribution is the truth times {_times(factor, name)}"
                yield Diagnosis("missing-term", what, 1.0)
                return
    for name, value in candidates:
        factor = _multiple(mine - theirs, value)
        if factor:
            what = f"the truth plus {_times(factor, name)} stands where the truth belongs"
            yield Diagnosis("missing-term", what, 1.0)
            return
    for (name, value), (other, subtracted) in itertools.combinations(candidates[:MOST_PAIRED], 2):
        factor = _multiple(mine - theirs, value - subtracted)
        if factor:
            first, second = (name, other) if factor > 0 else (other, name)
            yield Diagnosis("missing-term", f"{first} stands where {second} belongs", 1.0)
            return


def _times(factor: float, name: str) -> str:
    return name if naming.close(factor, 1.0) else f"{naming.spelled(factor)} times {name}"


def _multiple(wanted: np.ndarray, value: np.ndarray) -> float:
    """The number that makes `value` what is wanted; 0: there is none."""
    used = np.isfinite(wanted)
    a, v = wanted[used], value[used]
    if not np.all(np.isfinite(v)):
        return 0.0
    size = float(np.abs(a).max(initial=0.0))
    norm = float(np.dot(v, v))
    if not size or not norm or np.ptp(v) <= 1e-9 * float(np.abs(v).max()):
        return 0.0
    if np.count_nonzero(v) < 4:
        return 0.0
    factor = float(np.dot(a, v)) / norm
    return factor if np.all(np.abs(a - factor * v) <= FIT * size) else 0.0


def _bases(e: Evidence, x: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The arguments and what is computed on the way, at `x`."""
    found = [(f"`{leaf.name}`", x[leaf.part].reshape(leaf.shape)) for leaf in e.leaves]
    found += [(f"`{integers.name}`", integers.value.astype(float)) for integers in e.integers]
    found += e.values(x)
    distinct: list[tuple[str, np.ndarray]] = []
    seen = set()
    for name, value in found:
        key = (value.shape, np.round(value, 12).tobytes())
        if value.size and key not in seen and np.all(np.isfinite(value)):
            seen.add(key)
            distinct.append((name, value))
    return distinct[:MOST_VALUES]


def _candidates(e: Evidence, shape: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """The usual functions of every value that has, or can be spread to, this shape."""
    values: list[tuple[str, np.ndarray]] = []
    for name, value in _bases(e, jacobian_point(e)):
        spread = _spread(value, shape)
        if spread is not None:
            values.append((name, spread))
    made = list(values)
    with np.errstate(all="ignore"):
        for name, v in values:
            made.append((f"σ({name})", 1 / (1 + np.exp(-v))))
            if v.ndim:
                p = np.exp(v - v.max(axis=-1, keepdims=True))
                made.append((f"softmax({name})", p / p.sum(axis=-1, keepdims=True)))
        for name, v in values:
            s = 1 / (1 + np.exp(-v))
            made += [
                (f"{name}²", v * v), (f"{name}³", v**3), (f"1 / {name}", 1 / v),
                (f"1 / {name}²", 1 / (v * v)), (f"√{name}", np.sqrt(v)),
                (f"1 / √{name}", 1 / np.sqrt(v)), (f"1 - {name}", 1 - v), (f"1 + {name}", 1 + v),
                (f"{name}(1 - {name})", v * (1 - v)), (f"1 - {name}²", 1 - v * v),
                (f"1 / (1 + {name}²)", 1 / (1 + v * v)), (f"exp {name}", np.exp(v)),
                (f"exp(-{name})", np.exp(-v)), (f"log {name}", np.log(v)),
                (f"sin {name}", np.sin(v)), (f"cos {name}", np.cos(v)),
                (f"tanh {name}", np.tanh(v)), (f"1 - tanh² {name}", 1 - np.tanh(v) ** 2),
                (f"σ'({name})", s * (1 - s)), (f"σ(-{name})", 1 - s), (f"|{name}|", np.abs(v)),
                (f"sign {name}", np.sign(v)), (f"[{name} > 0]", 1.0 * (v > 0)),
            ]  # fmt: skip
    flat = [(name, np.asarray(v, float).reshape(-1)) for name, v in made]
    return [(name, v) for name, v in flat if np.all(np.isfinite(v))]


def _spread(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    if value.size == int(np.prod(shape, dtype=int)):
        return value.reshape(shape)
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        if value.ndim < len(shape) and value.shape == shape[: value.ndim]:
            full = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
            return np.broadcast_to(full, shape)
        return None
