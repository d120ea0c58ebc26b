"""A function's value and VJP on flat vectors, in one dtype."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.subject.arguments import Subject
from jaxbp.verify.subject.vectors import LeafFunction, Leaves, Vector, eps_of, laid_out, pack

QUICK: dict[str, bool | int | str] = {"xla_backend_optimization_level": 0}
"""Compiler options for what is evaluated a few times: compiling takes half as long."""


class Pullback:
    """A function's value and VJP on flat vectors, in one dtype, compiled once.

    With `dtype` float64 the function is traced with JAX's 64-bit mode on and every real leaf cast;
    with None it sees the leaves as they were given; a narrower dtype casts every real leaf to it.
    """

    def __init__(self, subject: Subject, fn: LeafFunction, dtype: Any = None) -> None:
        self.subject = subject
        self.fn = fn
        self.dtype = dtype
        self.wide = dtype is not None and np.dtype(dtype) == np.float64
        options = None if dtype is None else QUICK
        self._value = jax.jit(fn, compiler_options=options)
        self._vjp = jax.jit(vjp_of(fn), compiler_options=options)
        self._outputs: list[jax.ShapeDtypeStruct] | None = None
        self.eps = eps_of(np.float64)
        """The rounding unit of the narrowest dtype that it computes in, as `Trial` finds it out."""
        self.interpreted = False
        """Evaluate without compiling: for a rule that cannot be traced."""
        self.refused = ""
        """What tracing it raises, if it does."""

    def mode(self) -> Any:
        """The context in which the function is traced and run."""
        return jax.enable_x64(True) if self.wide else jax.enable_x64(x64_enabled())

    def outputs(self) -> list[jax.ShapeDtypeStruct]:
        """The output leaves' shapes and dtypes."""
        if self._outputs is None:
            with self.mode():
                leaves = self.subject.cast(self.subject.x, self.dtype)
                self._outputs = list(jax.eval_shape(self.fn, leaves, self.subject.others))
        return self._outputs

    def value(self, x: Vector) -> Vector:
        """y = f(x)."""
        with self.mode():
            return pack(self._value(self.subject.cast(x, self.dtype), self.subject.others))

    def cotangents(self, c: Vector) -> list[np.ndarray]:
        """The output leaves' parts of `c`, in the outputs' shapes and dtypes."""
        leaves = []
        for leaf in laid_out(self.outputs()):
            is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
            part = c[leaf.part] if is_complex else c[leaf.part].real
            leaves.append(part.reshape(leaf.shape).astype(leaf.dtype))
        return leaves

    def __call__(self, x: Vector, c: Vector) -> Vector:
        """(∂f/∂x)ᵀ c."""
        return pack(self.raw(x, c)[1])

    def raw(self, x: Vector, c: Vector) -> tuple[list[Any], list[Any]]:
        """The value that `jax.vjp` gives, and the cotangents, as arrays."""
        if self.interpreted:
            value, pull = self.eager(x)
            return value, pull(c)
        with self.mode():
            leaves = self.subject.cast(x, self.dtype)
            return self._vjp(leaves, self.subject.others, self.cotangents(c))

    def eager(self, x: Vector) -> tuple[list[Any], Callable[[Vector], list[Any]]]:
        """As `raw`, but without compiling: the plain call, one operation after the other."""
        with self.mode():
            leaves = [jnp.asarray(v) for v in self.subject.cast(x, self.dtype)]
            value, pull = jax.vjp(lambda *ls: self.fn(list(ls), self.subject.others), *leaves)

        def pull_back(c: Vector) -> list[Any]:
            with self.mode():
                return list(pull([jnp.asarray(part) for part in self.cotangents(c)]))

        return value, pull_back


def x64_enabled() -> bool:
    """Whether the user runs JAX in its 64-bit mode."""
    return bool(jax.config.read("jax_enable_x64"))


def vjp_of(fn: LeafFunction) -> Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]]:
    """(leaves, others, cotangents) -> (value, VJP)."""

    def vjp(leaves: Leaves, others: Leaves, cotangents: Leaves) -> tuple[Leaves, Leaves]:
        value, pull = jax.vjp(lambda *ls: fn(list(ls), others), *leaves)
        return value, list(pull(cotangents))

    return vjp
