"""The mistakes in which a known value stands where another belongs: x for y, sin for cos.

Each function takes the evidence for one leaf and yields explanations. What is known are the
arguments, what the function computes on its way, and the usual functions of these.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.diagnosis import Diagnosis
from jaxbp.verify.diagnose.evidence import Change, Evidence, Known
from jaxbp.verify.diagnose.rearrangements import rearrangements
from jaxbp.verify.subject.vectors import Leaf, Vector

MOST_VALUES = 60
"""Of the values that a function computes the first so many are tried, as its simplest ones."""
MOST_PAIRED = 90
"""… and of the functions of them so many two at a time."""
FIT = 1e-6
"""Relative to the largest: as closely must a value fit in every entry."""
FEWEST = 4
"""Fewer entries than that fit by chance."""


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
        yield Diagnosis(
            "missing-term",
            f"the cotangent is right with {name} in the place of `{leaf.name}`: a residual is "
            "taken for another",
            e.explained_by(_put_in_place(leaf, known, number)),
        )


def _put_in_place(leaf: Leaf, known: dict[bytes, list[Known]], number: int) -> Change:
    """The change of a question that takes one known value for the argument."""

    def change(x: Vector, c: Vector) -> tuple[Vector, Vector]:
        changed = x.copy()
        changed[leaf.part] = known[x.tobytes()][number].value.reshape(-1)
        return changed, c

    return change


def value_displaced(e: Evidence) -> Iterator[Diagnosis]:
    """Each entry multiplied with another entry of a value than its own."""
    got, truth = e.got[e.at_first_point], e.truth[e.at_first_point]
    if e.leaf.size < 3 or not truth.any():
        return
    for name, value in _bases(e, e.points[0]):
        if value.size != e.leaf.size or np.ptp(value) == 0:
            continue
        v = value.reshape(1, *e.leaf.shape)
        for word, sentence, moved in rearrangements(v, e.leaf.shape):
            if np.array_equal(moved, v):
                continue
            # got / truth is moved / v, or the other way round.
            if _proportional(got, truth, v, moved) or _proportional(got, truth, moved, v):
                what = f"{name} enters {sentence}, or from one step to the next"
                yield Diagnosis(word, what, 1.0)
                return


def _proportional(got: np.ndarray, truth: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether got · mine = truth · theirs, in entries enough to say so."""
    a, b = got * mine, truth * theirs
    if 2 * np.count_nonzero(a) < np.count_nonzero(got):
        return False  # zero for zero says nothing
    # Each by its own size: a mask's -1e30 among them makes no other one equal.
    top = float(np.abs(got).max() + np.abs(truth).max())
    return bool(np.all(np.abs(a - b) <= 1e-7 * top * (np.abs(mine) + np.abs(theirs))))


def another_value(e: Evidence) -> Iterator[Diagnosis]:
    """Entry by entry, a factor or summand that is known, and not the right one."""
    j = e.differing_jacobian
    if j is None:
        return
    if e.leaf.size >= FEWEST and j.entry_by_entry:
        mine, theirs, shape = j.got.sum(axis=0), j.truth.sum(axis=0), e.leaf.shape
    elif (
        len(e.outputs) == 1 and len(j.got) >= FEWEST and (j.there | j.given).sum(axis=1).max() <= 1
    ):
        mine, theirs, shape = j.got.sum(axis=1), j.truth.sum(axis=1), e.outputs[0]
    else:
        return
    candidates = _candidates(e, j.point, shape)
    if e.given is not None and not np.array_equal(e.given, j.point):
        for leaf in e.leaves:
            if leaf.shape == shape and _multiple(mine, e.given[leaf.part]):
                yield Diagnosis(
                    "nondeterministic",
                    f"`{leaf.name}` of the first call stands where that of this call belongs: "
                    "something is kept between calls",
                    1.0,
                )
                return
    said = (
        _is_another_factor(mine, candidates)
        or _is_one_factor_more(mine, theirs, candidates)
        or _is_another_summand(mine, theirs, candidates)
    )
    if said:
        yield Diagnosis("missing-term", said, 1.0)


