"""How many digits does the rule lose in every dtype, beside autodiff, against the float64 truth?

The truth is the rule's own formula in float64 at the rounded inputs, so that another convention at
a kink is no rounding error; autodiff is held to its own formula in the same way.
"""

from functools import partial
from operator import methodcaller
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Errors, Outcome, finding
from jaxbp.verify.compare.sample import spread
from jaxbp.verify.report import Finding, Precision
from jaxbp.verify.report.rows import PRECISIONS, precision_row
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.pullback import Pullback
from jaxbp.verify.subject.raised import named
from jaxbp.verify.subject.vectors import Leaf, Vector, eps_of, pack
from jaxbp.verify.trial import Trial

NAME = "precision"
*DTYPES, MIXED = PRECISIONS
FLOORS = {"float32": 4.0, "bfloat16": 1.0, "float16": 1.0}
"""Fewer units in the last place than this are nobody's fault. Half precision has none to lose: its
sums are to run in float32."""
WORST_RATIO = 8.0
"""A right rule may round another way than autodiff, but not lose so many times as much …"""
WORST_RATIO_IN_HALF = 2.5
"""… nor so many times in half precision, where that is what it was given."""
OF_CONDITION = 1 / 3
"""… if by this share of it the inputs' own rounding is not to blame."""
WRONG_IN_ONE_DTYPE = 0.05
"""More of its size than this is hardly rounding."""
QUESTIONS = 3
"""Of either sign; and as many of one sign, whose sums grow."""
MOVED = 3
"""So many times the inputs' last bits are changed."""
CANCELS = 0.1
"""What moves then by more than this share of its size may be zero but for rounding."""


