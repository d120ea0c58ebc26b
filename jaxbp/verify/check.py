"""`check_vjp` and `assert_vjp`: everything that is compared, in order."""

import operator
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxbp.verify.checks import (
    deterministic,
    dtype,
    finite_differences,
    fwd_value,
    gradient,
    jit,
    kinks,
    linear,
    nan,
    precision,
    remat,
    scan,
    second_order,
    shard_map,
    structure,
    symbolic_zeros,
    value,
    vmap,
    zero,
)
from jaxbp.verify.checks.outcome import WRONG_ALREADY, Outcome
from jaxbp.verify.checks.plain_call import plain_call
from jaxbp.verify.checks.transformed import Situation
from jaxbp.verify.report import Report
from jaxbp.verify.subject import compiler
from jaxbp.verify.subject.raised import first_line
from jaxbp.verify.subject.vectors import Vector
from jaxbp.verify.trial import Trial, trial_of

TRANSFORMS = {
    "vmap": vmap.check,
    "scan": scan.check,
    "remat": remat.check,
    "shard-map": shard_map.check,
}
CHECKS = (
    "structure",
    "gradient",
    "finite-differences",
    "kinks",
    "linear",
    "nan",
    *TRANSFORMS,
    "second-order",
    "precision",
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
    """Prove or refute the derivative of `fn`, hand-written or not, at these arguments.

    Three oracles answer the same questions, and the odd one out is named: the rule, autodiff of the
    reference in float64, and finite differences in float64. Every floating leaf of the arguments is
    judged on its own. Then what every VJP must satisfy whatever it computes, the transforms, second
    order and rounding in each dtype.

    Args:
        fn: the function, with or without a `custom_vjp` somewhere inside. Called as
            `fn(*args, **kwargs)`.
        *args: its arguments: pytrees whose floating arrays (and Python floats) are differentiated,
            whose integer arrays are passed on, and whose other leaves (ints, bools, strings, None,
            functions, what `nondiff_argnums` names) are static.
        reference: a function of the same arguments to compare with. It also binds at kinks. None:
            `fn` with every `custom_vjp` replaced by the plain function inside it (by forward mode
            where that has no reverse mode, as a `while_loop`); where there is none, autodiff
            itself is on trial, against finite differences.
        kwargs: keyword arguments, read as `args` are.
        seed: of the cotangents and of the other points at which is compared.
        checks: only these, of `CHECKS`; None: all. `("gradient",)` is the quickest.

    Returns:
        A `Report`: `.ok`, `.findings`, `.checks`, `.powers`; `str(report)` is the table.

    Conventions: at a kink (a tie, relu's corner) any slope between the one-sided ones is right,
        unless an explicit `reference` says which. Tolerances come from what last-bit changes of
        the inputs, and of the steps between, do to both sides, never from sizes of arrays. Where
        no argument is float64, a constant that is a float32 number (a table made in numpy) counts
        as rounded to it: what that explains is a note and not an error, 1e-6 is one. Half
        precision inside the function is taken out of rule and function alike, to judge the
        formulas; what it does to the digits is measured by `precision`, beside autodiff's. A
        rule that cannot be differentiated again, or that `shard_map` refuses with its default
        checks, is not wrong: its row says undecided, and why.

    Raises:
        ValueError: there is no floating array to differentiate by; an unknown name in `checks`; a
            negative `seed`; JAX has no derivative of the function to compare with, and there is no
            `reference`.
        TypeError: `fn` returns no floating array, or asks for an array's value while traced; a
            parameter is of another type than these; an argument is an array of no numbers, or a
            `jax.ShapeDtypeStruct`.
        Whatever `fn` itself raises for these arguments.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> @jax.custom_vjp
        ... def scaled(x, w):
        ...     return x * w
        >>> scaled.defvjp(lambda x, w: (x * w, (x, w)),
        ...               lambda kept, dy: (dy * kept[1], (dy * kept[0]).mean(0)))
        >>> report = check_vjp(scaled, jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0]),
        ...                    checks=("gradient",))
        >>> [(finding.argument, finding.diagnosis) for finding in report.findings]
        [('w', 'averaged')]

    See also: `assert_vjp`, for tests.
    """
    began = time.perf_counter()
    chosen, seed = _chosen(checks), _natural(seed)
    _refuse(fn, reference, kwargs)
    try:
        trial = trial_of(fn, args, dict(kwargs or {}), reference)
        outputs = trial.given.outputs()
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError(
            f"check_vjp: fn must be traceable, as under jax.jit; {first_line(error)}"
        ) from error
    if not trial.subject.leaves:
        raise ValueError(
            f"check_vjp: args of {trial.subject.name} must hold a floating array to "
            f"differentiate by; got {trial.subject.argument_names}"
        )
    if not outputs:
        raise TypeError(f"check_vjp: fn {trial.subject.name} must return a floating array")
    rng = np.random.default_rng(seed)
    # In half precision an overflow is an answer, inf, and no accident of the checker.
    with np.errstate(over="ignore"):
        outcome = _run(trial, chosen, rng)
    return Report(
        function=trial.subject.name,
        arguments=tuple(
            f"{leaf.name}: {leaf.dtype}{list(leaf.shape)}" for leaf in trial.subject.leaves
        ),
        checks=tuple(outcome.checks),
        findings=tuple(outcome.findings),
        powers=tuple(outcome.powers),
        precisions=tuple(outcome.precisions),
        warnings=compiler.warnings(trial.programs),
        notes=tuple(dict.fromkeys([*(note.text for note in trial.notes), *outcome.notes])),
        seed=seed,
        seconds=time.perf_counter() - began,
        reference=_reference_name(trial, reference),
    )


def _reference_name(trial: Trial, reference: Callable[..., Any] | None) -> str:
    if reference is not None:
        return str(getattr(reference, "__qualname__", reference))
    if trial.has_rule:
        return "the primal inside the rule"
    return "finite differences (there is no rule: autodiff itself is on trial)"


def assert_vjp(fn: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Raise AssertionError with the report unless `check_vjp` finds nothing wrong.

    Args:
        fn: as for `check_vjp`.
        *args: as for `check_vjp`.
        **options: the keyword arguments of `check_vjp`.

    Raises:
        AssertionError: something is wrong; the message is the report.
        And what `check_vjp` raises.

    Example:
        >>> import jax.numpy as jnp
        >>> assert_vjp(jnp.tanh, jnp.array([0.5, -1.0]), checks=("gradient",))

    See also: `check_vjp`.
    """
    report = check_vjp(fn, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _refuse(fn: Any, reference: Any, kwargs: Any) -> None:
    """Raise for what cannot be called, and for keywords that are none."""
    for name, function in (("fn", fn), ("reference", reference)):
        if not callable(function) and (function is not None or name == "fn"):
            raise TypeError(f"check_vjp: {name} must be a function; got {function!r}")
    named = isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)
    if kwargs is not None and not named:
        raise TypeError(f"check_vjp: kwargs must map names to arguments; got {kwargs!r}")


def _chosen(checks: Collection[str] | None) -> set[str]:
    if checks is None:
        return set(CHECKS)
    if not isinstance(checks, Collection):
        raise TypeError(f"check_vjp: checks must be a collection of names; got {checks!r}")
    unknown = [name for name in checks if name not in CHECKS]
    if isinstance(checks, str) or unknown:
        raise ValueError(f"check_vjp: checks must be among {', '.join(CHECKS)}; got {checks!r}")
    return set(checks)


def _natural(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"check_vjp: seed must be an integer; got {seed!r}") from None
    if number < 0:
        raise ValueError(f"check_vjp: seed must be at least 0; got {seed!r}")
    return number


def _run(trial: Trial, chosen: set[str], rng: np.random.Generator) -> Outcome:
    """Every check that is chosen, in order, until one leaves nothing to ask."""
    outcome = Outcome()
    if "structure" in chosen:
        outcome.add(_of_the_plain_call(trial, rng))
        if outcome.failed("structure", "deterministic"):
            return outcome
    trial.prepare()
    if outcome.failed("jit"):
        trial.stop_compiling()
    if trial.explicit:
        outcome.add(value.check(trial, [], rng))
        if outcome.failed("value"):
            trial.stand_by_the_primal()
    points = [trial.subject.x, *trial.other_points(rng)]
    if "linear" in chosen:
        outcome.add(linear.check(trial, points, rng))
    if "gradient" in chosen:
        words = ("nonlinear", "nondeterministic")
        twisted = {f.argument for f in outcome.findings if f.diagnosis in words}
        outcome.add(gradient.check(trial, points, rng, twisted))
    wrong = outcome.blamed
    outcome.add(_beside_the_gradient(trial, points, chosen, wrong, rng))
    if trial.rule.interpreted:
        for name in (*TRANSFORMS, "second-order", "precision"):
            if name in chosen:
                outcome.row(name, None, "the rule is not the same when it is traced")
        return outcome
    outcome.add(_transformed(trial, points, chosen, outcome.failed("fwd-value"), rng))
    if "second-order" in chosen:
        if wrong:
            outcome.row("second-order", None, "the first order is wrong already")
        else:
            outcome.add(second_order.check(trial, points, rng))
    if "precision" in chosen:
        outcome.add(precision.check(trial, points, rng).but_for(wrong))
    return outcome


def _of_the_plain_call(trial: Trial, rng: np.random.Generator) -> Outcome:
    """What must hold of every VJP, with nothing to compare it with."""
    call = plain_call(trial, rng)
    outcome = structure.check(trial, call)
    if isinstance(call, Exception):
        return outcome
    outcome.add(dtype.check(trial, call))
    outcome.add(deterministic.check(trial, call, rng))
    if outcome.failed("deterministic"):
        return outcome
    trial.prepare()
    outcome.add(fwd_value.check(trial, call, rng))
    outcome.add(jit.check(trial, call, rng))
    outcome.add(zero.check(trial, call))
    return outcome


def _beside_the_gradient(
    trial: Trial,
    points: list[Vector],
    chosen: set[str],
    wrong: Collection[str | None],
    rng: np.random.Generator,
) -> Outcome:
    """What else shows in one gradient, of arguments that are not known to be wrong."""
    outcome = Outcome()
    if "gradient" in chosen and not trial.rule.interpreted:
        outcome.add(symbolic_zeros.check(trial, points, rng).but_for(wrong))
    all_wrong = {leaf.name for leaf in trial.subject.leaves} <= {*wrong}
    # Where there is no rule, differences are what autodiff itself is compared with.
    own_oracle = "gradient" in chosen and not trial.has_rule and not trial.explicit
    for name, check in (
        ("finite-differences", finite_differences.check),
        ("kinks", kinks.check),
        ("nan", nan.check),
    ):
        if name not in chosen and not (own_oracle and name == "finite-differences"):
            continue
        if all_wrong and name != "nan":
            outcome.row(name, None, WRONG_ALREADY)
        else:
            outcome.add(check(trial, points, rng).but_for(wrong))
    return outcome


def _transformed(
    trial: Trial,
    points: list[Vector],
    chosen: set[str],
    value_is_wrong: bool,
    rng: np.random.Generator,
) -> Outcome:
    """The transforms, of which each has the same situation."""
    outcome = Outcome()
    situation = Situation(trial, points, rng)
    for name, check in TRANSFORMS.items():
        if name in chosen and value_is_wrong:
            outcome.row(name, None, "the value that fwd returns is wrong already")
        elif name in chosen:
            outcome.add(check(situation))
    return outcome
