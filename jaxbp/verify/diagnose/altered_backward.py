"""The reference's backward program, with another number put in the place of any value in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.subject import programs
from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.pullback import QUICK, Pullback
from jaxbp.verify.subject.vectors import LeafFunction, Leaves, Vector, pack

LARGEST = 4096
"""Values of more entries are not replaced …"""
MOST_VALUES = 120
"""… and of the others the first so many."""
NOTHING = np.zeros(0)


class Value(NamedTuple):
    """A value that the backward program uses."""

    primitive: str | None
    """The operation that makes it; None: it is a residual."""
    shape: tuple[int, ...]
    summed: int | None = None
    """For a sum: the number of the value that is summed."""
    axes: tuple[int, ...] = ()
    """For a sum: over which axes."""

    @property
    def what(self) -> str:
        """What a sentence calls it."""
        return "a residual" if self.primitive is None else f"`{self.primitive}`"


class Backward:
    """The VJP of a function, with one of its values replaced."""

    def __init__(self, subject: Subject, fn: LeafFunction, pullback: Pullback) -> None:
        self.subject, self.fn, self.pullback = subject, fn, pullback
        self.known: list[Value] = []
        leaves = subject.cast(subject.x, pullback.dtype)
        cts = [np.zeros(out.shape, out.dtype) for out in pullback.outputs()]
        with pullback.mode():
            nothing = np.zeros(MOST_VALUES, np.int32), np.zeros(LARGEST)
            jax.eval_shape(self._run, leaves, subject.others, cts, *nothing)
        self._values = jax.jit(lambda *args: self._run(*args)[1], compiler_options=QUICK)
        self._answer = jax.jit(lambda *args: self._run(*args)[0], compiler_options=QUICK)

    def values(self, x: Vector, c: Vector) -> list[np.ndarray]:
        """Every value of `known`."""
        return [np.asarray(v, float) for v in self._called(self._values, x, c)]

    def answer(
        self, x: Vector, c: Vector, numbers: Sequence[int] = (), other: np.ndarray = NOTHING
    ) -> Vector:
        """The VJP with `other` in the place of the values of these numbers.

        Where the value is a matrix and its number is ~k, the transpose of `other` instead.
        """
        return pack(self._called(self._answer, x, c, numbers, other))

    def _called(
        self,
        run: Any,
        x: Vector,
        c: Vector,
        numbers: Sequence[int] = (),
        other: np.ndarray = NOTHING,
    ) -> Leaves:
        replaced, padded = np.zeros(MOST_VALUES, np.int32), np.zeros(LARGEST)
        for number in numbers:
            replaced[max(number, ~number)] = 1 if number >= 0 else 2
        padded[: other.size] = other.reshape(-1)
        with self.pullback.mode():
            leaves = self.subject.cast(x, self.pullback.dtype)
            cts = self.pullback.cotangents(c)
            return list(run(leaves, self.subject.others, cts, replaced, padded))

    def _run(
        self, leaves: Leaves, others: Leaves, cts: Leaves, replaced: Any, other: Any
    ) -> tuple[Leaves, Leaves]:
        self.known = []
        seen: Leaves = []
        numbers: dict[int, int] = {}  # by the identity of what stands in for a value

        def replaceable(value: Any, **fields: Any) -> Any:
            if (
                not 1 < value.size <= LARGEST
                or not jnp.issubdtype(value.dtype, jnp.floating)
                or len(seen) >= MOST_VALUES
            ):
                return value
            laid = other[: value.size].astype(value.dtype)
            how = replaced[len(seen)]
            given = jnp.where(how == 1, laid.reshape(value.shape), value)
            if value.ndim == 2:
                given = jnp.where(how == 2, laid.reshape(value.shape[::-1]).T, given)
            numbers[id(given)] = len(seen)
            kept.append(given)
            self.known.append(Value(shape=tuple(value.shape), **fields))
            seen.append(value)
            return given

        kept: list[Any] = []  # alive, so that no identity is used twice

        def apply(eqn: Any, operands: list[Any]) -> list[Any]:
            fields: dict[str, Any] = {"primitive": eqn.primitive.name}
            if eqn.primitive.name == "reduce_sum":
                axes, whole = tuple(eqn.params["axes"]), numbers.get(id(operands[0]))
                fields |= {"summed": whole, "axes": axes}
            return [replaceable(r, **fields) for r in programs.bind(eqn, eqn.params, operands)]

        _, pull = jax.vjp(lambda ls: self.fn(ls, others), leaves)
        program = jax.make_jaxpr(pull)(cts)
        residuals = [replaceable(jnp.asarray(v), primitive=None) for v in program.consts]
        program = type(program)(program.jaxpr, residuals)
        return programs.walk(program, list(cts), apply), seen