def check(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """One row for each dtype, and the figures."""
    outcome = Outcome()
    if not trial.subject.is_real:
        outcome.row(NAME, None, "complex arguments")
        return outcome
    if not trial.rule.wide or not trial.truth.wide:
        why = "rule or reference does not run in float64: no truth to measure by"
        outcome.row(NAME, None, why)
        return outcome
    dtypes: list[str | None] = [*DTYPES]
    if len({str(leaf.dtype) for leaf in trial.subject.leaves}) > 1:
        dtypes.append(None)
    for dtype in dtypes:
        _in_dtype(trial, dtype, [points[-1], points[0]], rng, outcome)
    return outcome


def _in_dtype(
    trial: Trial,
    dtype: str | None,
    points: list[Vector],
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    """Every leaf in this dtype; None: each in its own."""
    name, eps = precision_row(dtype or MIXED), _finest_eps(trial, dtype)
    if trial.written.eps > eps:
        outcome.row(name, None, "the function itself computes in a narrower dtype")
        return
    if trial.truth.eps >= eps:
        outcome.row(name, None, "the reference computes in no wider dtype: no truth to measure by")
        return
    try:
        errors = _errors(trial, dtype, points, rng)
    except Exception as error:  # anybody's code runs here
        outcome.row(name, None, f"not run: {named(error)}")
        return
    figures, bad = [], []
    for leaf in trial.subject.leaves:
        found = errors[leaf.name]
        if not np.isfinite(found.theirs) or (dtype or str(leaf.dtype)) not in FLOORS:
            continue  # autodiff overflows as well, or a float64 argument beside narrower ones
        figures.append(_figure(leaf, dtype, found))
        wrong = _wrong(leaf, dtype, found)
        if wrong is not None:
            bad.append(wrong)
    if not figures:
        why = "autodiff itself overflows, or the truth is zero: no digits to lose"
        outcome.row(name, None, why)
        return
    worst = max(figures, key=lambda f: f.ratio)
    detail = f"{worst.error_ulps:.2g} ulps, autodiff {worst.autodiff_ulps:.2g}"
    outcome.row(name, not bad, f"{detail} (`{worst.argument}`)", bad)
    outcome.findings += bad
    outcome.precisions += figures


def _figure(leaf: Leaf, dtype: str | None, error: "_Error") -> Precision:
    ratio = error.over(FLOORS[dtype or str(leaf.dtype)])
    return Precision(dtype or MIXED, leaf.name, error.mine, error.theirs, ratio)


def _wrong(leaf: Leaf, dtype: str | None, error: "_Error") -> Finding | None:
    """What is said of a leaf that loses more than it may."""
    own = dtype or str(leaf.dtype)
    half = str(leaf.dtype) == own != "float32"
    allowed = WORST_RATIO_IN_HALF if half else WORST_RATIO
    if error.over(FLOORS[own]) <= allowed or error.conditioned <= OF_CONDITION * allowed:
        return None
    message = (
        f"in {dtype or 'the dtypes given'} the cotangent is {error.mine:.3g} units in the last "
        f"place from the float64 truth, autodiff {error.theirs:.3g}: "
        f"{_asked(dtype, own, error.mine)}"
    )
    errors = Errors(error.mine, error.theirs, allowed * max(error.theirs, FLOORS[own]))
    name = precision_row(dtype or MIXED)
    return finding(name, "precision", message, argument=leaf.name, errors=errors)


class _Error(NamedTuple):
    """Of one leaf, root mean squares."""

    mine: float
    """The rule's, in ulps."""
    theirs: float
    """Autodiff's, in ulps."""
    conditioned: float
    """The rule's, over what last-bit changes of the input do."""

    def over(self, floor: float) -> float:
        """The rule's over autodiff's, which counts as no less than a floor."""
        return self.mine / max(self.theirs, floor)


NOTHING_TO_LOSE = _Error(0.0, np.inf, 0.0)


def _errors(
    trial: Trial, dtype: str | None, points: list[Vector], rng: np.random.Generator
) -> dict[str, _Error]:
    """For each leaf the medians over the questions; of cotangents of either sign and of one sign
    those with the larger ratio."""
    of_either_sign: dict[str, list[_Error]] = {}
    of_one_sign: dict[str, list[_Error]] = {}
    asked = _Asked(trial, dtype)
    for x in points:
        rounded = pack(trial.subject.cast(x, dtype))
        if not np.all(np.isfinite(rounded)):
            continue
        here = []
        for question in range(2 * QUESTIONS):
            one_sign = question % 2 == 1
            errors = asked.errors(rounded, one_sign, rng)
            here.append((of_one_sign if one_sign else of_either_sign, errors))
        # It is no unit then to count errors in.
        cancelled = {name for _, (_, names) in here for name in names}
        for found, (errors_of, _) in here:
            for name, error in errors_of.items():
                if name not in cancelled:
                    found.setdefault(name, []).append(error)
    worst = {}
    for leaf in trial.subject.leaves:
        floor = FLOORS.get(dtype or str(leaf.dtype), 1.0)
        medians = [
            _Error(*(float(v) for v in np.median(np.array(found[leaf.name]), axis=0)))
            for found in (of_either_sign, of_one_sign)
            if leaf.name in found
        ]
        worst[leaf.name] = NOTHING_TO_LOSE
        if medians:
            worst[leaf.name] = max(medians, key=methodcaller("over", floor))
    return worst


class _Answer(NamedTuple):
    """What was found in one question."""

    errors: dict[str, _Error]
    cancelled: set[str]
    """The leaves that are zero but for float64's own rounding."""


class _Asked:
    """Rule and autodiff in one dtype, and their truths."""

    def __init__(self, trial: Trial, dtype: str | None) -> None:
        self.trial, self.dtype = trial, dtype
        subject = trial.subject
        self.rule, self.autodiff = (
            trial.remember((dtype, who), partial(Pullback, subject, fn, dtype))
            for who, fn in (("rule", trial.rule_fn), ("truth", trial.truth_fn))
        )
        self.finest = _finest_eps(trial, dtype)
        # A rule that is narrow inside whatever it is given is held to the reference's truth.
        self.exact = trial.rule if trial.rule.eps < self.finest else trial.truth

    def errors(self, x: Vector, one_sign: bool, rng: np.random.Generator) -> _Answer:
        """One question about every leaf."""
        c = inputs.cotangent(rng, self.trial.output_size)
        c = pack(self.rule.cotangents(np.abs(c) if one_sign else c))
        got, theirs = self.rule(x, c), self.autodiff(x, c)
        truth, autodiff_truth = self.exact(x, c), self.trial.truth(x, c)
        moved = self._moved(x, c, truth, rng)
        noise = self._noise(x, c, truth, moved, rng)
        answer = _Answer({}, set())
        for leaf in self.trial.subject.leaves:
            own = self.dtype or str(leaf.dtype)
            if not leaf.size or _out_of_range(truth[leaf.part], own):
                continue
            eps = eps_of(own)
            if _rms(noise[leaf.part]) > eps * _rms(truth[leaf.part]):
                answer.cancelled.add(leaf.name)
            answer.errors[leaf.name] = _Error(
                _ulps(got, truth, leaf, eps),
                _ulps(theirs, autodiff_truth, leaf, eps),
                _conditioned(got, truth, moved, leaf, eps),
            )
        return answer

    def _moved(self, x: Vector, c: Vector, truth: Vector, rng: np.random.Generator) -> Vector:
        """How far the truth moves when the inputs change in their last bits."""
        moved = np.zeros_like(truth)
        for _ in range(MOVED):
            near_x = inputs.last_bits(x, rng, self.finest)
            near = self.exact(near_x, inputs.last_bits(c, rng, self.finest))
            moved = np.fmax(moved, np.abs(near - truth))
        return moved

    def _noise(
        self, x: Vector, c: Vector, truth: Vector, moved: Vector, rng: np.random.Generator
    ) -> Vector:
        """How far float64's own rounding moves it: only what cancels can be zero but for that."""
        parts = [leaf.part for leaf in self.trial.subject.leaves]
        if any(_rms(moved[part]) > CANCELS * _rms(truth[part]) for part in parts):
            return spread(self.exact, x, c, eps_of(np.float64), rng)
        return np.zeros_like(truth)


def _finest_eps(trial: Trial, dtype: str | None) -> float:
    dtypes = [dtype] if dtype else [leaf.dtype for leaf in trial.subject.leaves]
    return min(map(eps_of, dtypes))


def _asked(dtype: str | None, own: str, ulps: float) -> str:
    off = ulps * eps_of(own)
    if off > WRONG_IN_ONE_DTYPE:
        return f"{off:.2g} of its size. Does the rule do something else for these dtypes?"
    sums_in = dtype or "a narrower dtype"
    return f"does a long sum accumulate in {sums_in}, or do large numbers cancel?"


def _out_of_range(truth: Vector, dtype: str) -> bool:
    """Whether a few factors more would take it out of what the dtype holds in all its digits."""
    limits = jnp.finfo(dtype)
    size = np.abs(truth).max(initial=0.0)
    return not size < 0.1 * float(limits.max) or size < 1e3 * float(limits.tiny)


def _rms(v: Vector) -> float:
    return float(np.sqrt(np.mean(v**2))) if v.size else 0.0


def _ulps(got: Vector, truth: Vector, leaf: Leaf, eps: float) -> float:
    error, size = got[leaf.part] - truth[leaf.part], truth[leaf.part]
    scale = _rms(size)
    if not np.all(np.isfinite(error)):
        return float("inf")
    return _rms(error) / (eps * scale) if scale > 0 else 0.0


def _conditioned(got: Vector, truth: Vector, moved: Vector, leaf: Leaf, eps: float) -> float:
    """The error in units of what the inputs' own rounding does: large near a kink for anybody."""
    error = np.abs(got[leaf.part] - truth[leaf.part])
    if not np.all(np.isfinite(error)):
        return float("inf")
    size = np.abs(truth[leaf.part])
    unit = eps * (size + _rms(size)) + moved[leaf.part]
    ratio = np.divide(error, unit, out=np.zeros_like(error), where=unit > 0)
    return float(np.sqrt(np.mean(ratio**2)))
