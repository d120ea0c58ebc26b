"""A function's traced program: walked step by step, searched, compared."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxbp.verify.subject.primitives import CALLS, HIDING
from jaxbp.verify.subject.vectors import eps_of


def walk(
    program: Any,
    args: list[Any],
    apply: Callable[[Any, list[Any]], list[Any]],
    inline: Callable[[Any], Any | None] | None = None,
    constant: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """Run a closed jaxpr, whatever its values are.

    `apply(equation, operands)` does each step, but for the calls whose program `inline` knows
    (those of `inlined_program` by default); `constant(value)` stands for each number in it.
    """
    inline = inline or inlined_program
    jaxpr = program.jaxpr
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, map(constant, program.consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        inner = inline(eqn)
        results = (
            apply(eqn, operands)
            if inner is None
            else walk(inner, operands, apply, inline, constant)
        )
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def inlined_program(eqn: Any) -> Any | None:
    """The closed jaxpr that a call is the same as, or None where it is no plain call."""
    name = eqn.primitive.name
    if name == "custom_jvp_call" and has_rule(eqn.params["call_jaxpr"]):
        return closed(eqn.params["call_jaxpr"])
    if name == "custom_vmap_call":
        return closed(eqn.params["call"])
    if name not in CALLS:
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None if inner is None else closed(inner)


def inlined_wholly(eqn: Any) -> Any | None:
    """As `inlined_program`, of the calls too that a derivative of their own or remat hides."""
    if eqn.primitive.name in HIDING:
        return closed(eqn.params.get("call_jaxpr", eqn.params.get("jaxpr")))
    return inlined_program(eqn)


def bind(eqn: Any, params: dict[str, Any], operands: list[Any]) -> list[Any]:
    """Apply an equation's primitive to other operands."""
    result = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return list(result) if eqn.primitive.multiple_results else [result]


def rewritten(
    program: Any,
    run: Callable[[Any, list[Any]], list[Any]],
    dtype: Callable[[Any], Any] = lambda aval: aval.dtype,
) -> Any:
    """An equation's program as `run` runs it, of inputs of other dtypes."""
    whole = closed(program)
    avals = [aval.update(dtype=dtype(aval)) for aval in whole.in_avals]
    traced = jax.make_jaxpr(lambda *args: run(whole, list(args)))(*avals)
    return traced if type(program) is type(whole) else traced.jaxpr


def is_program(value: Any) -> bool:
    """Return whether an equation's parameter is itself a traced program."""
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def closed(program: Any) -> Any:
    """A program with its constants, of which an equation's bare one has none."""
    if isinstance(program, core.ClosedJaxpr):
        return program
    return core.ClosedJaxpr(program, ())


def sub_programs(eqn: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in eqn.params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            if is_program(entry):
                yield entry


def equations(program: Any) -> Iterator[Any]:
    """Every equation of a program, those of inner programs too."""
    for eqn in getattr(program, "jaxpr", program).eqns:
        yield eqn
        for inner in sub_programs(eqn):
            yield from equations(inner)


def has_rule(program: Any) -> bool:
    """Whether a `custom_vjp` is called anywhere in it."""
    return any(eqn.primitive.name == "custom_vjp_call" for eqn in equations(program))


def asks_for_symbolic_zeros(program: Any) -> bool:
    """Whether a `custom_vjp` in it wants to know what is not differentiated."""
    return any(eqn.params.get("symbolic_zeros") is True for eqn in equations(program))


def coarsest_eps(program: Any) -> float:
    """The rounding unit of the narrowest floating dtype that a program computes in."""
    eps = eps_of(np.float64)
    for eqn in equations(program):
        for var in eqn.outvars:
            dtype = getattr(var.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and var.aval.size:
                eps = max(eps, eps_of(dtype))
    return eps


def stops_gradients(program: Any) -> bool:
    """Whether it says somewhere that a value shall pass no derivative on."""
    return any(eqn.primitive.name == "stop_gradient" for eqn in equations(program))


def same(a: Any, b: Any) -> bool:
    """Whether two closed jaxprs compute the same, their numbers included."""
    return _text(a) == _text(b) and all(
        map(functools.partial(np.array_equal, equal_nan=True), _numbers(a), _numbers(b))
    )


def _text(program: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", str(program))  # functions are printed with their address


def _numbers(program: Any) -> list[Any]:
    """The arrays that stand in a program, which its text does not show."""
    literals = [
        v.val for eqn in equations(program) for v in eqn.invars if isinstance(v, core.Literal)
    ]
    return [np.asarray(v) for v in (*program.consts, *literals)]


def trace(fn: Callable[..., Any], *args: Any) -> Any:
    """The closed jaxpr of `fn` at these arguments."""
    return jax.make_jaxpr(fn)(*args)


class ScanSizes(NamedTuple):
    """How many operands of a scan are the same in each step, and how many are handed on."""

    constants: int
    carried: int


def scan_sizes(params: Any, count: int) -> ScanSizes:
    """Those of a scan of `count` operands; newer JAX keeps them as a tree."""
    if "num_consts" in params:
        return ScanSizes(params["num_consts"], params["num_carry"])
    consts, carry, _ = params["ft_in"].update(range(count)).unpack()
    return ScanSizes(len(list(consts)), len(list(carry)))
