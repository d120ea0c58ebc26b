"""The derivative of a function taken apart: every path that it flows along can be cut or changed.

`Gated` runs the plain function's program with a gate wherever its derivative branches. The values
are the function's own; the gates say what the *derivative* is: whole, without one path, with one
elementwise derivative left out, with one operand mirrored or exchanged. A hand-written rule that
forgets such a thing gives exactly the answer of one setting of the gates.
"""

import dataclasses
import enum
import itertools
from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxbp.verify.subject import programs
from jaxbp.verify.subject.primitives import CALLS, CHOICES, CONTRACTIONS, HIDING, PRODUCTS, UNARY
from jaxbp.verify.subject.vectors import LeafFunction, Leaves

MOST_GATES = 400
"""A program with more paths than that has its first ones looked at."""
LARGEST_TURNED = 50_000
"""Operands of more entries are not rearranged."""
CARRIED = "carry"
"""What stands for a primitive where a scan's step hands its state to the next."""

_WITH_OWN_PATHS = UNARY | CONTRACTIONS | PRODUCTS | CHOICES


@jax.custom_vjp
def _gate(x: Any, weight: Any) -> Any:
    """x, whose cotangent is multiplied by `weight`."""
    return x


_gate.defvjp(
    lambda x, weight: (x, weight),
    lambda weight, g: ((g * weight.astype(g.dtype)), jnp.zeros_like(weight)),
)


@jax.custom_vjp
def _join(y: Any, other: Any, weight: Any) -> Any:
    """y, whose cotangent also goes to `other`, multiplied by `weight`."""
    return y


_join.defvjp(
    lambda y, other, weight: (y, weight),
    lambda weight, g: (g, g * weight.astype(g.dtype), jnp.zeros_like(weight)),
)


class Kind(enum.StrEnum):
    """What the weight of a gate does."""

    PATH = "path"
    """1 is whole, 0 cut."""
    STRAIGHT = "straight"
    """1 leaves an elementwise derivative out."""
    OPERAND = "operand"
    """1 adds the operand's derivative with the other operand rearranged."""
    RESULT = "result"
    """1 adds the operand's derivative with the incoming cotangent rearranged."""
    STEP = "step"
    """The share of one iteration of a scan."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """One place where the derivative can be changed."""

    index: int
    kind: Kind
    primitive: str
    what: str
    partner: int = -1
    """For `straight`, `operand` and `result`: the path to cut at the same time."""
    shape: tuple[int, ...] = ()
    """For `operand` and `result`: the shape of what can be rearranged."""
    source: int = -1
    """Which variable flows in: paths with the same source are uses of one value."""
    steps: int = 0


class Gated:
    """A function of (leaves, others, weights, orders) with the values of `fn`."""

    def __init__(self, fn: LeafFunction) -> None:
        self.fn = fn
        self.gates: list[Gate] = []
        self._known: dict[Any, Gate] = {}
        self._used = 0

    def allocate(self, leaves: Leaves, others: Leaves) -> None:
        """Find the gates by tracing once."""
        jax.eval_shape(partial(self._run, None, None), leaves, others)

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self._used

    def whole(self) -> np.ndarray:
        """The weights at which the derivative is the function's own."""
        weights = np.zeros(self._used)
        for gate in self.gates:
            if gate.kind is Kind.PATH:
                weights[gate.index] = 1.0
            if gate.kind is Kind.STEP:
                weights[gate.index : gate.index + gate.steps] = 1.0
        return weights

    def __call__(self, leaves: Leaves, others: Leaves, weights: Any, orders: Any) -> Leaves:
        return self._run(weights, orders, leaves, others)

    def _run(self, weights: Any, orders: Any, leaves: Leaves, others: Leaves) -> Leaves:
        program = jax.make_jaxpr(self.fn)(leaves, others)
        run = _Run(self, weights, orders)
        active = [True] * len(leaves) + [False] * (len(program.jaxpr.invars) - len(leaves))
        return run.evaluate(program, [*leaves, *others], active, ())

    def gate(self, key: Any, **fields: Any) -> Gate | None:
        """The gate of this place in the program, the same in every trace."""
        if key in self._known:
            return self._known[key]
        if self._used >= MOST_GATES:
            return None
        gate = Gate(self._used, **fields)
        self._known[key] = gate
        self._used += gate.steps or 1
        self.gates.append(gate)
        return gate


