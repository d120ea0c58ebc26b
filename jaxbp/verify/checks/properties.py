"""What must hold of every VJP, with nothing to compare it with.

Structure, shape and dtype of the cotangents; the forward pass of the rule against the plain call;
the same answer twice; zero for zero; linear in the cotangent; finite for finite inputs.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks import fwd_value
from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.sample import Sample, compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.subject import Leaf, LeafFunction, Leaves, Vector, pack, vjp_of
from jaxbp.verify.trial import Trial

HUGE = 1e4


def plain_call(trial: Trial, rng: np.random.Generator) -> Outcome:
    """The rule called as the user calls it, nothing compiled, nothing cast."""
    outcome = Outcome()
    x, subject = trial.subject.x, trial.subject
    c = trial.cotangent(rng)
    given = [jnp.asarray(v) for v in subject.cast(x)]
    plain = trial.given.fn(given, subject.others)
    try:
        value, pull = trial.given.eager(x)
        cotangents = pull(c)
    except Exception as error:  # anybody's code runs here
        outcome.found(_refused(trial, error))
        return outcome
    outcome.row("structure", True, f"{len(cotangents)} cotangents, as many as arguments")
    _integers(trial, c, outcome)
    _dtypes(trial, cotangents, outcome)
    first = pack(cotangents)
    _deterministic(trial, pull, first, x, c, rng, outcome)
    again = trial.given.fn(given, subject.others)
    if not np.array_equal(pack(plain), pack(again), equal_nan=True):
        outcome.found(
            Finding(
                "deterministic",
                None,
                "nondeterministic",
                "a second, equal call gives another value: it depends on state outside its "
                "arguments",
                "forward",
            )
        )
    if outcome.failed("deterministic"):
        return outcome
    trial.prepare()
    trial.given.outputs()
    fwd_value.check(trial, plain, value, rng, outcome)
    _jit(trial, first, plain, x, c, rng, outcome)
    zeros = pack(pull(np.zeros_like(c)))
    bad = [leaf for leaf in subject.leaves if np.any(zeros[leaf.part] != 0)]
    bad = [leaf for leaf in bad if np.all(np.isfinite(first[leaf.part]))]
    for leaf in bad:
        place = int(np.argmax(np.abs(np.nan_to_num(zeros[leaf.part], nan=np.inf))))
        outcome.found(
            Finding(
                "zero",
                leaf.name,
                "nonlinear",
                "a zero cotangent must give a zero cotangent; something is added to it",
                "rule",
                tuple(int(i) for i in np.unravel_index(place, leaf.shape)),
                float(zeros[leaf.start + place].real),
                0.0,
                0.0,
            )
        )
    if not bad:
        outcome.row("zero", True, "zero in, zero out")
    return outcome


def _integers(trial: Trial, c: Vector, outcome: Outcome) -> None:
    """An integer argument has no cotangent: None or float0, at most integer zeros."""
    fn: Any = trial.subject.fn
    subject = trial.subject
    held = getattr(fn, "nondiff_argnums", None)
    backward = getattr(fn, "bwd", None)
    if held is None or held or backward is None or not subject.others or fn.symbolic_zeros:
        return  # JAX drops such a cotangent itself; only a bare rule can be asked for it
    given = [jnp.asarray(v) for v in subject.cast(subject.x)]
    try:
        args, kwargs = subject.call(lambda *a, **k: (a, k), given, subject.others)
        bound = inspect.signature(fn.fun).bind(*args, **kwargs)
        out, residuals = fn.fwd(*bound.args)
        leaves, tree = jax.tree.flatten(out)
        if len(leaves) != len(trial.given.outputs()):
            return
        cotangents = backward(residuals, jax.tree.unflatten(tree, trial.given.cotangents(c)))
    except Exception:  # only an aside: whatever stops it has been said elsewhere or does no harm
        return
    for position, (argument, cotangent) in enumerate(zip(bound.args, cotangents, strict=False)):
        primals = jax.tree.leaves(argument)
        if not primals or any(jnp.issubdtype(jnp.result_type(p), jnp.inexact) for p in primals):
            continue
        for ct in jax.tree.leaves(cotangent):
            dtype = getattr(ct, "dtype", None)
            if (
                dtype is not None
                and dtype != jax.dtypes.float0
                and jnp.issubdtype(dtype, jnp.inexact)
            ):
                name = subject.argument_names[position]
                outcome.found(
                    Finding(
                        "dtype",
                        name,
                        "dtype",
                        f"`{name}` is an integer array and gets a {dtype} cotangent: return None "
                        "(or float0 zeros)",
                        "rule",
                    )
                )
                break


def _jit(
    trial: Trial,
    first: Vector,
    plain: list[Any],
    x: Vector,
    c: Vector,
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    """The compiled answer against the plain one."""
    if trial.given.interpreted:
        outcome.found(
            Finding("jit", None, "jit", f"under jit the rule raises {trial.given.refused}", "rule")
        )
        return
    leaves = trial.subject.leaves
    eps = max([float(jnp.finfo(leaf.dtype).eps) for leaf in leaves if leaf.size], default=0.0)
    eps = max([eps, *(float(jnp.finfo(out.dtype).eps) for out in trial.given.outputs())])
    # Compiled, a rule that is narrow inside may skip the rounding between two operations.
    inside = max(eps, trial.eps_traced)
    sample = compare(trial.given, lambda _x, _c: first, x, c, leaves, inside, rng, "jit")
    wrong = [
        leaf
        for leaf in leaves
        if sample.wrong(leaf).any()
        and trial.excuse(sample, leaf, rng, sides=(trial.given,)) is None
    ]
    for leaf in wrong:
        outcome.found(
            Finding(
                "jit",
                leaf.name,
                "jit",
                "under jit the cotangent differs from the plain call's",
                "rule",
                **numbers(sample, leaf),  # type: ignore[arg-type]
            )
        )
    a, b = pack(plain), trial.given.value(x)
    with np.errstate(invalid="ignore"):
        room = fwd_value.room(trial, a, x, eps, rng, 1024)
        off = (np.abs(a - b) > room) & np.isfinite(a)
    if off.any():
        place = int(np.argmax(off))
        outcome.found(
            Finding(
                "jit",
                None,
                "jit",
                "under jit the value differs from the plain call's",
                "forward",
                trial.output_index(place),
                float(b[place].real),
                float(a[place].real),
                float(room[place]),
            )
        )
    elif not wrong:
        outcome.row("jit", True, "as the plain call")


def _dtypes(trial: Trial, cotangents: list[Any], outcome: Outcome) -> None:
    bad = False
    for leaf, ct in zip(trial.subject.leaves, cotangents, strict=True):
        if np.dtype(ct.dtype) != leaf.dtype:
            bad = True
            outcome.found(
                Finding(
                    "dtype",
                    leaf.name,
                    "dtype",
                    f"the cotangent is {ct.dtype}, its primal {leaf.dtype}",
                    "rule",
                )
            )
    if not bad:
        outcome.row("dtype", True, "each cotangent has its primal's dtype")


def _deterministic(
    trial: Trial,
    pull: Callable[[Vector], list[Any]],
    first: Vector,
    x: Vector,
    c: Vector,
    rng: np.random.Generator,
    outcome: Outcome,
) -> None:
    """The same answer from the same pullback after another call, and from a call made anew."""
    elsewhere = trial.rounded(inputs.another_point(trial.subject, rng, 0.3))
    try:
        _, other = trial.given.eager(elsewhere)
        other(trial.cotangent(rng))
    except (
        Exception
    ):  # a value the rule does not take: then there is no other call to be mixed up with
        pass
    again = pack(pull(c))
    _, anew = trial.given.eager(x)
    for answer, how in (
        (again, "the same pullback, asked again after another call, answers differently"),
        (pack(anew(c)), "a second, equal call answers differently"),
    ):
        if np.array_equal(answer, first, equal_nan=True):
            continue
        bad = (answer != first) & ~(np.isnan(answer) & np.isnan(first))
        leaves = [leaf for leaf in trial.subject.leaves if bad[leaf.part].any()]
        for leaf in leaves:
            place = leaf.start + int(np.argmax(bad[leaf.part]))
            outcome.found(
                Finding(
                    "deterministic",
                    leaf.name,
                    "nondeterministic",
                    how + ": it depends on state outside its arguments",
                    "rule",
                    tuple(int(i) for i in np.unravel_index(place - leaf.start, leaf.shape)),
                    float(answer[place].real),
                    float(first[place].real),
                    0.0,
                )
            )
        return
    outcome.row("deterministic", True, "the same answer twice, and after another call")


def linear(trial: Trial, points: list[Vector], rng: np.random.Generator) -> Outcome:
    """VJP(a·c + b·d) = a·VJP(c) + b·VJP(d), for large and small a and b."""
    outcome = Outcome()
    rule, leaves = trial.rule, trial.subject.leaves
    far = 1e6 if rule.wide else 1e3  # what float16 holds
    bad: dict[str, tuple[Leaf, Sample]] = {}
    for x in points:
        for scale in (1.0, far, 1 / far):
            c, d = trial.cotangent(rng), trial.cotangent(rng)
            a, b = 2.0 * scale, -3.0 * scale

            def both(x: Vector, cd: Vector, a: float = a, b: float = b) -> Vector:
                first, second = np.split(cd, 2)
                return rule(x, a * first + b * second)

            def apart(x: Vector, cd: Vector, a: float = a, b: float = b) -> Vector:
                first, second = np.split(cd, 2)
                return a * rule(x, first) + b * rule(x, second)

            sample = compare(
                both, apart, x, np.concatenate([c, d]), leaves, trial.eps_rule, rng, "linearity"
            )
            for leaf in leaves:
                # What is not finite on one side only is for `gradient` and `nan` to name.
                finite = np.isfinite(sample.got) & np.isfinite(sample.expected)
                wrong = sample.wrong(leaf) & finite[leaf.part]
                if not wrong.any() or leaf.name in bad:
                    continue
                if not _rounded_apart(trial, sample, leaf, c, d, (a, b), rng):
                    bad[leaf.name] = (leaf, sample)
    for leaf, sample in bad.values():
        word, why = _kind_of_nonlinear(trial, leaf, points[-1], rng)
        outcome.found(
            Finding("linear", leaf.name, word, why, "rule", **numbers(sample, leaf))  # type: ignore[arg-type]
        )
    if not bad:
        outcome.row("linear", True, f"linear in the cotangent from {1 / far:.0e} to {far:.0e}")
    return outcome


def _rounded_apart(
    trial: Trial,
    sample: Sample,
    leaf: Leaf,
    c: Vector,
    d: Vector,
    factors: tuple[float, float],
    rng: np.random.Generator,
) -> bool:
    """Whether rounding explains it: that of a saturated softmax, y(c - y·c), is of c's own size."""
    a, b = factors
    with trial.rule.mode():
        second = trial.rule.cotangents(b * d)

    def asked(fn: LeafFunction) -> Callable[..., Any]:
        vjp = vjp_of(fn)

        def apart(leaves: Leaves, others: Leaves, cts: Leaves) -> Leaves:
            first, then = vjp(leaves, others, cts)[1], vjp(leaves, others, second)[1]
            return [u + v for u, v in zip(first, then, strict=True)]

        return apart

    one = dataclasses.replace(sample, c=a * c)
    return trial.excuse(one, leaf, rng, asked, sides=(trial.rule,)) is not None


