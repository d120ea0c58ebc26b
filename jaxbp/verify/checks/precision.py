"""Rounding: the rule's error in every dtype, beside autodiff's own, against the float64 truth.

The truth is the rule's own formula in float64 at the rounded inputs, so that another convention at
a kink is no rounding error; autodiff is held to its own formula in the same way.
"""

import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome
from jaxbp.verify.compare.sample import spread
from jaxbp.verify.report import Finding, Precision
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.subject import Leaf, Pullback, Vector, pack
from jaxbp.verify.trial import Trial

DTYPES = ("float32", "bfloat16", "float16")
FLOORS = {"float32": 4.0, "bfloat16": 1.0, "float16": 1.0}
"""Fewer units in the last place than this are nobody's fault. Half precision has none to lose: its
sums are to run in float32."""
WORST_RATIO = 8.0
"""A right rule may round another way than autodiff, but not lose so many times as much …"""
WORST_RATIO_IN_HALF = 2.5
"""… nor so many times in half precision, where that is what it was given."""
WRONG_IN_ONE_DTYPE = 0.05
"""More of its size than this is hardly rounding."""
QUESTIONS = 3


def check(
    trial: Trial, points: list[Vector], rng: np.random.Generator
) -> tuple[Outcome, list[Precision]]:
    """One row for each dtype, and the figures."""
    outcome = Outcome()
    figures: list[Precision] = []
    if not trial.subject.is_real:
        outcome.row("precision", None, "complex arguments")
        return outcome, figures
    if not trial.wide or not trial.truth.wide:
        outcome.row(
            "precision", None, "rule or reference does not run in float64: no truth to measure by"
        )
        return outcome, figures
    mixed = len({str(leaf.dtype) for leaf in trial.subject.leaves}) > 1
    for dtype in (*DTYPES, *([None] if mixed else [])):
        figures += _in_dtype(trial, dtype, [points[-1], points[0]], rng, outcome)
    return outcome, figures


def _in_dtype(
    trial: Trial,
    dtype: str | None,
    points: list[Vector],
    rng: np.random.Generator,
    outcome: Outcome,
) -> list[Precision]:
    """Every leaf in this dtype; None: each in its own."""
    called = dtype or "mixed"
    name = f"{called} precision"
    eps = _finest_eps(trial, dtype)
    if trial.eps_written > eps:
        outcome.row(name, None, "the function itself computes in a narrower dtype")
        return []
    if trial.eps_truth >= eps:
        outcome.row(name, None, "the reference computes in no wider dtype: no truth to measure by")
        return []
    rule = trial.remember((dtype, "rule"), lambda: Pullback(trial.subject, trial.rule_fn, dtype))
    plain = trial.remember((dtype, "truth"), lambda: Pullback(trial.subject, trial.truth_fn, dtype))
    try:
        errors = _errors(trial, rule, plain, dtype, points, rng)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        outcome.row(name, None, f"not run: {type(error).__name__}: {lines[0][:160]}")
        return []
    figures: list[Precision] = []
    bad: list[Leaf] = []
    for leaf in trial.subject.leaves:
        mine, theirs, conditioned = errors[leaf.name]
        if not np.isfinite(theirs):
            continue  # autodiff overflows as well: nothing to be held to
        own = dtype or str(leaf.dtype)
        if own not in FLOORS:
            continue  # a float64 argument beside narrower ones: the truth itself
        ratio = mine / max(theirs, FLOORS[own])
        figures.append(Precision(called, leaf.name, mine, theirs, ratio))
        half = str(leaf.dtype) == own != "float32"
        allowed = WORST_RATIO_IN_HALF if half else WORST_RATIO
        if ratio > allowed and conditioned > allowed / 3:
            bad.append(leaf)
            outcome.findings.append(
                Finding(
                    name,
                    leaf.name,
                    "precision",
                    f"in {dtype or 'the dtypes given'} the cotangent is {mine:.3g} units in the "
                    f"last place from the float64 truth, autodiff {theirs:.3g}: "
                    f"{_asked(dtype, own, mine)}",
                    "rule",
                    got=mine,
                    expected=theirs,
                    tolerance=allowed * max(theirs, FLOORS[own]),
                )
            )
    if not figures:
        outcome.row(
            name, None, "autodiff itself overflows, or the truth is zero: no digits to lose"
        )
        return []
    worst = max(figures, key=lambda f: f.ratio)
    outcome.row(
        name,
        not bad,
        f"{worst.error_ulps:.2g} ulps, autodiff {worst.autodiff_ulps:.2g} (`{worst.argument}`)",
    )
    return figures


