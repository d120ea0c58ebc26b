"""Optimisers and learning-rate schedules, by the names that the command line gives them."""

from __future__ import annotations

import optax

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "warmup", "warmup-cosine")
WARMUP = 0.1  # of all steps


def schedule(name: str, lr: float, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step, from 0 to `steps` - 1."""
    warmup = max(1, round(WARMUP * steps)) if name.startswith("warmup") else 0
    rest = max(1, steps - warmup)
    after = optax.cosine_decay_schedule(lr, rest) if name.endswith("cosine") else lr
    then = after if callable(after) else optax.constant_schedule(lr)
    if not warmup:
        return then
    # The first step is not wasted on a rate of 0: the line starts one step before it.
    rise = optax.linear_schedule(lr / warmup, lr, max(1, warmup - 1))
    return optax.join_schedules([rise, then], [warmup])


def optimizer(
    name: str, rate: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Return the update rule: momentum counts for sgd, weight decay for sgd and adamw."""
    if name == "adam":
        return optax.adam(rate)
    if name == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=momentum or None)
    )
