"""A rule of `symbolic_zeros=True` is told what is not asked: is it still right about the rest?

`jax.vjp` of everything at once tells it nothing. So one argument at a time is differentiated by,
the others held, and one output at a time used; what comes must be the answer to the whole question.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.compare.sample import compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import programs
from jaxbp.verify.subject.raised import named
from jaxbp.verify.subject.vectors import Leaf, Vector, pack
from jaxbp.verify.trial import Trial

NAME = "symbolic-zeros"


class _Part(NamedTuple):
    """A part of the whole question."""

    by: int | None
    """The number of the leaf that is differentiated by; None: all are."""
    output: int | None
    """The number of the output that is used; None: all are."""


def check(trial: Trial, _: list[Vector], rng: np.random.Generator) -> Outcome:
    """Every argument and every output alone, against the rule's answer to all of them."""
    outcome = Outcome()
    rule = trial.rule
    with rule.mode():
        leaves = [jnp.asarray(v) for v in trial.subject.cast(trial.subject.x, rule.dtype)]
        program = programs.trace(rule.fn, leaves, trial.subject.others)
    if not programs.asks_for_symbolic_zeros(program):
        return outcome
    parts = _parts(len(leaves), len(rule.outputs()))
    c = trial.cotangent(rng)
    for part in parts:
        wrong = _wrong_in(trial, leaves, part, c, rng)
        if wrong is not None:
            outcome.found(wrong)
            return outcome
    outcome.row(NAME, True, f"the same answer in {len(parts)} parts")
    return outcome


def _parts(leaves: int, outputs: int) -> list[_Part]:
    by_each: list[int | None] = [None, *range(leaves)] if leaves > 1 else [None]
    parts = [_Part(by, None) for by in by_each[1:]]
    return parts + [_Part(by, j) for by in by_each for j in range(outputs) if outputs > 1]


def _wrong_in(
    trial: Trial, leaves: list[Any], part: _Part, c: Vector, rng: np.random.Generator
) -> Finding | None:
    """What is wrong with the answer to one part of the question."""
    by_these = [v for k, v in enumerate(trial.subject.leaves) if part.by in (None, k)]
    how = _said(part, by_these)
    cts = [
        ct if part.output in (None, j) else np.zeros_like(ct)
        for j, ct in enumerate(trial.rule.cotangents(c))
    ]
    try:
        got = _alone(trial, leaves, part, cts)
    except Exception as error:  # anybody's code runs here
        message = (
            f"differentiated {how}, the rule raises {named(error)}; what is not asked comes as a "
            "`SymbolicZero`, and what is not differentiated by has `perturbed=False`"
        )
        argument = None if part.by is None else by_these[0].name
        return finding(NAME, "structure", message, argument=argument)
    x, all_leaves = trial.subject.x, trial.subject.leaves
    sample = compare(lambda _x, _c: got, trial.rule, x, pack(cts), all_leaves, trial.eps, rng, how)
    for leaf in by_these:
        if sample.wrong(leaf).any():
            message = (
                f"differentiated {how}, the cotangent is not the one that comes when everything "
                "is asked for: look at what the rule does with a `SymbolicZero` and with "
                "`perturbed`"
            )
            word = "missing-term" if got[leaf.part].any() else "zero"
            return finding(NAME, word, message, argument=leaf.name, at=sample.worst(leaf))
    return None


def _said(part: _Part, by_these: list[Leaf]) -> str:
    by = "every argument" if part.by is None else f"`{by_these[0].name}` alone"
    return f"by {by}" + ("" if part.output is None else f", of output {part.output} alone")


def _alone(trial: Trial, leaves: list[Any], part: _Part, cts: list[Any]) -> Vector:
    """The cotangents, zero for what is held."""
    by, output = part

    def of_some(*some: Any) -> list[Any]:
        full = list(some) if by is None else [*leaves[:by], *some, *leaves[by + 1 :]]
        results = trial.rule.fn(full, trial.subject.others)
        return results if output is None else [results[output]]

    with trial.rule.mode():
        _, pull = jax.vjp(of_some, *(leaves if by is None else [leaves[by]]))
        answer = pull(cts if output is None else [cts[output]])
    if by is None:
        return pack(answer)
    full = [np.zeros_like(leaf) for leaf in leaves]
    full[by] = np.asarray(answer[0])
    return pack(full)
