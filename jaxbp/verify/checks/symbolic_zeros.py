"""A rule of `symbolic_zeros=True` is told what is not asked: is it still right about the rest?

`jax.vjp` of everything at once tells it nothing. So one argument at a time is differentiated by,
the others held, and one output at a time used; what comes must be the answer to the whole question.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare.sample import compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject import programs
from jaxbp.verify.subject.subject import Vector, pack
from jaxbp.verify.trial import Trial

NAME = "symbolic-zeros"


def check(trial: Trial, rng: np.random.Generator) -> Outcome:
    """Every argument and every output alone, against the rule's answer to all of them."""
    outcome = Outcome()
    subject, rule = trial.subject, trial.rule
    with rule.mode():
        leaves = [jnp.asarray(v) for v in subject.cast(subject.x, rule.dtype)]
        if not programs.asks_for_symbolic_zeros(programs.trace(rule.fn, leaves, subject.others)):
            return outcome
    outputs = range(len(rule.outputs()))
    one_by_one: list[int | None] = [None, *range(len(leaves))] if len(leaves) > 1 else [None]
    asked: list[tuple[int | None, int | None]] = [(by, None) for by in one_by_one[1:]]
    asked += [(by, j) for by in one_by_one for j in outputs if len(outputs) > 1]
    c = trial.cotangent(rng)
    for by, output in asked:
        cts = [
            ct if output in (None, j) else np.zeros_like(ct)
            for j, ct in enumerate(rule.cotangents(c))
        ]
        by_these = [leaf for k, leaf in enumerate(subject.leaves) if by in (None, k)]
        whose = f"by `{by_these[0].name}` alone" if by is not None else "by every argument"
        whose += "" if output is None else f", of output {output} alone"
        try:
            got = _alone(trial, leaves, by, output, cts)
        except Exception as error:  # anybody's code runs here
            outcome.found(
                Finding(
                    NAME,
                    by_these[0].name if by is not None else None,
                    "structure",
                    f"differentiated {whose}, the rule raises {type(error).__name__}: "
                    f"{str(error).strip()[:200]}; what is not asked comes as a `SymbolicZero`, "
                    "and what is not differentiated by has `perturbed=False`",
                    "rule",
                )
            )
            return outcome
        sample = compare(
            lambda _x, _c, got=got: got,  # type: ignore[misc]
            rule,
            subject.x,
            pack(cts),
            subject.leaves,
            trial.eps,
            rng,
            whose,
        )
        for leaf in by_these:
            if sample.wrong(leaf).any():
                outcome.found(
                    Finding(
                        NAME,
                        leaf.name,
                        "missing-term" if got[leaf.part].any() else "zero",
                        f"differentiated {whose}, the cotangent is not the one that comes when "
                        "everything is asked for: look at what the rule does with a "
                        "`SymbolicZero` and with `perturbed`",
                        "rule",
                        **numbers(sample, leaf),  # type: ignore[arg-type]
                    )
                )
                return outcome
    outcome.row(NAME, True, f"the same answer in {len(asked)} parts")
    return outcome


def _alone(
    trial: Trial, leaves: list[Any], by: int | None, output: int | None, cts: list[Any]
) -> Vector:
    """The cotangents, zero for what is held."""
    others = trial.subject.others

    def part(*some: Any) -> list[Any]:
        full = list(some) if by is None else [*leaves[:by], *some, *leaves[by + 1 :]]
        results = trial.rule.fn(full, others)
        return results if output is None else [results[output]]

    with trial.rule.mode():
        _, pull = jax.vjp(part, *(leaves if by is None else [leaves[by]]))
        answer = pull(cts if output is None else [cts[output]])
    if by is None:
        return pack(answer)
    full = [np.zeros_like(leaf) for leaf in leaves]
    full[by] = np.asarray(answer[0])
    return pack(full)
