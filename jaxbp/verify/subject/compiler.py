"""Does this build of JAX compute right at all? A compiler that does not would refute good rules."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.verify.subject import programs


def warnings(programs: Iterable[Any] = ()) -> tuple[str, ...]:
    """What is known to be wrong with the JAX in use and can matter to these traced programs."""
    found = []
    if _miscompiles_products():
        found.append("a vmapped matrix-vector product (jax-ml/jax#39103)")
    if any(map(crops_and_pads, programs)) and _reads_beyond_a_crop():
        found.append(
            "a convolution whose padding crops an axis before it and pads it after (it reads "
            "beyond the input)"
        )
    build = f"this JAX ({jax.__version__} on {jax.default_backend()})"
    return tuple(
        f"{build} miscompiles {what}: install another version before you believe any finding"
        for what in found
    )


def crops_and_pads(program: Any) -> bool:
    """Whether a convolution in it crops one axis before and pads it after, and pads no other."""
    for eqn in programs.equations(program):
        if eqn.primitive.name == "conv_general_dilated":
            padded = [pair for pair in eqn.params["padding"] if max(pair) > 0]
            if len(padded) == 1 and padded[0][0] < 0:
                return True
    return False


@functools.cache
def _miscompiles_products() -> bool:
    """The reproducer of jax-ml/jax#39103 (once a process)."""
    n = 32_769
    rows = jnp.zeros((n, 3), "float32").at[:, 0].set(jnp.arange(n, dtype="float32"))
    identity = jnp.eye(3, dtype="float32")
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((identity @ row) ** 2)))(rows)
    return bool(float(squares[-1]) != float(n - 1) ** 2)


@functools.cache
def _reads_beyond_a_crop() -> bool:
    """Seen on a CPU with jax 0.10.1 (tried once a process).

    What lies beyond the first of two examples is the second, so that it shows whatever else is in
    memory.
    """
    x, w = jnp.ones((2, 5, 4, 2), "float32"), jnp.ones((2, 2, 2, 3), "float32")
    layout = ("NHWC", "HWIO", "NHWC")

    def convolved(x: Any, low: int) -> Any:
        return lax.conv_general_dilated(x, w, (1, 1), ((low, 1), (0, 0)), dimension_numbers=layout)[
            0
        ]

    at_once, cropped = jax.jit(lambda x: (convolved(x, -2), convolved(x[:, 2:], 0)))(x)
    return bool(jnp.any(at_once != cropped))
