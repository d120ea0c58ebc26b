"""Rounding: the rule's error in every dtype, beside autodiff's own, against the float64 truth.

The truth is the rule's own formula in float64 at the rounded inputs, so that another convention at
a kink is no rounding error; autodiff is held to its own formula in the same way.
"""

import jax.numpy as jnp
import numpy as np

from jaxbp.verify import data
from jaxbp.verify.outcome import Outcome
from jaxbp.verify.report import Finding, Precision
from jaxbp.verify.subject import Leaf, Pullback, Vector, pack
from jaxbp.verify.trial import Trial

DTYPES = ("float32", "bfloat16", "float16")
FLOORS = {"float32": 4.0, "bfloat16": 1.0, "float16": 1.0}
"""Fewer units in the last place than this are nobody's fault. Half precision has none to lose: its
sums are to run in float32."""
WORST_RATIO = 8.0
"""A right rule may round another way than autodiff, but not lose so many times as much …"""
WORST_RATIO_IN_HALF = 2.5
"""… nor so many times in half precision, where that is what it was given."""
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
    for dtype in DTYPES:
        measured = _in_dtype(trial, dtype, [points[-1], points[0]], rng, outcome)
        figures += measured
    return outcome, figures


def _in_dtype(
    trial: Trial, dtype: str, points: list[Vector], rng: np.random.Generator, outcome: Outcome
) -> list[Precision]:
    name = f"{dtype} precision"
    eps = float(jnp.finfo(dtype).eps)
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
        ratio = mine / max(theirs, FLOORS[dtype])
        figures.append(Precision(dtype, leaf.name, mine, theirs, ratio))
        half = str(leaf.dtype) == dtype != "float32"
        allowed = WORST_RATIO_IN_HALF if half else WORST_RATIO
        if ratio > allowed and conditioned > allowed / 3:
            bad.append(leaf)
            outcome.findings.append(
                Finding(
                    name,
                    leaf.name,
                    "precision",
                    f"in {dtype} the cotangent is {mine:.3g} units in the last place from the "
                    f"float64 truth, autodiff {theirs:.3g}: does a long sum accumulate in "
                    f"{dtype}, or do large numbers cancel?",
                    "rule",
                    got=mine,
                    expected=theirs,
                    tolerance=allowed * max(theirs, FLOORS[dtype]),
                )
            )
    if not figures:
        outcome.row(name, None, "autodiff itself overflows")
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
    dtype: str,
    points: list[Vector],
    rng: np.random.Generator,
) -> dict[str, tuple[float, float, float]]:
    """For each leaf: the rule's and autodiff's root-mean-square errors in ulps, and the rule's
    error over what last-bit changes of the input do; medians over the questions, and of cotangents
    of either sign and of one sign (whose sums grow) those with the larger ratio."""
    eps = float(jnp.finfo(dtype).eps)
    found: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    for x in points:
        rounded = pack(trial.subject.cast(x, dtype))
        if not np.all(np.isfinite(rounded)):
            continue
        for question in range(2 * QUESTIONS):
            c = data.cotangent(rng, trial.output_size)
            one_sign = question % 2 == 1
            c = pack(rule.cotangents(np.abs(c) if one_sign else c))
            got, theirs = rule(rounded, c), plain(rounded, c)
            # A rule that is narrow inside whatever it is given is held to the reference's truth.
            exact = trial.rule if trial.eps_rule < eps else trial.truth
            truth, autodiff_truth = exact(rounded, c), trial.truth(rounded, c)
            moved = np.zeros_like(truth)
            for _ in range(3):
                near = exact(data.last_bits(rounded, rng, eps), data.last_bits(c, rng, eps))
                moved = np.fmax(moved, np.abs(near - truth))
            for leaf in trial.subject.leaves:
                if not leaf.size or _out_of_range(truth[leaf.part], dtype):
                    continue
                found.setdefault((leaf.name, one_sign), []).append(
                    (
                        _ulps(got, truth, leaf, eps),
                        _ulps(theirs, autodiff_truth, leaf, eps),
                        _conditioned(got, truth, moved, leaf, eps),
                    )
                )
    errors = {}
    for leaf in trial.subject.leaves:
        medians = [
            tuple(float(v) for v in np.median(np.array(entries), axis=0))
            for (name, _), entries in found.items()
            if name == leaf.name
        ] or [(0.0, np.inf, 0.0)]
        errors[leaf.name] = max(medians, key=lambda m: m[0] / max(m[1], FLOORS[dtype]))
    return errors  # type: ignore[return-value]


def _out_of_range(truth: Vector, dtype: str) -> bool:
    top = float(jnp.finfo(dtype).max)
    size = np.abs(truth).max(initial=0.0)
    return not size < 0.1 * top or size < 1e3 * float(jnp.finfo(dtype).tiny)


def _ulps(got: Vector, truth: Vector, leaf: Leaf, eps: float) -> float:
    error, size = got[leaf.part] - truth[leaf.part], truth[leaf.part]
    scale = float(np.sqrt(np.mean(size**2)))
    if not np.all(np.isfinite(error)):
        return float("inf")
    return float(np.sqrt(np.mean(error**2))) / (eps * scale) if scale > 0 else 0.0


def _conditioned(got: Vector, truth: Vector, moved: Vector, leaf: Leaf, eps: float) -> float:
    """The error in units of what the inputs' own rounding does: large near a kink for anybody."""
    error = np.abs(got[leaf.part] - truth[leaf.part])
    if not np.all(np.isfinite(error)):
        return float("inf")
    size = np.abs(truth[leaf.part])
    unit = eps * (size + float(np.sqrt(np.mean(size**2)))) + moved[leaf.part]
    ratio = np.divide(error, unit, out=np.zeros_like(error), where=unit > 0)
    return float(np.sqrt(np.mean(ratio**2)))
