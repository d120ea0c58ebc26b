"""Rewrite traced functions: some equations give place to others, at every depth, the rest stays."""

from __future__ import annotations

import functools
import itertools
import operator
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.config import trace_context
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Primitive, Var
from jax.extend.core.primitives import device_put_p, jit_p

Atom = Var | Literal


class Exchange(NamedTuple):
    """Equations of one jaxpr, and the program that gives their results in another way."""

    equations: tuple[int, ...]  # their places; the program stands where the last of them stood
    inputs: tuple[Atom, ...]  # what the program reads
    outputs: tuple[Var, ...]  # what it gives, in the names that the rest of the jaxpr reads
    program: ClosedJaxpr


class Program(NamedTuple):
    """A function, traced: no inputs are left, since all that it reads is a constant of its jaxpr.

    So tracers reach the function as they are, and what is no array passes through it untouched.
    """

    jaxpr: ClosedJaxpr
    leaves: list[Any]  # the results that are no arrays, and None for each array
    tree: Any

    def run(self) -> Any:
        """Return the function's results, its operations bound one by one in the caller's trace."""
        jaxpr = opened(self.jaxpr)
        if not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            context = trace_context()
            equations = [_in_jit(equation, context) for equation in jaxpr.eqns]
            jaxpr = jaxpr.replace(eqns=equations, debug_info=jaxpr.debug_info)
        # A constant result may be a literal of the jaxpr, which is no jax.Array.
        results = eval_jaxpr(jaxpr, self.jaxpr.consts)
        arrays = iter([a if isinstance(a, jax.Array) else jnp.asarray(a) for a in results])
        leaves = [next(arrays) if leaf is None else leaf for leaf in self.leaves]
        return jax.tree.unflatten(self.tree, leaves)