def _kind_of_nonlinear(
    trial: Trial, leaf: Leaf, x: Vector, rng: np.random.Generator
) -> tuple[str, str]:
    """A clipped cotangent is right while small and bounded when large: the message says so."""
    c = trial.cotangent(rng)
    small, large = 1e-6 * c, 1e6 * c
    truth = trial.truth(x, small)[leaf.part]
    size = float(np.abs(truth).max(initial=0.0))
    right_when_small = np.allclose(
        trial.rule(x, small)[leaf.part], truth, rtol=1e-4, atol=1e-4 * size
    )
    bounded = np.abs(trial.rule(x, large)[leaf.part]).max(initial=0.0) < 1e-2 * 1e12 * size
    sentence = "the cotangent is not linear in the incoming one"
    if size and right_when_small and bounded:
        sentence += ": right while small and bounded when large, it is clipped (on purpose?)"
    return "nonlinear", sentence


def finite(trial: Trial, rng: np.random.Generator) -> Outcome:
    """A finite cotangent wherever value and autodiff are finite: huge inputs, zeros among them."""
    outcome = Outcome()
    x, leaves = trial.subject.x, trial.subject.leaves
    given = trial.given
    truth = trial.remember("truth-as-given", lambda: trial.as_given(trial.truth_fn))
    probes = (
        ("the given arguments", x),
        ("arguments of size 1e4", trial.rounded(inputs.enlarged(trial.subject, HUGE))),
        ("some entries zero", trial.rounded(inputs.with_zeros(trial.subject, rng))),
    )
    for label, probe in probes:
        c = trial.cotangent(rng)
        value = given.value(probe)
        if not np.all(np.isfinite(value)) or not np.all(np.isfinite(probe)):
            continue
        got, expected = given(probe, c), truth(probe, c)
        if probe is x:
            expected = _differenced(trial, x, c, got, expected, rng)
        for leaf in leaves:
            bad = ~np.isfinite(got[leaf.part]) & np.isfinite(expected[leaf.part])
            if not bad.any() or any(f.argument == leaf.name for f in outcome.findings):
                continue
            if probe is not x and not np.isnan(got[leaf.part][bad]).any():
                outcome.notes.append(
                    f"at {label} the cotangent of `{leaf.name}` is not finite where autodiff is"
                )
                continue
            place = int(np.argmax(bad))
            outcome.found(
                Finding(
                    "nan",
                    leaf.name,
                    "nan",
                    f"at {label} the cotangent is not finite ({int(bad.sum())} of {leaf.size} "
                    "entries); the value is, and autodiff or finite differences are",
                    "rule",
                    tuple(int(i) for i in np.unravel_index(place, leaf.shape)),
                    float(got[leaf.start + place].real),
                    float(expected[leaf.start + place].real),
                )
            )
    if not outcome.findings:
        outcome.row(
            "nan",
            True,
            "finite where value and autodiff are"
            if not outcome.notes
            else "finite at the given arguments; " + "; ".join(outcome.notes),
        )
    return outcome


