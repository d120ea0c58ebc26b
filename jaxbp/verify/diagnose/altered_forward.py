"""The function without one of its steps, or with the derivative of a scan's step taken too late.

For whoever asks what a backward that makes such a mistake would answer.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxbp.verify.subject import programs
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.primitives import LEAVABLE
from jaxbp.verify.subject.pullback import QUICK, Pullback
from jaxbp.verify.subject.vectors import LeafFunction, Leaves, Vector, pack


class Step(NamedTuple):
    """A place where the function can be changed."""

    word: str
    """What to call the mistake of a backward that changes it."""
    change: str
    """Goes on from "the function"."""


class Altered:
    """The VJP of a function with one step changed, whichever is asked for, compiled once."""

    def __init__(self, subject: Subject, fn: LeafFunction, pullback: Pullback) -> None:
        self.subject, self.fn, self.pullback = subject, fn, pullback
        self.steps: list[Step] = []
        leaves = subject.cast(subject.x, pullback.dtype)
        with pullback.mode():
            jax.eval_shape(self._changed, leaves, subject.others, np.int32(-1))
        self._run = jax.jit(self._vjp, compiler_options=QUICK)

    def answer(self, x: Vector, c: Vector, step: int) -> Vector:
        """The VJP with this step changed; -1: with all as they are."""
        with self.pullback.mode():
            leaves = self.subject.cast(x, self.pullback.dtype)
            cts = self.pullback.cotangents(c)
            return pack(self._run(leaves, self.subject.others, np.int32(step), cts))

    def _vjp(self, leaves: Leaves, others: Leaves, step: Any, cts: Leaves) -> Leaves:
        _, pull = jax.vjp(lambda ls: self._changed(ls, others, step), leaves)
        return list(pull(cts)[0])

    def _changed(self, leaves: Leaves, others: Leaves, step: Any) -> Leaves:
        self.steps = []
        program = jax.make_jaxpr(self.fn)(leaves, others)

        def apply(eqn: Any, operands: list[Any]) -> list[Any]:
            results = programs.bind(eqn, eqn.params, operands)
            for i in _passed_on(eqn):
                other = jnp.broadcast_to(operands[i], results[0].shape)
                results = [jnp.where(step == len(self.steps), other, results[0])]
                what = f"without its `{eqn.primitive.name}` (its operand {i} passed on)"
                self.steps.append(Step("missing-term", what))
            if eqn.primitive.name == "scan":
                late = _differentiated_late(eqn, operands)
                chosen = step == len(self.steps)
                results = [jnp.where(chosen, a, b) for a, b in zip(late, results, strict=True)]
                what = "with each step of its scan differentiated at the state after it"
                self.steps.append(Step("shifted", what))
            return results

        return programs.walk(program, [*leaves, *others], apply, programs.inlined_wholly)


def _differentiated_late(eqn: Any, operands: list[Any]) -> list[Any]:
    """A scan with its own values, each step's derivative taken at the state that it hands on."""
    p = eqn.params
    n_consts, n_carry = programs.scan_sizes(p, len(operands))
    consts, init = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    body = core.jaxpr_as_fun(p["jaxpr"])

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        out = body(*consts, *carry, *slices)
        after = [_with_value(c, o) for c, o in zip(carry, out[:n_carry], strict=True)]
        late = body(*consts, *after, *slices)
        out = [_with_value(a, b) for a, b in zip(late, out, strict=True)]
        return out[:n_carry], out[n_carry:]

    xs = operands[n_consts + n_carry :]
    carry, ys = jax.lax.scan(step, init, xs, p["length"], reverse=p["reverse"])
    return [*carry, *ys]


def _with_value(x: Any, value: Any) -> Any:
    """`value`, with the derivative of `x`; where there is none, as in integers, `x`."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return x + jax.lax.stop_gradient(value - x)


def _passed_on(eqn: Any) -> list[int]:
    """Which operands could be the result if the step were left out."""
    if eqn.primitive.name not in LEAVABLE:
        return []
    out = eqn.outvars[0].aval
    return [
        i
        for i, v in enumerate(eqn.invars)
        if not isinstance(v, core.Literal)
        and v.aval.dtype == out.dtype
        and v.aval.shape == out.shape
        and jnp.issubdtype(out.dtype, jnp.floating)
    ]