def trace(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Program:
    """Trace the function for these arguments, without running it.

    Its arguments' containers are made anew inside, as `jax.jit` does, since some may be changed
    only by whoever runs in the trace that made them.
    """
    inputs, structure = jax.tree.flatten((args, kwargs))
    inputs = _as_jax(inputs)
    given = set(map(id, inputs))
    leaves: list[Any] = []
    tree = None

    def arrays() -> list[jax.Array]:
        nonlocal leaves, tree
        args, kwargs = jax.tree.unflatten(structure, inputs)
        found, tree = jax.tree.flatten(function(*args, **kwargs))
        leaves = [None if isinstance(leaf, jax.Array) else leaf for leaf in found]
        _check_results(leaf for leaf in leaves if id(leaf) not in given)
        return [leaf for leaf in found if isinstance(leaf, jax.Array)]

    jaxpr = jax.make_jaxpr(arrays)()
    return Program(jaxpr, leaves, tree)


def _check_results(objects: Iterable[Any]) -> None:
    """Raise for an object that is no pytree and holds arrays, which would end with the trace."""
    for thing in objects:
        held = getattr(thing, "__dict__", {}).values()
        if any(isinstance(value, jax.core.Tracer) for value in held):
            raise TypeError(
                f"fn returns a {type(thing).__name__}, which holds arrays and is no pytree: "
                "register it, with jax.tree_util.register_dataclass for example"
            )


def changing_nothing(caller: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which raises in the caller's name if it changes an NNX object in place.

    Traced, it has a copy of the object, whose changes would be lost.
    """

    def checked(*args: Any, **kwargs: Any) -> Any:
        objects = [(node, jax.tree.flatten(node)) for node in nnx_objects((args, kwargs))]
        result = function(*args, **kwargs)
        for node, before in objects:
            _check_unchanged(caller, node, before)
        return result

    return checked


def nnx_objects(tree: Any) -> list[Any]:
    """NNX's modules, Rngs, metrics, optimisers and variables: what keeps its state in itself.

    What lies in an `nnx.State` is no such: it is passed on and returned, as the functional API has
    it, and modules that are made of it may change it.
    """
    if "flax.nnx" not in sys.modules:
        return []
    kinds = ("Module", "Pytree", "Object", "Variable")
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: _is_nnx(node, (*kinds, "State")))
    return [leaf for leaf in leaves if _is_nnx(leaf, kinds)]


def _is_nnx(node: Any, names: tuple[str, ...]) -> bool:
    return any(
        c.__name__ in names and c.__module__.startswith("flax.nnx") for c in type(node).__mro__
    )


def _check_unchanged(caller: str, node: Any, before: tuple[list[Any], Any]) -> None:
    leaves, structure = before
    new_leaves, new_structure = jax.tree.flatten(node)
    # Two structures are equal only with as many leaves.
    if structure != new_structure or any(map(operator.is_not, leaves, new_leaves)):
        raise TypeError(
            f"{caller}: fn changes its argument, the nnx {type(node).__name__}, in place, which "
            "would be lost: use jaxbp.interop.flax.accelerate, or return what is new"
        )


def _as_jax(leaves: list[Any]) -> list[Any]:
    """Return jax arrays for numpy's, which some JAX rules refuse inside a trace.

    Integers stay: they may be a padding or a shape, whose values are asked for.
    """

    def convert(x: Any) -> Any:
        is_number = isinstance(x, np.ndarray) and jnp.issubdtype(x.dtype, np.inexact)
        return jnp.asarray(x) if is_number else x

    with jax.ensure_compile_time_eval():
        return [convert(x) for x in leaves]


_INLINE: Any = jax.Inline.JAX_EARLY if hasattr(jax, "Inline") else True  # since jax 0.12


def _in_jit(equation: JaxprEqn, context: Hashable) -> JaxprEqn:
    """Return the equation in an inlined jit of its own, as `jax.numpy` has its functions.

    JAX differentiates a jit that it has met before from its caches, and a bare equation anew, which
    takes more time than all of `accelerate`. One met for the first time stays bare: to trace a jit
    around it costs more. What holds functions or jaxprs stays as it is: a cache would keep alive
    whatever they hold.
    """
    if equation.effects or any(map(callable, equation.params.values())):
        return equation
    if equation.primitive is device_put_p:  # inside a jit it would put nothing anywhere
        return equation
    if any(isinstance(value, float) for value in equation.params.values()):
        return equation  # 0.0 and -0.0 are one key
    if any(True for _ in jaxprs_in(equation)):
        return equation
    avals = tuple(v.aval for v in equation.invars)
    if not all(isinstance(aval, jax.core.ShapedArray) for aval in avals):
        return equation
    key = (equation.primitive, tuple(equation.params.items()), avals, equation.ctx, context)
    try:
        met = next(_meetings(*key))
    except TypeError:  # something in the key has no hash
        return equation
    return equation if met == 0 else equation.replace(primitive=jit_p, params=_jit_params(*key))


@functools.lru_cache(maxsize=4096)
def _meetings(*key: Hashable) -> Iterator[int]:
    return itertools.count()


@functools.lru_cache(maxsize=4096)
def _jit_params(
    primitive: Primitive,
    params: tuple[tuple[str, Any], ...],
    avals: tuple[Any, ...],
    ctx: Any,
    context: Hashable,
) -> dict[str, Any]:
    def bind(*inputs: Any) -> Any:
        return primitive.bind(*inputs, **dict(params))

    bind.__name__ = primitive.name
    with ctx.manager:
        (equation,) = opened(jax.make_jaxpr(jax.jit(bind))(*avals)).eqns
    return {**equation.params, "inline": _INLINE}


class Rewriter:
    """Rewrite jaxprs, and those inside their equations' parameters.

    `exchange(jaxpr)` gives what to exchange on one level, `enter(equation)` says whether to look
    into the parameters of an equation that stays, and `edit(equation)` may change what else it
    holds. A jaxpr in which nothing changes comes back as the same object, and one seen before is
    not looked at again, so that jit finds in its caches what it would have found there.
    """

    def __init__(
        self,
        exchange: Callable[[Jaxpr], Iterable[Exchange]],
        enter: Callable[[JaxprEqn], bool] = lambda _: True,
        edit: Callable[[JaxprEqn], JaxprEqn] = lambda equation: equation,
    ) -> None:
        self._exchange = exchange
        self._enter = enter
        self._edit = edit
        # None stands for "the same", since a value that held its own key would never be freed.
        self._seen: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, jaxpr: Any) -> Any:
        """Return the jaxpr, open or closed, with the same inputs and the same types of results."""
        seen = self._seen.setdefault(jaxpr, {})
        context = trace_context()  # what jit itself takes into its key: float64, forced strategies
        if context not in seen:
            new = self._rewrite(jaxpr)
            seen[context] = None if new is jaxpr else new
        return jaxpr if seen[context] is None else seen[context]

    def _rewrite(self, jaxpr: Any) -> Any:
        if is_closed(jaxpr):
            new = self._rewrite_open(jaxpr.jaxpr)
            return jaxpr if new is jaxpr.jaxpr else ClosedJaxpr(new, jaxpr.consts)
        return self._rewrite_open(jaxpr)

    def _rewrite_open(self, jaxpr: Jaxpr) -> Jaxpr:
        exchanges = {e.equations[-1]: e for e in self._exchange(jaxpr)}
        gone = {place for e in exchanges.values() for place in e.equations}
        names: dict[Var, Atom] = {}
        equations: list[JaxprEqn] = []
        changed = bool(exchanges)
        for place, equation in enumerate(jaxpr.eqns):
            if place in exchanges:
                equations += _inline(exchanges[place], names, equation)
            elif place not in gone:
                new = self._rewrite_parameters(_rename(equation, names))
                changed |= new is not equation
                equations.append(new)
        if not changed:
            return jaxpr
        outputs = [_read(names, v) for v in jaxpr.outvars]
        return jaxpr.replace(eqns=equations, outvars=outputs, debug_info=jaxpr.debug_info)

    def _rewrite_parameters(self, equation: JaxprEqn) -> JaxprEqn:
        if not self._enter(equation):
            return equation
        new = {}
        for name, value in equation.params.items():
            if is_jaxpr(value):
                rewritten: Any = self(value)
                same = rewritten is value
            elif isinstance(value, tuple | list) and any(map(is_jaxpr, value)):
                rewritten = type(value)(self(v) if is_jaxpr(v) else v for v in value)
                same = all(a is b for a, b in zip(rewritten, value, strict=True))
            else:
                continue
            if not same:
                new[name] = rewritten
        if new:
            equation = equation.replace(params={**equation.params, **new})
        return self._edit(equation)


def is_jaxpr(value: Any) -> bool:
    """Return whether the value is a jaxpr, open or closed."""
    return isinstance(value, Jaxpr | ClosedJaxpr)


def opened(jaxpr: Any) -> Jaxpr:
    """Return the jaxpr without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def is_closed(jaxpr: Any) -> bool:
    """Return whether constants come with the jaxpr in an object of its own (before jax 0.12)."""
    return opened(jaxpr) is not jaxpr


def jaxprs_in(equation: JaxprEqn) -> Iterator[tuple[str, Any]]:
    """Yield the jaxprs in an equation's parameters, each with the parameter's name."""
    for name, value in equation.params.items():
        for v in value if isinstance(value, tuple | list) else (value,):
            if is_jaxpr(v):
                yield name, v


def _read(names: dict[Var, Atom], atom: Atom) -> Atom:
    return atom if isinstance(atom, Literal) else names.get(atom, atom)


def _rename(equation: JaxprEqn, names: dict[Var, Atom]) -> JaxprEqn:
    inputs = [_read(names, v) for v in equation.invars]
    if all(a is b for a, b in zip(inputs, equation.invars, strict=True)):
        return equation
    return equation.replace(invars=inputs)


def _inline(exchange: Exchange, names: dict[Var, Atom], place: JaxprEqn) -> Iterator[JaxprEqn]:
    """Yield the program's equations under new names; outputs that it computes keep the old ones."""
    program = exchange.program
    jaxpr = program.jaxpr
    inner: dict[Var, Atom] = dict(
        zip(jaxpr.invars, (_read(names, v) for v in exchange.inputs), strict=True)
    )
    for var, const in zip(jaxpr.constvars, program.consts, strict=True):
        inner[var] = Literal(const, var.aval)
    wanted: dict[Var, Var] = {}
    for var, output in zip(jaxpr.outvars, exchange.outputs, strict=True):
        if isinstance(var, Var) and var not in inner and not isinstance(output, DropVar):
            wanted.setdefault(var, output)
    for equation in jaxpr.eqns:
        for var in equation.outvars:
            if not isinstance(var, DropVar):
                inner[var] = wanted.get(var) or Var(var.aval)
        yield equation.replace(
            invars=[_read(inner, v) for v in equation.invars],
            outvars=[v if isinstance(v, DropVar) else inner[v] for v in equation.outvars],
            source_info=place.source_info,
        )
    for var, output in zip(jaxpr.outvars, exchange.outputs, strict=True):
        value = _read(inner, var)
        if value is not output:
            names[output] = value
