"""Is the rule right under `shard_map`, with the first array split over devices?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxbp.verify.checks.outcome import Outcome
from jaxbp.verify.checks.transformed import (
    Answer,
    Composition,
    NotApplicable,
    Situation,
    Transform,
    judge,
    vjp_leaves,
)
from jaxbp.verify.subject.pullback import Pullback
from jaxbp.verify.subject.vectors import LeafFunction, Leaves

DEVICES = 2
"""What goes wrong only over several devices goes wrong over two."""


def check(s: Situation) -> Outcome:
    """The gradient over two devices, or over one where there are no two."""
    return judge(s, SHARD_MAP)


class _Split(NamedTuple):
    """Which arrays are split along their leading axis; the others are replicated."""

    leaves: list[bool]
    others: list[bool]
    lengths: set[int]
    """Of the axes that are split."""
    first: str
    """The name of the array that decides."""


def _split(s: Situation) -> _Split:
    """Split the first array that has an axis, and what has the same leading axis in a batch."""
    subject = s.trial.subject
    first = next((leaf for leaf in subject.leaves if leaf.shape and leaf.size), None)
    if first is None:
        raise NotApplicable("no array with an axis to split")
    length, batched = first.shape[0], _batched(s)

    def is_split(shape: tuple[int, ...], argument: int) -> bool:
        beside = argument > 0 and shape[:1] == (length,) and batched
        return bool(shape) and (argument == first.argument or beside)

    shapes = [np.shape(v) for v in subject.others]
    leaves = [is_split(leaf.shape, leaf.argument) for leaf in subject.leaves]
    others = list(map(is_split, shapes, subject.other_arguments))
    every = zip([leaf.shape for leaf in subject.leaves] + shapes, leaves + others, strict=True)
    return _Split(leaves, others, {shape[0] for shape, on in every if on}, first.name)


def _batched(s: Situation) -> bool:
    """Whether the outputs carry the first array's leading axis: then others with it do as well."""
    length = s.trial.subject.leaves[0].shape[:1]
    return all(out.shape[:1] == length for out in s.trial.given.outputs())


class _Question(NamedTuple):
    """Over how many devices it is asked, with which cotangents, and the answer."""

    devices: int
    cts: Leaves
    expected: Answer


def _question(s: Situation, fn: LeafFunction, split: _Split) -> _Question:
    x = s.points[0]
    if len(jax.devices()) >= DEVICES and not any(n % DEVICES for n in split.lengths):
        parts = Pullback(s.trial.subject, _part_by_part(fn, split), s.rule.dtype)
        try:
            c = s.rng.standard_normal(sum(int(np.prod(out.shape)) for out in parts.outputs()))
            return _Question(DEVICES, parts.cotangents(c), s.answered(parts, x, c))
        except Exception:  # it refuses a part of its arguments: then all of them on one device
            pass
    return _Question(1, [np.expand_dims(ct, 0) for ct in s.ct(0)], s.plain(x, 0))


def _part_by_part(fn: LeafFunction, split: _Split) -> LeafFunction:
    """What the devices must give together, one after the other on one device."""

    def parts(leaves: Leaves, others: Leaves) -> Leaves:
        together = []
        for device in range(DEVICES):
            mine = [
                [jnp.split(v, DEVICES)[device] if on else v for v, on in zip(vs, ons, strict=True)]
                for vs, ons in ((leaves, split.leaves), (others, split.others))
            ]
            together.append(fn(*mine))
        return [jnp.stack(outs) for outs in zip(*together, strict=True)]

    return parts


def _compositions(s: Situation, fn: LeafFunction) -> list[Composition]:
    split = _split(s)
    question = _question(s, fn, split)
    count = question.devices
    mesh = Mesh(np.array(jax.devices()[:count]), ("shard",), axis_types=(AxisType.Auto,))
    specs = tuple([P("shard") if on else P() for on in ons] for ons in split[:2])

    def local(leaves: Leaves, others: Leaves) -> Leaves:
        return [jnp.expand_dims(out, 0) for out in fn(leaves, others)]

    shard = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("shard"))
    over = "one device" if count == 1 else f"{count} devices"
    return [
        Composition(
            f"shard_map over {over} with {split.first} split and the rest replicated",
            vjp_leaves(shard),
            (s.leaves(s.points[0]), s.trial.subject.others, question.cts),
            [question.expected],
        )
    ]


def _hint(error: Exception) -> str:
    if "manual axis types" not in str(error) and "varying" not in str(error):
        return ""
    return (
        " (sum the cotangent of a replicated argument with `jax.lax.psum` over the axes in "
        "which it varies and its primal does not)"
    )


SHARD_MAP = Transform("shard-map", _compositions, _hint, may_be_refused=True)
