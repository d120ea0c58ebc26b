"""A derivative for what JAX has no reverse mode for, a `while_loop`: column by column."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.verify.subject.vectors import LeafFunction, Leaves


def by_columns(fn: LeafFunction) -> LeafFunction:
    """`fn` with a VJP that takes each column of the Jacobian by forward mode."""

    @jax.custom_vjp
    def columns(leaves: Leaves, others: Leaves) -> Leaves:
        return fn(leaves, others)

    def backward(kept: tuple[Leaves, Leaves], cts: Leaves) -> tuple[Leaves, None]:
        leaves, others = kept

        def along(k: int, index: Any) -> Any:
            leaf = leaves[k]
            direction = jnp.zeros(leaf.size, leaf.dtype).at[index].set(1).reshape(leaf.shape)

            def of_one(v: Any) -> Leaves:
                return fn([*leaves[:k], v, *leaves[k + 1 :]], others)

            slopes = jax.jvp(of_one, (leaf,), (direction,))[1]
            return sum(
                jnp.sum(ct * slope).astype(leaf.dtype)
                for ct, slope in zip(cts, slopes, strict=True)
            )

        answers = [
            jax.lax.map(functools.partial(along, k), jnp.arange(leaf.size)).reshape(leaf.shape)
            for k, leaf in enumerate(leaves)
        ]
        return answers, None

    columns.defvjp(lambda leaves, others: (fn(leaves, others), (leaves, others)), backward)
    return columns
