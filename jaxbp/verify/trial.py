"""The three oracles at work on one subject: rule, reference, plain values, and where to ask.

Everything compiled is kept here, and a later check of the same function with arguments of the same
shapes finds it again: a loop over seeds compiles once.
"""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.finite_differences import FiniteDifferences
from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.diagnose.altered_backward import Backward
from jaxbp.verify.diagnose.altered_forward import Altered
from jaxbp.verify.diagnose.evidence import Integers
from jaxbp.verify.diagnose.gated import Parts
from jaxbp.verify.subject import inputs, programs
from jaxbp.verify.subject.forward_mode import by_columns
from jaxbp.verify.subject.subject import (
    Leaf,
    LeafFunction,
    Pullback,
    Subject,
    Vector,
    pack,
    vjp_of,
    x64_enabled,
)
from jaxbp.verify.subject.widened import widened

FULL_ROWS = 48
"""A Jacobian of at most so many rows is compared whole."""
SAMPLED_ROWS = 16

Asked = Callable[[LeafFunction], Callable[..., Any]]
Made = TypeVar("Made")


class Trial:
    """One rule, what it is compared with, and the points at which that is done."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        reference: Callable[..., Any] | None,
    ) -> None:
        self.subject = Subject(fn, args, kwargs)
        self.explicit = reference is not None
        self.rule_fn: LeafFunction = self.subject.function(fn)
        program = jax.make_jaxpr(self.rule_fn)(
            self.subject.cast(self.subject.x), self.subject.others
        )
        self.has_rule = programs.has_rule(program)
        self.plain_fn = programs.without_rules(self.rule_fn) if self.has_rule else self.rule_fn
        self.truth_fn = self.subject.function(reference) if reference is not None else self.plain_fn
        self.given = Pullback(self.subject, self.rule_fn)
        self._memo: dict[Any, Any] = {}
        self.notes: list[str] = []
        self.programs: list[Any] = []
        """The VJPs as they were traced …"""
        self.pullbacks: list[Pullback] = []
        """… and of what."""
        self.changed = False
        """Whether a check has decided something that the next one is to find out anew."""
        self._prepared = False

    def prepare(self) -> None:
        """Set up the oracles: from here on the rule has been traced, no longer only called."""
        if self._prepared:
            return
        self._prepared = True
        self.rule, self.eps_rule = self._wide(self.rule_fn, "the rule")
        if not self.rule.wide:
            self.given = self.rule
        # What transforms are tried on, whatever `_sharpen` does to the formulas.
        self.traced, self.eps_traced = self.rule, self.eps_rule
        self.truth, self.eps_truth = self._reversed(self.truth_fn, "the reference")
        self.truth_fn = self.truth.fn
        self.plain, self.eps_plain = (
            self._wide(self.plain_fn, "the function")
            if self.explicit
            else (self.truth, self.eps_truth)
        )
        self.eps_written = self.eps_plain
        self._sharpen()
        if self.truth.refused:
            self._ask_for_a_reference()

    def _ask_for_a_reference(self) -> None:
        try:
            self.truth(self.subject.x, np.ones(self.output_size))
        except Exception as error:  # anybody's code runs here
            whose = "reference" if self.explicit else "fn: the function inside its rule"
            raise ValueError(
                f"check_vjp: {whose} must have a derivative in JAX, or pass `reference=`, a "
                f"function of the same arguments that has one; {_first_line(error)}"
            ) from error

    def _reversed(self, fn: LeafFunction, who: str) -> tuple[Pullback, float]:
        """`fn` as `_wide` gives it; by forward mode where JAX has no reverse mode for it."""
        said = len(self.notes)
        pullback, eps = self._wide(fn, who)
        if not pullback.refused or not self.subject.is_real:
            return pullback, eps
        columns, eps_columns = self._wide(by_columns(fn), who)
        if columns.refused:
            return pullback, eps
        self.notes[said:] = [f"{who} has no reverse mode: its derivative is taken by forward mode"]
        return columns, eps_columns

    def _sharpen(self) -> None:
        """Take half precision out of rule, reference and function, where the function has it."""
        if not self.eps_plain > _eps(np.float32) or not (self.rule.wide and self.plain.wide):
            return
        fns = [widened(fn) for fn in (self.rule_fn, self.truth_fn, self.plain_fn)]
        wide = [Pullback(self.subject, fn, np.float64) for fn in fns]
        try:
            self.programs += [self._program(pullback) for pullback in wide]
        except Exception:  # a primitive that cannot be bound anew: then as it is written
            return
        self.pullbacks += wide
        self.rule, self.truth, self.plain = wide
        self.eps_rule = self.eps_truth = self.eps_plain = _eps(np.float64)
        self.notes = [note for note in self.notes if not note.endswith(_NARROW)]
        self.notes.append(
            "the function computes in half precision: its derivative is compared with every step "
            "of both in float64, what its rounding does is measured below"
        )

    def stop_compiling(self) -> None:
        """Call the rule plainly from here on: compiled, it is another one."""
        self.changed = True
        for pullback in (self.rule, self.traced, self.given):
            pullback.interpreted = True

    def stand_by_the_primal(self) -> None:
        """Compare with the plain function inside the rule after all."""
        self.changed = True
        self.truth_fn, self.truth, self.eps_truth = self.plain_fn, self.plain, self.eps_plain
        self._memo.clear()

    @property
    def eps(self) -> float:
        """The rounding unit that comparisons of rule and reference start from."""
        return max(self.eps_rule, self.eps_truth)

    @property
    def wide(self) -> bool:
        """Whether the rule itself runs in float64."""
        return self.rule.wide

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def _wide(self, fn: LeafFunction, who: str) -> tuple[Pullback, float]:
        """`fn` in float64 where it can be traced so, else as given; and its rounding unit."""
        for dtype in (np.float64, None):
            pullback = Pullback(self.subject, fn, dtype)
            try:
                program = self._program(pullback)
            except Exception as error:  # anybody's code runs here: whatever it raises is a no
                if dtype is None:
                    pullback.interpreted = True
                    pullback.refused = _first_line(error)
                    return pullback, max(_eps(v.dtype) for v in self.subject.leaves)
                self.notes.append(f"{who} cannot be traced in float64: {_first_line(error)}")
                continue
            self.programs.append(program)
            self.pullbacks.append(pullback)
            eps = programs.coarsest_eps(program, np.float64)
            if dtype is not None and eps > _eps(np.dtype(np.float64)):
                self.notes.append(f"{who} {_NARROW}")
            return pullback, eps
        raise AssertionError("unreachable: the loop returns on its last turn")

    def holds(self) -> bool:
        """Whether what was compiled can be used again: nothing has changed what is traced now.

        A rule may be given another bwd, or call a function that a notebook's cell has redefined.
        """
        if self.changed or not self._prepared or self.rule.refused or self.truth.refused:
            return False
        try:
            return all(
                programs.same(self._program(pullback), program)
                for pullback, program in zip(self.pullbacks, self.programs, strict=True)
            )
        except Exception:  # anybody's code runs here, and may have been broken since
            return False

    def _program(self, pullback: Pullback) -> Any:
        """A function's VJP, traced now."""
        with pullback.mode():
            leaves = self.subject.cast(self.subject.x, pullback.dtype)
            outputs = jax.eval_shape(pullback.fn, leaves, self.subject.others)
            return programs.trace(vjp_of(pullback.fn), leaves, self.subject.others, outputs)

    def parts(self) -> Parts | None:
        """The plain function's derivative taken apart; None where its program cannot be."""
        return self._taken_apart(Parts, lambda made, x, c: made.answer(x, c, made.whole()))

    def altered(self) -> Altered | None:
        """The plain function with any one step changed; None where its program cannot be run."""
        return self._taken_apart(Altered, lambda made, x, c: made.answer(x, c, -1))

    def backward(self) -> Backward | None:
        """The plain function's backward with any value replaced; None where it cannot be run."""
        return self._taken_apart(Backward, Backward.answer)

    def _taken_apart(
        self,
        kind: Callable[[Subject, LeafFunction, Pullback], Made],
        whole: Callable[[Made, Vector, Vector], Vector],
    ) -> Made | None:
        """The plain function as `kind` takes it apart; None where that does not give its VJP."""

        def make() -> Made | None:
            fn, pullback = (
                (self.plain_fn, self.plain) if self.has_rule else (self.truth_fn, self.truth)
            )
            x, c = self.subject.x, np.ones(self.output_size)
            try:
                made = kind(self.subject, fn, pullback)
                answer, truth = whole(made, x, c), pullback(x, c)
            except Exception:  # a primitive that cannot be bound anew: then without this
                return None
            return made if np.allclose(answer, truth, 1e-6, equal_nan=True) else None

        return self.remember(kind, make)

    def integers(self) -> list[Integers]:
        """The integer arguments, and the truth with each of them displaced."""
        names = [self.subject.argument_names[a] for a in self.subject.other_arguments]

        def displaced(number: int, by: int) -> Callable[[Vector, Vector], Vector]:
            def vjp(x: Vector, c: Vector) -> Vector:
                others = self.subject.others
                try:
                    self.subject.others = [*others]
                    self.subject.others[number] = others[number] + np.asarray(
                        by, others[number].dtype
                    )
                    return self.truth(x, c)
                finally:
                    self.subject.others = others

            return vjp

        return [
            Integers(names[k], np.asarray(v), functools.partial(displaced, k))
            for k, v in enumerate(self.subject.others)
            if jnp.issubdtype(v.dtype, jnp.signedinteger)  # unsigned ones are keys and masks
        ]

    def as_given(self, fn: LeafFunction) -> Pullback:
        """`fn` on the leaves as they were given."""
        return Pullback(self.subject, fn)

    def rounded(self, x: Vector) -> Vector:
        """The nearest point that the given dtypes can hold."""
        return pack(self.subject.cast(x))

    def cotangent(self, rng: np.random.Generator) -> Vector:
        """A dense random cotangent that the given dtypes can hold, complex where outputs are."""
        c = inputs.cotangent(rng, self.output_size)
        if any(out.dtype.kind == "c" for out in self.given.outputs()):
            c = c + 1j * inputs.cotangent(rng, self.output_size)
        return pack(self.given.cotangents(c))

    @property
    def output_leaves(self) -> list[Leaf]:
        """The parts of a vector of outputs, or of cotangents for them."""
        leaves, start = [], 0
        for out in self.given.outputs():
            stop = start + int(np.prod(out.shape, dtype=int))
            leaves.append(Leaf("", -1, out.shape, out.dtype, start, stop))
            start = stop
        return leaves

    @property
    def output_size(self) -> int:
        return sum(leaf.size for leaf in self.output_leaves)

    def output_index(self, place: int) -> tuple[int, ...]:
        """Where an entry of a vector of outputs stands in its array."""
        leaf = next(leaf for leaf in self.output_leaves if place < leaf.stop)
        return tuple(int(i) for i in np.unravel_index(place - leaf.start, leaf.shape))

    def other_points(self, rng: np.random.Generator) -> list[Vector]:
        """Points away from the given one, with a finite value and derivative."""
        points = []
        for spreads in ((0.7, 0.3, 0.1, 0.01), (0.02, 0.003)):
            for spread in spreads:
                x = self.rounded(inputs.another_point(self.subject, rng, spread))
                c = self.cotangent(rng)
                if np.all(np.isfinite(self.plain.value(x))) and np.all(
                    np.isfinite(self.truth(x, c))
                ):
                    points.append(x)
                    break
        return points

    def compare(self, x: Vector, c: Vector, rng: np.random.Generator, label: str) -> Sample:
        """Rule against reference."""
        return compare(self.rule, self.truth, x, c, self.subject.leaves, self.eps, rng, label)

    def excuse(
        self,
        sample: Sample,
        part: Leaf,
        rng: np.random.Generator,
        asked: Asked | None = None,
        *along: Vector,
        sides: tuple[Pullback, ...] = (),
    ) -> rounding.Excuse | None:
        """How rounding explains that two answers differ.

        `asked(fn)` is the function of (leaves, others, cotangents, *along) that gave them, the VJP
        if None, on each of the `sides`. What is large beside the outputs, where the slope is nearly
        none as that of a saturated sigmoid, y(1 - y), is no rounding.
        """
        value, leaves = self.plain.value, self.subject.leaves
        if rounding.unfelt(value, sample, part, leaves, along, self.eps_plain, rng):
            return "unfelt"
        with np.errstate(invalid="ignore", over="ignore"):
            outputs = np.nan_to_num(np.abs(sample.c * self.plain.value(sample.x)), posinf=0.0)
        largest = float(outputs.max(initial=0.0))
        for direction in along:
            largest *= float(np.abs(direction).max(initial=0.0))
        questions = []
        for pullback in sides or (self.rule, self.truth):
            if pullback.interpreted:
                return None
            with pullback.mode():
                vectors = [self.subject.cast(v, pullback.dtype) for v in (sample.x, *along)]
                cts = pullback.cotangents(sample.c)
            args = (vectors[0], self.subject.others, cts, *vectors[1:])
            questions.append(rounding.Question(pullback, (asked or _vjp)(pullback.fn), args))
        # In float64 a user means the digits that float32 does not have.
        narrow = all(_eps(leaf.dtype) > _eps(np.float64) for leaf in self.subject.leaves)
        return rounding.explains(sample, part, questions, largest, rng, narrow)

    def rows(self, rng: np.random.Generator) -> list[int]:
        """Which rows of the Jacobian are compared on their own."""
        size = self.output_size
        return inputs.sample_rows(size, FULL_ROWS if size <= FULL_ROWS else SAMPLED_ROWS, rng)

    def differences(self, x: Vector, rng: np.random.Generator) -> FiniteDifferences:
        """Finite differences of the plain function at `x`."""
        return FiniteDifferences(self.plain.value, x, self.subject.leaves, self.eps_plain, rng)


_NARROW = "does not compute in float64 throughout"


def _vjp(fn: LeafFunction) -> Callable[..., Any]:
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[1]


def _eps(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


_TRIALS: "collections.OrderedDict[Any, Trial]" = collections.OrderedDict()
_KEPT = 24


def trial_of(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    reference: Callable[..., Any] | None,
) -> Trial:
    """A trial, with what an earlier one of the same function and shapes has compiled."""
    subject = Subject(fn, args, kwargs)
    key: Any = None
    shapes = subject.cache_key()
    if shapes is not None:
        key = (fn, reference, shapes, x64_enabled())
        try:
            known = _TRIALS.get(key)
        except TypeError:  # fn itself cannot be hashed
            key, known = None, None
        if known is not None:
            _TRIALS.move_to_end(key)
            known.subject.values, known.subject.others = subject.values, subject.others
            if known.holds():
                return known
    trial = Trial(fn, args, kwargs, reference)
    if key is not None:
        _TRIALS[key] = trial
        while len(_TRIALS) > _KEPT:
            _TRIALS.popitem(last=False)
    return trial
