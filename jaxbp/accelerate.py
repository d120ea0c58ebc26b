"""Rewrite any JAX function to use the rules of this package."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.extend.core.primitives import custom_vjp_call_p
from jax.extend.linear_util import WrappedFun, wrap_init

from jaxbp.jaxprs import Exchange, Rewriter, changing_nothing, opened, trace
from jaxbp.recognise import find

P = ParamSpec("P")
R = TypeVar("R")

# It ends in a separator, or a package `jaxbp_models` beside this one would count as ours.
_HERE = os.path.join(Path(__file__).parent, "")
# What these hold is linear and may be transposed, which a rule cannot be.
_LINEAR = {"linear_call", "custom_lin", "custom_transpose_call", "custom_linear_solve"}


def accelerate(fn: Callable[P, R]) -> Callable[P, R]:
    """Return the function with every operation that has a rule here replaced by it.

    Values and gradients stay the same, up to the order of sums; the rules differentiate faster.
    Replaced are convolutions (`conv`, `conv_transpose`) in every layout, with groups, strides and
    dilations, and their kernel gradients (`conv_kernel_grad`), `lax.conv_general_dilated_patches`
    (by slices), maxima and sums over windows (`max_pool`, `avg_pool`), and convolution, bias, relu
    and max-pool in a row as one (`conv_relu_max_pool`), also inside jit, scan, while, cond,
    checkpoint, vmap, shard_map and other people's rules. What has no rule stays as it is, bit for
    bit, and so does what lies on a mesh with explicit axes, is of a weak type, of fewer than 16
    bits, or of a size not known yet (in `jax.export`): `explain` tells which.

    Source: (3.5) to (3.8), (4.1) to (4.4), (5.5), (5.6)

    Args:
      fn: any function that JAX can trace: a loss, a model, a training step. Its array arguments
        are traced as in `jax.jit`, so no `if` on their values; whatever else it takes or returns
        (strings, numbers, None) passes through untouched.

    Returns:
      A function of the same arguments.

    Conventions:
      Put it inside of the gradient: `jax.grad(accelerate(loss))`. In `accelerate(jax.grad(loss))`
      the gradient is taken already; each of its sums is replaced on its own, which is right and
      gains less, as the forward pass keeps nothing for the backward one. A rule defines reverse
      mode only; forward mode (`jax.jvp`, `jax.jacfwd`) through it raises JAX's own error, and
      `jax.linear_transpose` of it JAX's NotImplementedError. In the body of a `custom_jvp`,
      operations are replaced, in its derivative they are not. Under `jax.vmap` of an accelerated
      function JAX batches rules, which costs more than `accelerate` of the vmapped function.
      `jnp.maximum(x, 0)` is no relu: its derivative at 0 is 1/2. Where a window of max pooling
      holds NaN or only −inf, `max_pool` and `conv_relu_max_pool` say where gradients go, not XLA.
      On a CPU an infinity in a patch stays in its cell; a convolution makes NaN of the others.

    Raises:
      TypeError: if `fn` is no callable; when called, if it changes an NNX object (a module, Rngs,
        a metric) in place, which `jaxbp.interop.flax.accelerate` lets it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def loss(w, x):
      ...     y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
      ...     return jnp.sum(y**2)
      >>> w, x = jnp.ones((1, 1, 2, 2)), jnp.arange(9.0).reshape(1, 1, 3, 3)
      >>> jax.grad(accelerate(loss))(w, x)[0, 0]
      Array([[336., 464.],
             [720., 848.]], dtype=float32)

    See also:
      `explain`, `jaxbp.plain.plain`.
    """

    check_callable("accelerate", fn)

    @functools.wraps(fn)
    def accelerated(*args: P.args, **kwargs: P.kwargs) -> R:
        program = trace(changing_nothing("accelerate", fn), *args, **kwargs)
        result: R = program._replace(jaxpr=_rewrite(program.jaxpr)).run()
        return result

    return accelerated


def check_callable(function: str, fn: object) -> None:
    """Raise unless `fn` can be called."""
    if not callable(fn):
        raise TypeError(f"{function}: fn must be a callable, got {fn!r}")


def is_own_rule(equation: JaxprEqn) -> bool:
    """Return whether the equation is a rule of this package."""
    return equation.primitive is custom_vjp_call_p and f" at {_HERE}" in str(
        opened(equation.params["call_jaxpr"]).debug_info.func_src_info
    )


def enters(equation: JaxprEqn) -> bool:
    """Return whether what the equation holds is rewritten too."""
    return equation.primitive.name not in _LINEAR and not is_own_rule(equation)


def _rules(jaxpr: Jaxpr) -> Iterator[Exchange]:
    for finding in find(jaxpr):
        if finding.rule is not None:
            yield finding.exchange(jaxpr.eqns[finding.equations[-1]])


def _edit(equation: JaxprEqn) -> JaxprEqn:
    """Accelerate both halves of other people's rules, which are traced when they are needed."""
    if equation.primitive is not custom_vjp_call_p:
        return equation
    fwd, bwd = equation.params["fwd_jaxpr_thunk"], equation.params["bwd"]
    if not isinstance(fwd, WrappedFun) or not isinstance(bwd, WrappedFun):
        return equation

    def fast_fwd(*nonzeros: bool) -> tuple[Any, Any]:
        jaxpr, consts = fwd.call_wrapped(*nonzeros)
        new = _rewrite(ClosedJaxpr(jaxpr, consts))
        return opened(new), new.consts

    params = {
        **equation.params,
        "fwd_jaxpr_thunk": wrap_init(fast_fwd, debug_info=fwd.debug_info),
        "bwd": wrap_init(accelerate(bwd.call_wrapped), debug_info=bwd.debug_info),
    }
    return equation.replace(params=params)


_rewrite = Rewriter(_rules, enters, _edit)
