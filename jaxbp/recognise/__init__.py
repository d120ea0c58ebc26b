"""Recognise, in a traced function, the operations that have a rule here."""

from __future__ import annotations

from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn
from jax.extend.core.primitives import (
    conv_general_dilated_p,
    reduce_window_max_p,
    reduce_window_min_p,
    reduce_window_p,
    reduce_window_sum_p,
    select_and_scatter_add_p,
)

from jaxbp.recognise import block, conv, patches, pool
from jaxbp.recognise.finding import Finding, Rule, Sum, aval, beyond_rules

__all__ = ["Finding", "Rule", "Sum", "find"]

SINGLES = {
    conv_general_dilated_p: conv,
    reduce_window_max_p: pool,
    reduce_window_sum_p: pool,
    select_and_scatter_add_p: pool,
}
WITHOUT_RULE = {
    reduce_window_p: "it is neither a maximum nor a sum, or starts at a value not known yet",
    reduce_window_min_p: "a minimum has no rule",
}


def find(jaxpr: Jaxpr) -> Iterator[Finding]:
    """Yield what is recognised on this level, each equation once, in the order of the jaxpr."""
    reader = block.Reader.of(jaxpr)
    gone: set[int] = set()
    for place, equation in enumerate(jaxpr.eqns):
        if place in gone:
            continue
        finding = patches.find(place, reader) or _single(place, equation)
        if finding is None:
            continue
        if finding.rule is not None and finding.rule.name == "conv":
            finding = block.find(place, reader) or finding
        gone.update(finding.equations)
        yield finding


def _single(place: int, equation: JaxprEqn) -> Finding | None:
    inputs, outputs = tuple(equation.invars), tuple(equation.outvars)
    if equation.primitive in WITHOUT_RULE:
        reason = WITHOUT_RULE[equation.primitive]
        return Finding((place,), equation.primitive.name, None, reason, inputs, outputs)
    if equation.primitive not in SINGLES:
        return None
    module = SINGLES[equation.primitive]
    reason = beyond_rules(aval(v) for v in (*inputs, *outputs)) or module.unfit(equation)
    rule = None if reason else module.rule(equation)
    return Finding((place,), module.describe(equation), rule, reason, inputs, outputs)