def _differenced(
    trial: Trial, x: Vector, c: Vector, got: Vector, expected: Vector, rng: np.random.Generator
) -> Vector:
    """`expected`, with finite differences where neither rule nor autodiff is finite."""
    places = np.flatnonzero(~np.isfinite(got) & ~np.isfinite(expected))
    if not places.size or not trial.subject.is_real:
        return expected
    expected = expected.copy()
    differences = trial.differences(x, rng)
    for index in places[:16]:
        slope = differences.entry(int(index))
        with np.errstate(invalid="ignore"):
            value = float(np.sum(c * slope.value).real)
            error = float(np.sum(np.abs(c) * slope.error))
        if np.isfinite(value) and error <= 1e-3 * max(abs(value), float(np.abs(c).max())):
            expected[index] = value
    return expected


_TYPES = re.compile(
    r"produced an output of type (\w+)\[([\d,]*)\].*input of type (\w+)\[([\d,]*)\]"
)
_PATH = re.compile(r"at output\[(\d+)\](\S*)")


def _refused(trial: Trial, error: Exception) -> Finding:
    """What JAX had to say about the rule's cotangents, in the words of a finding."""
    text = str(error)
    types, path = _TYPES.search(text.replace("\n", " ")), _PATH.search(text)
    argument = _argument(trial, path) if path else None
    if types:
        got, expected = _shape(types[2]), _shape(types[4])
        if got != expected:
            if _broadcasts(expected, got) and np.prod(got) > np.prod(expected):
                return Finding(
                    "structure",
                    argument,
                    "not-reduced",
                    f"the cotangent has the shape {list(got)} of a broadcast; the argument's is "
                    f"{list(expected)}: sum it over the axes that were broadcast",
                    "rule",
                )
            return Finding(
                "structure",
                argument,
                "shape",
                f"the cotangent has shape {list(got)}, its primal {list(expected)}",
                "rule",
            )
        return Finding(
            "structure", argument, "dtype", f"cotangent {types[1]}, primal {types[3]}", "rule"
        )
    if "bwd rule" in text or "fwd rule" in text or "pytree" in text:
        first = text.strip().splitlines()[0][:400]
        return Finding("structure", None, "structure", first, "rule")
    return Finding(
        "structure",
        None,
        "structure",
        f"the backward pass raises {type(error).__name__}: {text.strip()[:300]}",
        "rule",
    )


def _argument(trial: Trial, path: re.Match[str]) -> str | None:
    held = getattr(trial.subject.fn, "nondiff_argnums", None)
    if held is None:
        return None  # the rule sits inside: its arguments are not the function's
    names = [n for i, n in enumerate(trial.subject.argument_names) if i not in held]
    position = int(path[1])
    return names[position] + path[2].rstrip(",.") if position < len(names) else None


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False
