"""The function without one of its steps, for whoever asks what such a backward would answer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxbp.verify import primal
from jaxbp.verify.subject import QUICK, LeafFunction, Leaves, Pullback, Subject, Vector, pack

_PASSING = {"add", "sub", "mul", "div", "max", "min", "select_n", "pow"}
_UNARY = {
    "cos", "erf", "exp", "expm1", "log", "log1p", "logistic", "rsqrt", "sin", "sqrt", "square",
    "tan", "tanh", "integer_pow", "abs", "neg",
}  # fmt: skip


class Shortened:
    """The VJP of a function without one of its steps, whichever is asked for, compiled once."""

    def __init__(self, subject: Subject, fn: LeafFunction, pullback: Pullback) -> None:
        self.subject, self.fn, self.pullback = subject, fn, pullback
        self.steps: list[str] = []
        leaves = subject.cast(subject.x, pullback.dtype)
        with pullback.mode():
            jax.eval_shape(self._without, leaves, subject.others, np.int32(-1))
        self._run = jax.jit(self._vjp, compiler_options=QUICK)

    def answer(self, x: Vector, c: Vector, step: int) -> Vector:
        """The VJP without this step; -1: with all of them."""
        with self.pullback.mode():
            leaves = self.subject.cast(x, self.pullback.dtype)
            cts = self.pullback.cotangents(c)
            return pack(self._run(leaves, self.subject.others, np.int32(step), cts))

    def _vjp(self, leaves: Leaves, others: Leaves, step: Any, cts: Leaves) -> Leaves:
        _, pull = jax.vjp(lambda ls: self._without(ls, others, step), leaves)
        return list(pull(cts)[0])

    def _without(self, leaves: Leaves, others: Leaves, step: Any) -> Leaves:
        self.steps = []
        program = jax.make_jaxpr(self.fn)(leaves, others)

        def apply(eqn: Any, operands: list[Any]) -> list[Any]:
            results = primal.bind(eqn, eqn.params, operands)
            for i in _passed_on(eqn):
                other = jnp.broadcast_to(operands[i], results[0].shape)
                results = [jnp.where(step == len(self.steps), other, results[0])]
                self.steps.append(f"`{eqn.primitive.name}` (its operand {i} passed on)")
            return results

        return primal.walk(program, [*leaves, *others], apply, primal.inlined_wholly)


def _passed_on(eqn: Any) -> list[int]:
    """Which operands could be the result if the step were left out."""
    name = eqn.primitive.name
    if name not in _PASSING | _UNARY:
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
