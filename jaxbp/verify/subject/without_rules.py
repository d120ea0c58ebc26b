"""A function without its hand-written rules: each `custom_vjp` replaced by its primal.

Works on the traced program, so the rule may sit anywhere: in a jitted helper, a scan, a branch.
"""

from typing import Any

import jax

from jaxbp.verify.subject import programs
from jaxbp.verify.subject.vectors import LeafFunction, Leaves


def without_rules(fn: LeafFunction) -> LeafFunction:
    """`fn` with each `custom_vjp` call replaced by its primal."""

    def plain(leaves: Leaves, others: Leaves) -> Leaves:
        program = jax.make_jaxpr(fn)(leaves, others)
        return _evaluate(program, [*leaves, *others])

    return plain


def _evaluate(program: Any, args: list[Any]) -> list[Any]:
    """Run a closed jaxpr, with its rules replaced by their primals."""
    return programs.walk(
        program, args, lambda eqn, args: programs.bind(eqn, _params_without_rules(eqn), args)
    )


def _params_without_rules(eqn: Any) -> dict[str, Any]:
    def replaced(value: Any) -> Any:
        if isinstance(value, tuple) and any(map(programs.is_program, value)):
            return tuple(map(replaced, value))
        if not programs.is_program(value) or not programs.has_rule(value):
            return value
        return programs.rewritten(value, _evaluate)

    if not any(map(programs.has_rule, programs.sub_programs(eqn))):
        return eqn.params
    return {key: replaced(value) for key, value in eqn.params.items()}
