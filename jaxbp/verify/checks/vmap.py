"""Is the rule right under `vmap`, over any of its arguments and over the cotangent?"""

import dataclasses
import itertools

import jax
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.transformed import (
    BATCH,
    Composition,
    Situation,
    Transform,
    is_right,
    judge,
    vjp_leaves,
)
from jaxbp.verify.checks.value import whole_output
from jaxbp.verify.compare.sample import Place, compare
from jaxbp.verify.report import Finding
from jaxbp.verify.subject.pullback import QUICK
from jaxbp.verify.subject.vectors import LeafFunction, pack

NAME = "vmap"
MOST_SUBSETS = 31
"""All of five arguments; of more, each alone and all together."""


def check(s: Situation) -> Outcome:
    """The value first, then every composition."""
    outcome = Outcome()
    wrong = _wrong_value(s)
    if wrong is not None:
        outcome.found(wrong)
        return outcome
    return judge(s, VMAP)


def _compositions(s: Situation, fn: LeafFunction) -> list[Composition]:
    subject = s.trial.subject
    compositions = []
    for subset in _subsets(s):
        axes = [0 if leaf.argument in subset else None for leaf in subject.leaves]
        mapped = jax.vmap(fn, in_axes=(axes, None))
        members = s.mixed(subset)
        compositions.append(
            Composition(
                f"the gradient of vmap over {s.names(subset)}",
                vjp_leaves(mapped),
                (s.stacked(members, subset), subject.others, s.stacked_cts()),
                [s.plain(x, i) for i, x in enumerate(members)],
                s.names(subset) if len(subset) == 1 else None,
                members,
            )
        )
    every = range(len(subject.argument_names))
    compositions.append(
        Composition(
            "vmap of the gradient",
            jax.vmap(vjp_leaves(fn), in_axes=(0, None, 0)),
            (s.stacked(s.points, every), subject.others, s.stacked_cts()),
            [s.plain(x, i) for i, x in enumerate(s.points)],
        )
    )
    compositions.append(
        Composition(
            "vmap over the cotangent alone (as in jacrev)",
            jax.vmap(vjp_leaves(fn), in_axes=(None, None, 0)),
            (s.leaves(s.points[0]), subject.others, s.stacked_cts()),
            [s.plain(s.points[0], i) for i in range(BATCH)],
        )
    )
    return compositions


def _subsets(s: Situation) -> list[tuple[int, ...]]:
    """Subsets of the top-level arguments that hold arrays: all while they are few."""
    arguments = sorted({leaf.argument for leaf in s.trial.subject.leaves})
    every = [
        chosen
        for length in range(1, len(arguments) + 1)
        for chosen in itertools.combinations(arguments, length)
    ]
    if len(every) > MOST_SUBSETS:
        every = [*[(a,) for a in arguments], tuple(arguments)]
    return every


def _hint(error: Exception) -> str:
    if "generic_batching" not in str(error):
        return ""
    return (
        " (an output depends on nothing that is mapped over, so that all examples share it: "
        "pass `generic_batching=True` to defvjp)"
    )


def _counted_for_each_example(s: Situation, composition: Composition) -> str:
    """Why it is wrong, if all is right but for outputs that are the same throughout the batch.

    vmap of jax 0.10.1 gives each example the whole cotangent of such an output, and sums.
    """
    members = composition.members
    if members is None:
        return ""
    shared, keep = [], np.ones(s.trial.output_size)
    values = [s.rule.value(x) for x in members]
    for number, leaf in enumerate(s.trial.output_leaves):
        if all(np.array_equal(values[0][leaf.part], v[leaf.part]) for v in values):
            shared.append(number)
            keep[leaf.part] = 0.0
    if not shared:
        return ""
    without = [s.rule.cotangents(c * keep) for c in s.cotangents]
    stacked = [np.stack(parts) for parts in zip(*without, strict=True)]
    again = composition._replace(
        arguments=(*composition.arguments[:2], stacked),
        expected=[
            s.answered(s.rule, x, c * keep) for x, c in zip(members, s.cotangents, strict=True)
        ],
    )
    if not is_right(s, again):
        return ""
    which = ", ".join(map(str, shared))
    return (
        f": output {which} depends on nothing that is mapped over and is not batched, and this "
        "version of JAX counts its cotangent once for each example (let it depend on all "
        "arguments, or compute it outside of the rule)"
    )


VMAP = Transform(NAME, _compositions, _hint, _counted_for_each_example)


def _wrong_value(s: Situation) -> Finding | None:
    """What is wrong with the value alone, with nothing differentiated, under `vmap`."""
    every = range(len(s.trial.subject.argument_names))
    run = s.trial.remember(
        "vmapped value",
        lambda: jax.jit(jax.vmap(s.trial.rule_fn, in_axes=(0, None)), compiler_options=QUICK),
    )
    try:
        with s.rule.mode():
            outputs = run(s.stacked(s.points, every), s.trial.subject.others)
    except Exception:
        return None  # then the gradient raises too, and says why
    whole, eps = whole_output(s.trial), s.trial.traced.eps
    for member, x in enumerate(s.points):
        mine = pack([np.asarray(out)[member] for out in outputs])
        sample = compare(
            lambda x, _: s.rule.value(x),
            lambda _x, _c, mine=mine: mine,  # type: ignore[misc]
            x,
            np.zeros(1),
            [whole],
            eps,
            s.rng,
            NAME,
        )
        if sample.wrong(whole).any():
            place = int(np.argmax(sample.excess()))
            at = Place.of(whole, place, mine, sample.got, sample.tolerance)
            message = f"under vmap the value differs from the plain call's (output entry {place})"
            return finding(
                NAME, NAME, message, side="forward", at=dataclasses.replace(at, index=None)
            )
    return None
