"""What was recognised in a jaxpr: equations, and the rule for them or why there is none."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax._src import config, core
from jax._src.config import trace_context
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var

from jaxbp.arguments import Shape
from jaxbp.jaxprs import Atom, Exchange


class Sum(NamedTuple):
    """A sum that a rule consists of, as `lowering` has it."""

    name: str  # what it is to the operation: "forward", "input gradient", "kernel gradient"
    operation: str  # the name in lowering's table
    case: tuple[Any, ...]  # its arguments there, arrays by their shapes and dtypes


class Rule(NamedTuple):
    """A rule of jaxbp that does what some equations do."""

    name: str  # the public function's
    function: Callable[..., jax.Array]  # of the inputs' values and `options`
    options: Hashable  # what the equations' parameters say
    precision: str | None = None  # of their products, for `jax.default_matmul_precision`
    sums: Callable[..., list[Sum]] | None = None  # of a convolution, of what `function` takes


class Finding(NamedTuple):
    """Equations of one jaxpr that a rule could stand for."""

    equations: tuple[int, ...]  # their places in the jaxpr
    what: str  # the operation in words
    rule: Rule | None
    reason: str  # why they are left alone; empty with a rule
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]

    def exchange(self, last: JaxprEqn) -> Exchange:
        """Return the exchange of these equations, the last of them given, for the rule."""
        assert self.rule is not None
        avals = tuple(aval(v) for v in self.inputs)
        precision = jax.default_matmul_precision(self.rule.precision)
        with last.ctx.manager, _shard_map(avals), precision:
            program = _trace(self.rule, avals, trace_context())
        return Exchange(self.equations, self.inputs, self.outputs, program)

    def sums(self, last: JaxprEqn) -> list[Sum]:
        """Return the sums that the rule consists of, where `lowering` chooses how to take them."""
        if self.rule is None or self.rule.sums is None:
            return []
        found: list[Sum] = []
        look = functools.partial(self.rule.sums, options=self.rule.options)
        with last.ctx.manager:
            jax.eval_shape(
                lambda *inputs: found.extend(look(*inputs)),
                *(jax.ShapeDtypeStruct(aval(v).shape, aval(v).dtype) for v in self.inputs),
            )
        return found


@functools.lru_cache(maxsize=1024)
def _trace(rule: Rule, avals: tuple[Any, ...], context: Hashable) -> ClosedJaxpr:
    # A network has many equations alike, and is traced more than once.
    return jax.make_jaxpr(functools.partial(rule.function, options=rule.options))(*avals)


@contextlib.contextmanager
def _shard_map(avals: Sequence[Any]) -> Iterator[None]:
    """Trace as in the body of the shard_map whose axes these values vary over, if there is one.

    An equation remembers the mesh, but neither the names of the axes nor that the shard_map keeps
    track of what varies; for these JAX has no public switch.
    """
    varying = frozenset[str]().union(*(aval.manual_axis_type.varying for aval in avals))
    sizes = jax.sharding.get_abstract_mesh().shape
    with (
        config._check_vma(bool(varying)),
        core.extend_axis_env_nd([(axis, sizes[axis]) for axis in sorted(varying)]),
    ):
        yield


def aval(atom: Atom) -> Any:
    """The shape and dtype of a value."""
    return atom.aval


def avals(equation: JaxprEqn) -> list[Any]:
    """The shapes and dtypes of an equation's inputs."""
    return [aval(v) for v in equation.invars]


def beyond_rules(values: Iterable[Any]) -> str:
    """Return why no rule takes or gives values of these types, or an empty string."""
    for value in values:
        if not all(isinstance(n, int) for n in value.shape):
            return f"its shape {value.shape} is not known yet"
        if jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
            return f"it is {value.dtype}, with 64-bit mode off"
        if value.weak_type:
            return "it is of a weak type, which the rules do not keep"
        if any(axis is not None for axis in value.sharding.spec):
            return f"it is sharded explicitly, {value.sharding.spec}"
        if value.sharding.mesh.explicit_axes:  # a vmap may add an axis that is sharded
            return f"its mesh is explicit, {value.sharding.mesh.explicit_axes}"
    return ""


def out_shape(equation: JaxprEqn) -> Shape:
    """The shape of an equation's only result."""
    return tuple(aval(equation.outvars[0]).shape)


def sizes(shape: Any) -> str:
    """A shape in words: 3×3."""
    return "×".join(map(str, shape))
