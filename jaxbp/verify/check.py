"""`check_vjp` and `assert_vjp`: everything that is compared, in order."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from jaxbp.verify import gradient, properties
from jaxbp.verify.outcome import Outcome
from jaxbp.verify.report import Report
from jaxbp.verify.trial import Trial, trial_of

CHECKS = (
    "structure",
    "gradient",
    "linear",
    "nan",
)
"""What `checks=` chooses from."""


def check_vjp(
    fn: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    checks: Collection[str] | None = None,
) -> Report:
    """Prove or refute the hand-written derivative of `fn` at these arguments."""
    began = time.perf_counter()
    chosen = _chosen(checks)
    trial = trial_of(fn, args, dict(kwargs or {}), reference)
    if not trial.subject.leaves:
        raise ValueError(
            f"check_vjp: args of {trial.subject.name} must hold a floating array to differentiate by"
        )
    if not trial.given.outputs():
        raise TypeError(f"check_vjp: fn {trial.subject.name} must return a floating array")
    rng = np.random.default_rng(seed)
    outcome = _run(trial, chosen, rng)
    return Report(
        function=trial.subject.name,
        arguments=tuple(
            f"{leaf.name}: {leaf.dtype}{list(leaf.shape)}" for leaf in trial.subject.leaves
        ),
        checks=tuple(outcome.checks),
        findings=tuple(outcome.findings),
        notes=tuple(dict.fromkeys([*trial.notes, *outcome.notes])),
        seed=seed,
        seconds=time.perf_counter() - began,
        reference="the given reference" if reference is not None else "the primal inside the rule",
    )


def assert_vjp(fn: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Raise AssertionError with the report unless `check_vjp` finds nothing wrong."""
    report = check_vjp(fn, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _chosen(checks: Collection[str] | None) -> set[str]:
    if checks is None:
        return set(CHECKS)
    unknown = [name for name in checks if name not in CHECKS]
    if isinstance(checks, str) or unknown:
        raise ValueError(f"check_vjp: checks must be among {', '.join(CHECKS)}; got {checks!r}")
    return set(checks)


def _run(trial: Trial, chosen: set[str], rng: np.random.Generator) -> Outcome:
    outcome = Outcome()
    if "structure" in chosen:
        outcome.add(properties.plain_call(trial, rng))
        if outcome.failed("structure"):
            return outcome
    points = [trial.subject.x, *trial.other_points(rng)]
    if "linear" in chosen:
        outcome.add(properties.linear(trial, points, rng))
    twisted = {f.argument for f in outcome.findings if f.check in ("linear", "deterministic", "zero")}
    if "gradient" in chosen:
        taken = gradient.samples(trial, points, rng)
        judged = gradient.judge(trial, taken, points, rng)
        # What is not even linear, or not even a function, has no gradient to diagnose.
        judged.findings = [f for f in judged.findings if f.argument not in twisted]
        outcome.add(judged)
    if "nan" in chosen:
        found = properties.finite(trial, rng)
        known = {f.argument for f in outcome.findings if f.diagnosis == "nan"}
        found.findings = [f for f in found.findings if f.argument not in known]
        outcome.add(found)
    return outcome
