"""The precision of products: that of the call, in the backward pass too.

GPUs and TPUs multiply float32 in less than float32 unless `jax.default_matmul_precision` says
otherwise. Autodiff's products remember what was said when the function was called; the backward
pass of a rule is traced later, where something else may be said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax


def custom_vjp(
    function: Callable[..., Any],
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    nondiff_argnums: Sequence[int] = (),
) -> Callable[..., Any]:
    """`jax.custom_vjp` of the three, all traced in the precision of the call."""
    static = (0, *(1 + i for i in nondiff_argnums))
    rule = jax.custom_vjp(_in_precision(function), nondiff_argnums=static)
    rule.defvjp(_in_precision(forward), _in_precision(backward))

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        said = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        return rule(said, *args)

    return call


def _in_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    def traced(precision: str | None, *args: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args)

    # Not by `functools.wraps`: JAX would read the arguments' names off the function within.
    traced.__name__, traced.__qualname__ = function.__name__, function.__qualname__
    return traced
