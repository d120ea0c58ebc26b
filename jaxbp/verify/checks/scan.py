"""Is the rule right inside of a `scan`?"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.verify.checks.outcome import Outcome
from jaxbp.verify.checks.transformed import Composition, Situation, Transform, judge, vjp_leaves
from jaxbp.verify.subject.vectors import LeafFunction, Leaves


def check(s: Situation) -> Outcome:
    """The gradient of a scan over the first argument."""
    return judge(s, SCAN)


def _compositions(s: Situation, fn: LeafFunction) -> list[Composition]:
    subject = s.trial.subject
    first = (subject.leaves[0].argument,)
    moving = [leaf.argument in first for leaf in subject.leaves]

    def scanned(leaves: Leaves, others: Leaves) -> Leaves:
        def step(carry: Any, slices: Leaves) -> tuple[Any, Leaves]:
            each = iter(slices)
            full = [next(each) if m else leaf for m, leaf in zip(moving, leaves, strict=True)]
            return carry, fn(full, others)

        xs = [leaf for m, leaf in zip(moving, leaves, strict=True) if m]
        return jax.lax.scan(step, jnp.zeros(()), xs)[1]

    members = s.mixed(first)
    return [
        Composition(
            f"the gradient of scan over {s.names(first)}",
            vjp_leaves(scanned),
            (s.stacked(members, first), subject.others, s.stacked_cts()),
            [s.plain(x, i) for i, x in enumerate(members)],
        )
    ]


SCAN = Transform("scan", _compositions)