class _Run:
    """One evaluation of the gated program."""

    def __init__(self, owner: Gated, weights: Any, orders: Any) -> None:
        self.owner, self.weights, self.orders = owner, weights, orders
        self.sources: dict[Any, int] = {}

    def weight(self, gate: Gate) -> Any:
        if self.weights is None:
            return jnp.ones((), "float32")
        return self.weights[gate.index]

    def evaluate(
        self, program: Any, args: list[Any], active: list[bool], place: tuple[Any, ...]
    ) -> list[Any]:
        jaxpr = program.jaxpr
        lively = {v for v, on in zip(jaxpr.invars, active, strict=True) if on}
        used = [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars)
        uses = Counter(v for v in used if not isinstance(v, core.Literal))
        numbers = itertools.count()

        def apply(eqn: Any, operands: list[Any]) -> list[Any]:
            here = (*place, next(numbers))
            flows = [
                not isinstance(v, core.Literal) and v in lively and _inexact(v.aval)
                for v in eqn.invars
            ]
            if not any(flows):
                return programs.bind(eqn, eqn.params, operands)
            name = eqn.primitive.name
            branching = (
                sum(flows) > 1 and name not in CALLS | HIDING and name not in _WITH_OWN_PATHS
            )
            for i, v in enumerate(eqn.invars):
                if flows[i] and (branching or uses[v] > 1):
                    operands[i] = self._path(here, eqn, i, operands[i], (place, v))
            lively.update(v for v in eqn.outvars if _inexact(v.aval))
            return self._equation(eqn, operands, flows, here)

        return programs.walk(program, args, apply, inline=lambda eqn: None)

    def _path(self, here: tuple[Any, ...], eqn: Any, i: int, value: Any, variable: Any) -> Any:
        gate = self.owner.gate(
            (here, i, "path"),
            kind=Kind.PATH,
            primitive=eqn.primitive.name,
            what=_described(eqn, i),
            source=self.sources.setdefault(variable, len(self.sources)),
        )
        return value if gate is None else _gate(value, self.weight(gate))

    def _equation(
        self, eqn: Any, operands: list[Any], flows: list[bool], here: tuple[Any, ...]
    ) -> list[Any]:
        name = eqn.primitive.name
        inner = programs.inlined_wholly(eqn)
        if inner is not None:
            return self.evaluate(inner, operands, flows, here)
        if name == "scan":
            return self._scan(eqn, operands, flows, here)
        if name == "cond":
            index, *rest = operands
            branches = [
                lambda *args, b=b, k=k: self.evaluate(
                    programs.closed(b), list(args), flows[1:], (*here, k)
                )
                for k, b in enumerate(eqn.params["branches"])
            ]
            return list(jax.lax.switch(index, branches, *rest))
        if name in UNARY and flows[0]:
            return [self._straight(eqn, operands, 0, here)]
        if name in PRODUCTS | CHOICES:
            return [self._passing(eqn, operands, flows, here)]
        if name in CONTRACTIONS:
            return [self._contraction(eqn, operands, flows, here)]
        return programs.bind(eqn, eqn.params, operands)

    def _cut(
        self, eqn: Any, operands: list[Any], i: int, here: tuple[Any, ...]
    ) -> tuple[Any, Gate | None]:
        """Operand `i` behind a path of its own, the one that `straight` and `operand` cut."""
        gate = self.owner.gate(
            (here, i, "own"),
            kind=Kind.PATH,
            primitive=eqn.primitive.name,
            what=_described(eqn, i),
        )
        return (operands[i] if gate is None else _gate(operands[i], self.weight(gate))), gate

    def _straight(self, eqn: Any, operands: list[Any], i: int, here: tuple[Any, ...]) -> Any:
        raw = operands[i]
        behind, cut = self._cut(eqn, operands, i, here)
        operands = [*operands[:i], behind, *operands[i + 1 :]]
        y = programs.bind(eqn, eqn.params, operands)[0]
        if cut is None or y.shape != raw.shape or y.dtype != raw.dtype:
            return y
        gate = self.owner.gate(
            (here, i, "straight"),
            kind=Kind.STRAIGHT,
            primitive=eqn.primitive.name,
            what=f"the derivative of `{eqn.primitive.name}`",
            partner=cut.index,
        )
        return y if gate is None else _join(y, raw, self.weight(gate))

    def _passing(
        self, eqn: Any, operands: list[Any], flows: list[bool], here: tuple[Any, ...]
    ) -> Any:
        """A product without the other factor; a maximum, a selection without its mask."""
        raw = list(operands)
        cuts: list[Gate | None] = [None] * len(operands)
        for i, on in enumerate(flows):
            if on:
                operands[i], cuts[i] = self._cut(eqn, raw, i, here)
        y = programs.bind(eqn, eqn.params, operands)[0]
        for i, cut in enumerate(cuts):
            if cut is None or raw[i].shape != y.shape or raw[i].dtype != y.dtype:
                continue
            factor = "the mask" if eqn.primitive.name in CHOICES else "the factor"
            gate = self.owner.gate(
                (here, i, "straight"),
                kind=Kind.STRAIGHT,
                primitive=eqn.primitive.name,
                what=f"{factor} of `{eqn.primitive.name}`, operand {i}",
                partner=cut.index,
            )
            if gate is not None:
                y = _join(y, raw[i], self.weight(gate))
        return y

    def _contraction(
        self, eqn: Any, operands: list[Any], flows: list[bool], here: tuple[Any, ...]
    ) -> Any:
        """A product of arrays whose other operand may be rearranged in the derivative."""
        raw = list(operands)
        cuts: list[Gate | None] = [None] * 2
        for i in (0, 1):
            if flows[i]:
                operands[i], cuts[i] = self._cut(eqn, raw, i, here)
        y = programs.bind(eqn, eqn.params, operands)[0]
        for i, cut in enumerate(cuts):
            if cut is None:
                continue
            other = jax.lax.stop_gradient(raw[1 - i])
            what = f"operand {1 - i} of `{eqn.primitive.name}`"
            turned, gate = self._turned(Kind.OPERAND, eqn, i, what, cut, here, other)
            if gate is None:
                continue
            pair = [raw[i], turned] if i == 0 else [turned, raw[i]]
            changed = programs.bind(eqn, eqn.params, pair)[0]
            y = _join(y, changed, self.weight(gate))
            if y.ndim > 1:  # the operand's derivative from a rearranged cotangent
                changed, gate = self._turned(
                    Kind.RESULT, eqn, i, f"operand {i}", cut, here, changed
                )
                y = y if gate is None else _join(y, changed, self.weight(gate))
        return y

    def _turned(
        self,
        kind: Kind,
        eqn: Any,
        i: int,
        what: str,
        cut: Gate,
        here: tuple[Any, ...],
        value: Any,
    ) -> tuple[Any, Gate | None]:
        """`value` rearranged as a gate of its own says, which may put zeros in."""
        if value.size > LARGEST_TURNED:
            return value, None
        gate = self.owner.gate(
            (here, i, kind),
            kind=kind,
            primitive=eqn.primitive.name,
            what=what,
            partner=cut.index,
            shape=tuple(value.shape),
        )
        order = None if gate is None or self.orders is None else self.orders.get(gate.index)
        if order is None:
            return value, gate
        flat = jnp.concatenate([value.reshape(-1), jnp.zeros((1,), value.dtype)])
        return flat[order].reshape(value.shape), gate

    def _scan(
        self, eqn: Any, operands: list[Any], flows: list[bool], here: tuple[Any, ...]
    ) -> list[Any]:
        p = eqn.params
        n_consts, n_carry = programs.scan_sizes(p, len(operands))
        body, length = programs.closed(p["jaxpr"]), p["length"]
        consts, init = operands[:n_consts], operands[n_consts : n_consts + n_carry]
        xs = operands[n_consts + n_carry :]
        active = [on or n_consts <= i < n_consts + n_carry for i, on in enumerate(flows)]
        active = [on and _inexact(v.aval) for on, v in zip(active, body.jaxpr.invars, strict=True)]
        gates = [self._step_gate(i, length, here) if active[i] else None for i in range(n_consts)]

        def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
            slices, t = inputs
            given = [
                self._in_step(const, gate, t) for const, gate in zip(consts, gates, strict=True)
            ]
            carried = [
                self._handed_on(c, k, here) if active[n_consts + k] else c
                for k, c in enumerate(carry)
            ]
            out = self.evaluate(body, [*given, *carried, *slices], active, (*here, "body"))
            return out[:n_carry], out[n_carry:]

        counter = jnp.arange(length)
        carry, ys = jax.lax.scan(
            step, list(init), (list(xs), counter), length, reverse=p["reverse"]
        )
        return [*carry, *ys]

    def _step_gate(self, constant: int, length: int, here: tuple[Any, ...]) -> Gate | None:
        """The gate of what each step of a scan sends back to one of its constants."""
        return self.owner.gate(
            (here, constant, "step"),
            kind=Kind.STEP,
            primitive="scan",
            what=f"constant {constant} of the scan",
            steps=length,
        )

    def _in_step(self, constant: Any, gate: Gate | None, t: Any) -> Any:
        """A constant as step `t` has it, behind its gate."""
        if gate is None:
            return constant
        whole = jnp.ones((), "float32")
        return _gate(constant, whole if self.weights is None else self.weights[gate.index + t])

    def _handed_on(self, value: Any, k: int, here: tuple[Any, ...]) -> Any:
        """A state that one step hands to the next, behind its gate."""
        gate = self.owner.gate(
            (here, k, "carry"),
            kind=Kind.PATH,
            primitive=CARRIED,
            what="the state that one step of the scan hands to the next",
        )
        return value if gate is None else _gate(value, self.weight(gate))


def _described(eqn: Any, i: int) -> str:
    if len(eqn.invars) == 1:
        return f"what flows through `{eqn.primitive.name}`"
    return f"what flows through operand {i} of `{eqn.primitive.name}`"


def _inexact(aval: Any) -> bool:
    return hasattr(aval, "dtype") and bool(jnp.issubdtype(aval.dtype, jnp.inexact))
