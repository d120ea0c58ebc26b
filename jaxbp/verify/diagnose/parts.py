"""The derivative with gates set, on vectors, and the values that the function computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.diagnose.gated import Gated, Kind
from jaxbp.verify.subject import programs
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import QUICK, Pullback
from jaxbp.verify.subject.vectors import LeafFunction, Leaves, Vector, pack

LARGEST_VALUE = 10_000
"""Values of more entries are not looked at."""


class Parts:
    """The VJP of a gated function on vectors, for any setting of the gates."""

    def __init__(self, subject: Subject, fn: LeafFunction, pullback: Pullback) -> None:
        self.subject, self.pullback = subject, pullback
        self.gated = Gated(fn)
        leaves = subject.cast(subject.x, pullback.dtype)
        with pullback.mode():
            self.gated.allocate(leaves, subject.others)
        self.gates = self.gated.gates
        self._orders = {
            g.index: np.arange(int(np.prod(g.shape, dtype=int)))
            for g in self.gates
            if g.kind in (Kind.OPERAND, Kind.RESULT)
        }
        self._run = jax.jit(self._vjp, compiler_options=QUICK)
        self._names: list[str] = []
        self._values = jax.jit(self._seen, compiler_options=QUICK)

    def _vjp(
        self, leaves: Leaves, others: Leaves, weights: Any, orders: Any, cts: Leaves
    ) -> Leaves:
        _, pull = jax.vjp(lambda ls: self.gated(ls, others, weights, orders), leaves)
        return list(pull(cts)[0])

    def _seen(self, leaves: Leaves, others: Leaves) -> list[Any]:
        named: list[tuple[str, Any]] = []

        def apply(eqn: Any, operands: list[Any]) -> list[Any]:
            results = programs.bind(eqn, eqn.params, operands)
            named.extend((f"`{eqn.primitive.name}`", r) for r in results)
            return results

        program = jax.make_jaxpr(self.gated.fn)(leaves, others)
        out = programs.walk(program, [*leaves, *others], apply)
        named += [("the output", v) for v in out]
        named = [
            (n, v)
            for n, v in named
            if jnp.issubdtype(jnp.result_type(v), jnp.inexact) and v.size <= LARGEST_VALUE
        ]
        self._names = [n for n, _ in named]
        return [v for _, v in named]

    def values(self, x: Vector) -> list[tuple[str, np.ndarray]]:
        """Every real intermediate value at `x`, with the name of the operation that made it."""
        with self.pullback.mode():
            seen = self._values(self.subject.cast(x, self.pullback.dtype), self.subject.others)
        named = zip(self._names, seen, strict=True)
        return [(n, np.asarray(v, float)) for n, v in named if not np.iscomplexobj(v)]

    def whole(self) -> np.ndarray:
        """The weights of the function's own derivative."""
        return self.gated.whole()

    def answer(
        self, x: Vector, c: Vector, weights: np.ndarray, orders: dict[int, np.ndarray] | None = None
    ) -> Vector:
        """The VJP with these gates; `orders` rearranges the operands of some."""
        with self.pullback.mode():
            return pack(
                self._run(
                    self.subject.cast(x, self.pullback.dtype),
                    self.subject.others,
                    weights,
                    {**self._orders, **(orders or {})},
                    self.pullback.cotangents(c),
                )
            )