def _is_another_factor(mine: np.ndarray, candidates: list[Known]) -> str | None:
    for name, value in candidates:
        factor = _multiple(mine, value)
        if factor:
            return (
                f"each entry of the incoming cotangent is multiplied by {_times(factor, name)}, "
                "which is not what it must be multiplied by"
            )
    return None


def _is_one_factor_more(
    mine: np.ndarray, theirs: np.ndarray, candidates: list[Known]
) -> str | None:
    with np.errstate(all="ignore"):
        ratio = np.where((theirs != 0) | (mine != 0), mine / theirs, np.nan)
    if np.isfinite(ratio).sum() < FEWEST or np.isinf(ratio).any():
        return None
    for name, value in candidates:
        factor = _multiple(ratio, value)
        if factor:
            return f"each contribution is the truth times {_times(factor, name)}"
    return None


def _is_another_summand(
    mine: np.ndarray, theirs: np.ndarray, candidates: list[Known]
) -> str | None:
    for name, value in candidates:
        factor = _multiple(mine - theirs, value)
        if factor:
            return f"the truth plus {_times(factor, name)} stands where the truth belongs"
    for added, taken in itertools.combinations(candidates[:MOST_PAIRED], 2):
        factor = _multiple(mine - theirs, added.value - taken.value)
        if factor:
            first, second = (added, taken) if factor > 0 else (taken, added)
            return f"{first.name} stands where {second.name} belongs"
    return None


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
    if np.count_nonzero(v) < FEWEST:
        return 0.0
    factor = float(np.dot(a, v)) / norm
    return factor if np.all(np.abs(a - factor * v) <= FIT * size) else 0.0


def _bases(e: Evidence, x: Vector) -> list[Known]:
    """The distinct values among the arguments and what is computed on the way, at `x`."""
    leaves = len(e.leaves)
    found = e.known(x)
    # Integers stand between the arguments and what is made of them.
    found[leaves:leaves] = [Known(f"`{i.name}`", i.value.astype(float)) for i in e.integers]
    distinct: list[Known] = []
    seen = set()
    for name, value in found:
        key = (value.shape, np.round(value, 12).tobytes())
        if value.size and key not in seen and np.all(np.isfinite(value)):
            seen.add(key)
            distinct.append(Known(name, value))
    return distinct[:MOST_VALUES]


def _candidates(e: Evidence, x: Vector, shape: tuple[int, ...]) -> list[Known]:
    """The usual functions of every value that has, or can be spread to, this shape."""
    values: list[Known] = []
    for name, value in _bases(e, x):
        spread = _spread(value, shape)
        if spread is not None:
            values.append(Known(name, spread))
    with np.errstate(all="ignore"):
        made = [
            *values,
            *(one for name, v in values for one in _squashed(name, v)),
            *(one for name, v in values for one in _usual(name, v)),
        ]
    flat = [Known(name, np.asarray(v, float).reshape(-1)) for name, v in made]
    return [known for known in flat if np.all(np.isfinite(known.value))]


def _squashed(name: str, v: np.ndarray) -> Iterator[Known]:
    yield Known(f"σ({name})", 1 / (1 + np.exp(-v)))
    if v.ndim:
        p = np.exp(v - v.max(axis=-1, keepdims=True))
        yield Known(f"softmax({name})", p / p.sum(axis=-1, keepdims=True))


def _usual(name: str, v: np.ndarray) -> Iterator[Known]:
    s = 1 / (1 + np.exp(-v))
    for made in (
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
    ):  # fmt: skip
        yield Known(*made)


def _spread(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    if value.size == math.prod(shape):
        return value.reshape(shape)
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        if value.ndim < len(shape) and value.shape == shape[: value.ndim]:
            full = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
            return np.broadcast_to(full, shape)
        return None
