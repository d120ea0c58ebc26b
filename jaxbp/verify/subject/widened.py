"""A function and its rule with every step in float64, also those written down in half precision.

A derivative of a few digits could be anything: with them rounding alone explains a missing factor.
The formulas are judged without it; how they round is what `precision` measures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.subject import programs
from jaxbp.verify.subject.primitives import AS_WRITTEN
from jaxbp.verify.subject.pullback import vjp_of
from jaxbp.verify.subject.vectors import LeafFunction, Leaves


def widened(fn: LeafFunction) -> LeafFunction:
    """`fn`, its derivative the one that `fn` has, each step of both in float64."""

    def differentiated(leaves: Leaves, others: Leaves) -> Leaves:
        return list(jax.vjp(lambda *ls: fn(list(ls), others), *leaves)[0])

    @jax.custom_vjp
    def wide(leaves: Leaves, others: Leaves) -> Leaves:
        return _evaluate(programs.trace(fn, leaves, others), [*leaves, *others])

    def forward(leaves: Leaves, others: Leaves) -> tuple[Leaves, tuple[Leaves, Leaves]]:
        program = programs.trace(differentiated, leaves, others)
        return _evaluate(program, [*leaves, *others]), (leaves, others)

    def backward(kept: tuple[Leaves, Leaves], cts: Leaves) -> tuple[Leaves, None]:
        outputs = jax.eval_shape(fn, *kept)
        program = programs.trace(lambda *args: vjp_of(fn)(*args)[1], *kept, outputs)
        return _evaluate(program, [*kept[0], *kept[1], *cts]), None

    wide.defvjp(forward, backward)
    return wide


def _evaluate(program: Any, args: list[Any]) -> list[Any]:
    return programs.walk(program, args, _apply, programs.inlined_wholly, _wide)


def _apply(eqn: Any, operands: list[Any]) -> list[Any]:
    if eqn.primitive.name == "reduce_precision":
        return operands
    if eqn.primitive.name in AS_WRITTEN:
        given = [
            jnp.asarray(v).astype(atom.aval.dtype) if _is_inexact(v) else v
            for v, atom in zip(operands, eqn.invars, strict=True)
        ]
        return [_wide(result) for result in programs.bind(eqn, eqn.params, given)]
    return programs.bind(eqn, {k: _parameter(v) for k, v in eqn.params.items()}, operands)


def _parameter(value: Any) -> Any:
    if isinstance(value, tuple) and any(map(programs.is_program, value)):
        return tuple(map(_parameter, value))
    if programs.is_program(value):
        return programs.rewritten(value, _evaluate, lambda aval: _wide_dtype(aval.dtype))
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return _wide_dtype(value)
    return value


def _wide(value: Any) -> Any:
    return jnp.asarray(value).astype(_wide_dtype(value.dtype)) if _is_inexact(value) else value


def _wide_dtype(dtype: Any) -> Any:
    if not jnp.issubdtype(dtype, jnp.inexact):
        return dtype
    return np.dtype(np.float64 if jnp.issubdtype(dtype, jnp.floating) else np.complex128)


def _is_inexact(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.inexact))
