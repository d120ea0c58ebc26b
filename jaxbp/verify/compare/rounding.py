"""What rounding inside a function can do to its answer: Monte Carlo arithmetic on its program.

Each arithmetic step's result is changed in its last bits, as is each constant that is known to
float32's precision only; how far the answer moves is what rounding explains. Comparisons, and what
is rounded to integers, stay as they were. Source: Parker, Monte Carlo Arithmetic (1997).
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.subject import programs
from jaxbp.verify.subject.primitives import ROUNDED, TO_INTEGERS
from jaxbp.verify.subject.pullback import Pullback
from jaxbp.verify.subject.vectors import Leaf, Vector, pack

TRIALS = 8
"""So often is every step changed: more than in `sample`, as this is asked about few answers."""
SMALL = 1e-4
"""Relative to the largest entry; what is more is not put down to rounding."""
ROUNDINGS = 64.0
"""So many rounding units may a step be off: those of a library's approximation, or of a sum."""
CONSTANT = 4.0
"""A constant may be off by so many half units of float32, where rounding gives one: the largest
of few trials is at most that much smaller than the worst."""
EXACT_BITS = 12
"""A constant of so few significant bits, 0.5 or 3, is what was meant and no rounded number."""


class Excuse(enum.Enum):
    """How rounding explains that two answers differ."""

    STEPS = enum.auto()
    """By the rounding of each step."""
    CONSTANTS = enum.auto()
    """By that of constants known to float32 only, too."""
    UNFELT = enum.auto()
    """They are slopes that no value shows."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One function that gave one of the two answers of a sample, and what it was asked."""

    pullback: Pullback
    """In whose dtype."""
    fn: Callable[..., Any]
    args: tuple[Any, ...]


def explains(
    sample: Sample,
    part: Leaf,
    questions: list[Question],
    largest: float,
    rng: np.random.Generator,
    constants: bool,
) -> Excuse | None:
    """How rounding explains that two answers are apart, if it does.

    With `constants`, those known to float32 only may have moved as well.
    """
    error = np.abs(sample.got - sample.expected)[part.part]
    size = np.nan_to_num(np.abs(sample.expected[part.part]), posinf=0.0).max(initial=largest)
    if not error.max(initial=0.0) <= SMALL * size:
        return None
    for how in (Excuse.STEPS, Excuse.CONSTANTS) if constants else (Excuse.STEPS,):
        allowed = sample.tolerance[part.part].copy()
        for question in questions:
            with question.pullback.mode():
                far = moved(question.fn, question.args, rng, how is Excuse.CONSTANTS)[part.part]
            allowed += np.maximum(far, np.median(far))
        if not (error > allowed).any():
            return how
    return None


def unfelt(
    value: Callable[[Vector], Vector],
    sample: Sample,
    part: Leaf,
    leaves: Sequence[Leaf],
    along: Sequence[Vector],
    eps: float,
    rng: np.random.Generator,
) -> bool:
    """Whether two slopes differ by what no value shows, however far the argument is moved.

    So it is for the start of an iteration that has converged: its slope is 1e-62, or simply none.
    """
    x, here = sample.x, value(sample.x)
    # As far as anything here is large, lest a bias of 1e-20 beside ones be moved by no more.
    sizes = [np.abs(here).max(initial=0.0)]
    sizes += [np.abs(x[leaf.part]).max(initial=0.0) or 1.0 for leaf in leaves]
    reach = float(np.max(sizes))
    by_argument = part.argument >= 0
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(sample.c * here).max(initial=0.0)
        for direction in along:
            largest *= np.abs(direction).max(initial=0.0)
        # All entries together: each of a million of them may have little to say.
        off = np.abs(sample.got - sample.expected)[part.part].sum()
        if not off * reach ** (len(along) + by_argument) < eps * largest:
            return False
        moves = [reach * v for v in along]
        if by_argument:
            moves.append(np.zeros_like(x))
            moves[-1][part.part] = reach * rng.uniform(0.5, 1.0, part.size)
        room = ROUNDINGS * eps * np.abs(here)
        return any(
            bool(np.all(np.abs(value(x + way * move) - here) <= room))
            for move in moves
            for way in (1.0, -1.0)
        )


def nothing_felt(whose: str) -> str:
    """What a report says of a disagreement about slopes that no value shows."""
    return (
        f"{whose}: rule and reference differ by less than the values' own rounding, however far "
        "the argument is moved; errors smaller than that are not seen here"
    )


def narrow_constants(whose: str) -> str:
    """What a report says of a disagreement that float32 constants explain."""
    return (
        f"{whose}: rule and reference differ by no more than the rounding of constants that are "
        "float32 numbers, the given arguments' own precision; errors smaller than that are not "
        "seen here"
    )


def moved(
    fn: Callable[..., Any], args: tuple[Any, ...], rng: np.random.Generator, constants: bool
) -> Vector:
    """How far the answers of `fn` move; `constants`: those known to float32 move too."""
    program = jax.make_jaxpr(fn)(*args)
    furthest = np.zeros(0)
    for _ in range(TRIALS):
        clean, changed = _run(program, jax.tree.leaves(args), rng, constants)
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(np.abs(pack(changed) - pack(clean)), nan=0.0, posinf=0.0)
        furthest = np.maximum(furthest, apart) if furthest.size else apart
    return furthest


def _run(
    program: Any, args: list[Any], rng: np.random.Generator, constants: bool
) -> tuple[list[Any], list[Any]]:
    """The answers as they are, and as they are after the changes."""

    def apply(eqn: Any, operands: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        clean = programs.bind(eqn, eqn.params, [first for first, _ in operands])
        if all(first is second for first, second in operands):
            changed = clean
        else:
            changed = programs.bind(eqn, eqn.params, [second for _, second in operands])
        name = eqn.primitive.name
        pairs = []
        for was, now in zip(clean, changed, strict=True):
            if name in TO_INTEGERS or not jnp.issubdtype(was.dtype, jnp.inexact):
                now = was
            elif name in ROUNDED:
                factor = 1.0 + ROUNDINGS * jnp.finfo(was.dtype).eps * _noise(rng, was)
                now = now * jnp.asarray(factor, was.dtype)
            pairs.append((was, now))
        return pairs

    def constant(value: Any) -> tuple[Any, Any]:
        v = np.asarray(value)
        narrow = _narrow(v) if constants else np.zeros((), bool)
        if not narrow.any():
            return value, value
        size = CONSTANT * np.finfo(np.float32).eps / 2
        return value, np.where(narrow, v * (1.0 + size * np.sign(_noise(rng, v))), v)

    pairs = programs.walk(program, [(v, v) for v in args], apply, programs.inlined_wholly, constant)
    return [first for first, _ in pairs], [second for _, second in pairs]


def _noise(rng: np.random.Generator, like: Any) -> np.ndarray:
    return rng.uniform(-1.0, 1.0, np.shape(like))


def _narrow(value: np.ndarray) -> np.ndarray:
    """Which entries of a float64 constant are float32 numbers, and no short ones."""
    if value.dtype not in (np.float64, np.float32):
        return np.zeros(value.shape, bool)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = value.astype(np.float32) == value
        mantissa = np.frexp(value.astype(np.float64))[0] * 2.0**EXACT_BITS
    long = (mantissa != np.floor(mantissa)) & (value != np.floor(value))
    return rounded & long & np.isfinite(value)
