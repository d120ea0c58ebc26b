"""One rule, what it is compared with, and what is compiled of them.

A later check of the same function with arguments of the same shapes finds its trial again: a loop
over seeds compiles once.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.arbiter import Arbiter
from jaxbp.verify.compare.finite_differences import FiniteDifferences
from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.subject import inputs, programs
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.forward_mode import by_columns
from jaxbp.verify.subject.pullback import Pullback, vjp_of, x64_enabled
from jaxbp.verify.subject.raised import named
from jaxbp.verify.subject.vectors import (
    Leaf,
    LeafFunction,
    Vector,
    eps_of,
    laid_out,
    pack,
)
from jaxbp.verify.subject.widened import widened
from jaxbp.verify.subject.without_rules import without_rules

FULL_ROWS = 48
"""A Jacobian of at most so many rows is compared whole."""
SAMPLED_ROWS = 16
"""Of a larger one, so many rows."""
SPREADS = ((0.7, 0.3, 0.1, 0.01), (0.02, 0.003))
"""How far the other points are away: of each row the first that has a finite value and derivative.
The second keeps near what the given arguments may promise unseen."""

Asked = Callable[[LeafFunction], Callable[..., Any]]


class Note(NamedTuple):
    """What the reader of the report should know of rule or reference."""

    text: str
    narrow: bool = False
    """Whether it says that something does not compute in float64 throughout."""


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
        self.plain_fn = without_rules(self.rule_fn) if self.has_rule else self.rule_fn
        self.truth_fn = self.subject.function(reference) if reference is not None else self.plain_fn
        self.given = Pullback(self.subject, self.rule_fn)
        self._memo: dict[Any, Any] = {}
        self.notes: list[Note] = []
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
        self.rule = self._wide(self.rule_fn, "the rule")
        if not self.rule.wide:
            self.given = self.rule
        self.truth = self._reversed(self.truth_fn, "the reference")
        self.truth_fn = self.truth.fn
        self.plain = self._wide(self.plain_fn, "the function") if self.explicit else self.truth
        # What transforms and precision are tried on, whatever `_sharpen` does to the formulas.
        self.traced, self.written = self.rule, self.plain
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
                f"function of the same arguments that has one; {named(error)}"
            ) from error

    def _reversed(self, fn: LeafFunction, who: str) -> Pullback:
        """`fn` as `_wide` gives it; by forward mode where JAX has no reverse mode for it."""
        said = len(self.notes)
        pullback = self._wide(fn, who)
        if not pullback.refused or not self.subject.is_real:
            return pullback
        columns = self._wide(by_columns(fn), who)
        if columns.refused:
            return pullback
        why = f"{who} has no reverse mode: its derivative is taken by forward mode"
        self.notes[said:] = [Note(why)]
        return columns

    def _sharpen(self) -> None:
        """Take half precision out of rule, reference and function, where the function has it."""
        if not self.plain.eps > eps_of(np.float32) or not (self.rule.wide and self.plain.wide):
            return
        fns = [widened(fn) for fn in (self.rule_fn, self.truth_fn, self.plain_fn)]
        wide = [Pullback(self.subject, fn, np.float64) for fn in fns]
        try:
            self.programs += [self._program(pullback) for pullback in wide]
        except Exception:  # a primitive that cannot be bound anew: then as it is written
            return
        self.pullbacks += wide
        self.rule, self.truth, self.plain = wide
        self.notes = [note for note in self.notes if not note.narrow]
        self.notes.append(
            Note(
                "the function computes in half precision: its derivative is compared with every "
                "step of both in float64, what its rounding does is measured below"
            )
        )

    def stop_compiling(self) -> None:
        """Call the rule plainly from here on: compiled, it is another one."""
        self.changed = True
        for pullback in (self.rule, self.traced, self.given):
            pullback.interpreted = True

    def stand_by_the_primal(self) -> None:
        """Compare with the plain function inside the rule after all."""
        self.changed = True
        self.truth_fn, self.truth = self.plain_fn, self.plain
        self._memo.clear()

    @property
    def eps(self) -> float:
        """The rounding unit that comparisons of rule and reference start from."""
        return max(self.rule.eps, self.truth.eps)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave the first time."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def _wide(self, fn: LeafFunction, who: str) -> Pullback:
        """`fn` in float64 where it can be traced so, else as given."""
        for dtype in (np.float64, None):
            pullback = Pullback(self.subject, fn, dtype)
            try:
                program = self._program(pullback)
            except Exception as error:  # anybody's code runs here: whatever it raises is a no
                if dtype is None:
                    pullback.interpreted, pullback.refused = True, named(error)
                    pullback.eps = max(eps_of(leaf.dtype) for leaf in self.subject.leaves)
                    return pullback
                self.notes.append(Note(f"{who} cannot be traced in float64: {named(error)}"))
                continue
            self.programs.append(program)
            self.pullbacks.append(pullback)
            pullback.eps = programs.coarsest_eps(program)
            if dtype is not None and pullback.eps > eps_of(np.float64):
                self.notes.append(Note(f"{who} does not compute in float64 throughout", True))
            return pullback
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

    def truth_as_given(self) -> Pullback:
        """The reference on the leaves in the dtypes in which they were given."""
        return self.remember("truth as given", lambda: Pullback(self.subject, self.truth_fn))

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
        return laid_out(self.given.outputs())

    @property
    def output_size(self) -> int:
        """How many entries such a vector has."""
        return sum(leaf.size for leaf in self.output_leaves)

    def other_points(self, rng: np.random.Generator) -> list[Vector]:
        """Points away from the given one, with a finite value and derivative."""
        points = []
        for spreads in SPREADS:
            for spread in spreads:
                x = self.rounded(inputs.another_point(self.subject, rng, spread))
                c = self.cotangent(rng)
                if np.all(np.isfinite(self.plain.value(x))) and np.all(
                    np.isfinite(self.truth(x, c))
                ):
                    points.append(x)
                    break
        return points

    def compare(
        self, x: Vector, c: Vector, rng: np.random.Generator, label: str, away: bool = False
    ) -> Sample:
        """Rule against reference."""
        leaves, eps = self.subject.leaves, self.eps
        return compare(self.rule, self.truth, x, c, leaves, eps, rng, label, away)

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
        if rounding.unfelt(value, sample, part, leaves, along, self.plain.eps, rng):
            return rounding.Excuse.UNFELT
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
        narrow = all(eps_of(leaf.dtype) > eps_of(np.float64) for leaf in self.subject.leaves)
        return rounding.explains(sample, part, questions, largest, rng, narrow)

    def rows(self, rng: np.random.Generator) -> list[int]:
        """Which rows of the Jacobian are compared on their own."""
        size = self.output_size
        return inputs.sample_rows(size, FULL_ROWS if size <= FULL_ROWS else SAMPLED_ROWS, rng)

    def arbiter(self, rng: np.random.Generator) -> Arbiter:
        """Who is right where rule and reference disagree."""
        return Arbiter(lambda x: self.differences(x, rng))

    def differences(self, x: Vector, rng: np.random.Generator) -> FiniteDifferences:
        """Finite differences of the plain function at `x`."""
        return FiniteDifferences(self.plain.value, x, self.subject.leaves, self.plain.eps, rng)


def _vjp(fn: LeafFunction) -> Callable[..., Any]:
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[1]


_TRIALS: "collections.OrderedDict[Any, Trial]" = collections.OrderedDict()
_KEPT = 24
"""So many trials are kept: those of a module's cases, in a loop over seeds, say."""


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
