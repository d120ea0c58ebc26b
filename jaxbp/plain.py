"""Take the hand-written rules out of a function, so that autodiff differentiates what is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from jax.extend.core import Jaxpr
from jax.extend.core.primitives import custom_vjp_call_p

from jaxbp.accelerate import check_callable
from jaxbp.jaxprs import Exchange, Rewriter, changing_nothing, trace

P = ParamSpec("P")
R = TypeVar("R")


def plain(fn: Callable[P, R]) -> Callable[P, R]:
    """Return the function with every `custom_vjp` in it replaced by the plain function inside.

    Values stay the same, and `jax.grad` differentiates the operations themselves: the other side
    of every comparison of a hand-written rule with autodiff. Calls inside jit, scan, while, cond,
    checkpoint, vmap, shard_map and other rules are found too; a `custom_jvp` keeps its rule.

    Args:
      fn: any function that JAX can trace. Its array arguments are traced as in `jax.jit`; whatever
        else it takes or returns (strings, numbers, None) passes through untouched.

    Returns:
      A function of the same arguments.

    Raises:
      TypeError: if `fn` is no callable; when called, if it changes an NNX object in place.

    Example:
      >>> import jax
      >>> from jaxbp.plain import plain
      >>> @jax.custom_vjp
      ... def square(x):
      ...     return x * x
      >>> square.defvjp(lambda x: (square(x), x), lambda x, dy: (-dy,))  # wrong on purpose
      >>> float(jax.grad(square)(3.0)), float(jax.grad(plain(square))(3.0))
      (-1.0, 6.0)

    See also: `jaxbp.accelerate`, which goes the other way.
    """
    check_callable("plain", fn)

    @functools.wraps(fn)
    def without_rules(*args: P.args, **kwargs: P.kwargs) -> R:
        program = trace(changing_nothing("plain", fn), *args, **kwargs)
        result: R = program._replace(jaxpr=_rewrite(program.jaxpr)).run()
        return result

    return without_rules


def _primals(jaxpr: Jaxpr) -> Iterator[Exchange]:
    for place, equation in enumerate(jaxpr.eqns):
        if equation.primitive is custom_vjp_call_p:
            primal = _rewrite(equation.params["call_jaxpr"])
            yield Exchange((place,), tuple(equation.invars), tuple(equation.outvars), primal)


_rewrite = Rewriter(_primals)
