"""Does this build of JAX compute right at all? A compiler that does not would refute good rules."""

import functools

import jax
import jax.numpy as jnp


@functools.cache
def warnings() -> tuple[str, ...]:
    """What is known to be wrong with the JAX in use, found by trying it (once a process)."""
    n = 32_769
    rows = jnp.stack([jnp.arange(n, dtype="float32"), jnp.zeros(n), jnp.zeros(n)], axis=1)
    identity = jnp.eye(3, dtype="float32")
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((identity @ row) ** 2)))(rows)
    if float(squares[-1]) == float(n - 1) ** 2:
        return ()
    return (
        f"this JAX ({jax.__version__} on {jax.default_backend()}) miscompiles a vmapped "
        "matrix-vector product (jax-ml/jax#39103): install another version before you believe "
        "any finding",
    )