def _errors(
    trial: Trial,
    rule: Pullback,
    plain: Pullback,
    dtype: str | None,
    points: list[Vector],
    rng: np.random.Generator,
) -> dict[str, tuple[float, float, float]]:
    """For each leaf: the rule's and autodiff's root-mean-square errors in ulps, and the rule's
    error over what last-bit changes of the input do; medians over the questions, and of cotangents
    of either sign and of one sign (whose sums grow) those with the larger ratio."""
    finest = _finest_eps(trial, dtype)
    found: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    for x in points:
        rounded = pack(trial.subject.cast(x, dtype))
        if not np.all(np.isfinite(rounded)):
            continue
        here: list[tuple[Leaf, bool, tuple[float, float, float]]] = []
        cancelled: set[str] = set()
        for question in range(2 * QUESTIONS):
            c = inputs.cotangent(rng, trial.output_size)
            one_sign = question % 2 == 1
            c = pack(rule.cotangents(np.abs(c) if one_sign else c))
            got, theirs = rule(rounded, c), plain(rounded, c)
            # A rule that is narrow inside whatever it is given is held to the reference's truth.
            exact = trial.rule if trial.eps_rule < finest else trial.truth
            truth, autodiff_truth = exact(rounded, c), trial.truth(rounded, c)
            moved = np.zeros_like(truth)
            for _ in range(3):
                near = exact(
                    inputs.last_bits(rounded, rng, finest), inputs.last_bits(c, rng, finest)
                )
                moved = np.fmax(moved, np.abs(near - truth))
            # Only what moves by about its own size can be zero but for float64's rounding.
            noise = np.zeros_like(truth)
            if any(_rms(moved[v.part]) > 0.1 * _rms(truth[v.part]) for v in trial.subject.leaves):
                noise = spread(exact, rounded, c, float(np.finfo(float).eps), rng)
            for leaf in trial.subject.leaves:
                own = dtype or str(leaf.dtype)
                if not leaf.size or _out_of_range(truth[leaf.part], own):
                    continue
                eps = float(jnp.finfo(own).eps)
                # It is no unit then to count errors in.
                if _rms(noise[leaf.part]) > eps * _rms(truth[leaf.part]):
                    cancelled.add(leaf.name)
                errors = (
                    _ulps(got, truth, leaf, eps),
                    _ulps(theirs, autodiff_truth, leaf, eps),
                    _conditioned(got, truth, moved, leaf, eps),
                )
                here.append((leaf, one_sign, errors))
        for leaf, one_sign, errors in here:
            if leaf.name not in cancelled:
                found.setdefault((leaf.name, one_sign), []).append(errors)
    medians_of = {}
    for leaf in trial.subject.leaves:
        medians = [
            tuple(float(v) for v in np.median(np.array(entries), axis=0))
            for (name, _), entries in found.items()
            if name == leaf.name
        ] or [(0.0, np.inf, 0.0)]
        floor = FLOORS.get(dtype or str(leaf.dtype), 1.0)
        medians_of[leaf.name] = max(medians, key=lambda m, floor=floor: m[0] / max(m[1], floor))  # type: ignore[misc]
    return medians_of  # type: ignore[return-value]


def _finest_eps(trial: Trial, dtype: str | None) -> float:
    dtypes = [dtype] if dtype else [leaf.dtype for leaf in trial.subject.leaves]
    return min(float(jnp.finfo(d).eps) for d in dtypes)


def _asked(dtype: str | None, own: str, ulps: float) -> str:
    off = ulps * float(jnp.finfo(own).eps)
    if off > WRONG_IN_ONE_DTYPE:
        return f"{off:.2g} of its size. Does the rule do something else for these dtypes?"
    sums_in = dtype or "a narrower dtype"
    return f"does a long sum accumulate in {sums_in}, or do large numbers cancel?"


def _out_of_range(truth: Vector, dtype: str) -> bool:
    top = float(jnp.finfo(dtype).max)
    size = np.abs(truth).max(initial=0.0)
    return not size < 0.1 * top or size < 1e3 * float(jnp.finfo(dtype).tiny)


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
