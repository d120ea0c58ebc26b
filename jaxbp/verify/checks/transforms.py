"""The rule under `jit`, `vmap`, `scan`, `remat` and `shard_map`, each against the plain call."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxbp.verify.checks.outcome import Outcome, numbers
from jaxbp.verify.compare import rounding
from jaxbp.verify.compare.sample import Sample, compare, spread, tolerance_of
from jaxbp.verify.report import Finding
from jaxbp.verify.subject.subject import (
    QUICK,
    Leaf,
    LeafFunction,
    Leaves,
    Pullback,
    Vector,
    pack,
    vjp_of,
)
from jaxbp.verify.trial import Trial

BATCH = 2
MOST_SUBSETS = 31
"""All of five arguments; of more, each alone and all together."""
SAID = 480
"""So many characters of what JAX says are passed on."""
DEVICES = 2
"""What goes wrong only over several devices goes wrong over two."""

LeavesVjp = Callable[[Leaves, Leaves, Leaves], Leaves]


class Situation:
    """Two points, two cotangents, and the plain answers, which every transform must give."""

    def __init__(
        self,
        trial: Trial,
        points: Sequence[Vector],
        rng: np.random.Generator,
        as_given: bool = False,
    ) -> None:
        self.trial = trial
        self.rule = trial.given if as_given else trial.traced
        self.eps = trial.eps_traced
        if as_given:
            narrow = [float(jnp.finfo(leaf.dtype).eps) for leaf in trial.subject.leaves]
            self.eps = max([self.eps, *narrow])
        away = list(points[1:]) or list(points)
        self.points = [away[0], away[-1] if len(away) > 1 else points[0]]
        self.cotangents = [trial.cotangent(rng) for _ in range(BATCH)]
        self.rng = rng
        self._plain: dict[tuple[bytes, int], tuple[Vector, Vector]] = {}

    def plain(self, x: Vector, which: int) -> tuple[Vector, Vector]:
        """The plain VJP at `x` for cotangent `which`, and what rounding may do to it."""
        key = (x.tobytes(), which)
        if key not in self._plain:
            self._plain[key] = self.answered(self.rule, x, self.cotangents[which])
        return self._plain[key]

    def answered(self, pullback: Pullback, x: Vector, c: Vector) -> tuple[Vector, Vector]:
        """An answer, and what rounding may do to it."""
        answer = pullback(x, c)
        moved = spread(pullback, x, c, self.eps, self.rng)
        room = tolerance_of(moved, answer, self.trial.subject.leaves, self.eps)
        if not pullback.wide:  # what cancels in few digits differs with the order of its steps
            room += self._moved(pullback, x, c)
        return answer, room

    def _moved(self, pullback: Pullback, x: Vector, c: Vector) -> Vector | float:
        """How far rounding moves an answer; 0 where its program cannot be run step by step."""
        try:
            with pullback.mode():
                arguments = self.trial.subject.cast(x, pullback.dtype), self.trial.subject.others
                vjp = _vjp_leaves(pullback.fn)
                return rounding.moved(vjp, (*arguments, pullback.cotangents(c)), self.rng, False)
        except Exception:  # a primitive that cannot be bound anew
            return 0.0

    def leaves(self, x: Vector) -> Leaves:
        return self.trial.subject.cast(x, self.rule.dtype)

    def ct(self, which: int) -> Leaves:
        return self.rule.cotangents(self.cotangents[which])


class Composition:
    """One way to transform the VJP, and what the plain calls say it must give."""

    def __init__(
        self,
        name: str,
        transformed: LeavesVjp,
        arguments: tuple[Leaves, Leaves, Leaves],
        expected: list[tuple[Vector, Vector]],
        blames: str | None = None,
        members: list[Vector] | None = None,
    ) -> None:
        self.blames = blames
        """The argument to name when it raises: the only one that is batched."""
        self.members = members
        """The points of a batch that is differentiated as one."""
        self.name, self.transformed = name, transformed
        self.arguments, self.expected = arguments, expected


def check(
    trial: Trial, points: Sequence[Vector], kinds: Sequence[str], rng: np.random.Generator
) -> Outcome:
    """Every chosen kind of transform: a row each, and a finding for the first that goes wrong."""
    outcome = Outcome()
    situation = Situation(trial, points, rng)
    makers: dict[str, Callable[[Situation], list[Composition]]] = {
        "vmap": _vmaps,
        "scan": _scans,
        "remat": _remats,
        "shard-map": _shard_maps,
    }
    for kind in kinds:
        try:
            compositions = makers[kind](situation)
        except NotApplicable as reason:
            outcome.row(kind, None, str(reason))
            continue
        if kind == "vmap" and _value_is_wrong(situation, outcome):
            continue
        if (
            situation.rule.wide
            and trial.given is not trial.traced
            and _raises(situation, compositions)
        ):
            # A dtype that is written down in a rule is no fault of it: asked as it was given then.
            narrow = Situation(trial, points, rng, as_given=True)
            _judge(narrow, kind, makers[kind](narrow), outcome)
            continue
        _judge(situation, kind, compositions, outcome)
    return outcome


def _raises(s: Situation, compositions: list[Composition]) -> bool:
    try:
        with s.rule.mode():
            for composition in compositions:
                jax.eval_shape(composition.transformed, *composition.arguments)
    except Exception:
        return True
    return False


class NotApplicable(Exception):
    """There is nothing to transform here, and why."""


def _judge(s: Situation, kind: str, compositions: list[Composition], outcome: Outcome) -> None:
    names = tuple(c.name for c in compositions)
    run = s.trial.remember(
        (kind, names, s.rule.wide), lambda: jax.jit(_together(compositions), compiler_options=QUICK)
    )
    arguments = [c.arguments for c in compositions]
    try:
        with s.rule.mode():
            together = list(jax.block_until_ready(run(arguments)))
        answers: list[tuple[Any, Exception | None]] = [(answer, None) for answer in together]
    except Exception:  # one of them fails: which one?
        answers = [_alone(s, composition) for composition in compositions]
    for composition, (answer, error) in zip(compositions, answers, strict=True):
        if error is not None:
            _raised(s, kind, composition, error, outcome)
            return
        bad = _first_wrong(s, composition, answer)
        if bad is not None:
            leaf, fields = bad
            outcome.found(
                Finding(
                    kind,
                    leaf.name,
                    kind,
                    f"under {composition.name} the cotangent differs from the plain call's"
                    + _counted_for_each_example(s, composition),
                    "rule",
                    **fields,  # type: ignore[arg-type]
                ),
                f"wrong under {composition.name}",
            )
            return
    outcome.row(kind, True, "; ".join(names[:4]) + (" …" if len(names) > 4 else ""))


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
    again = Composition(
        composition.name,
        composition.transformed,
        (*composition.arguments[:2], stacked),
        [s.answered(s.rule, x, c * keep) for x, c in zip(members, s.cotangents, strict=True)],
    )
    answer, error = _alone(s, again)
    if error is not None or _first_wrong(s, again, answer) is not None:
        return ""
    which = ", ".join(map(str, shared))
    return (
        f": output {which} depends on nothing that is mapped over and is not batched, and this "
        "version of JAX counts its cotangent once for each example (let it depend on all "
        "arguments, or compute it outside of the rule)"
    )


def _value_is_wrong(s: Situation, outcome: Outcome) -> bool:
    """Whether the value alone, with nothing differentiated, differs under `vmap`."""
    every = tuple(range(len(s.trial.subject.argument_names)))
    run = s.trial.remember(
        "vmapped value",
        lambda: jax.jit(jax.vmap(s.trial.rule_fn, in_axes=(0, None)), compiler_options=QUICK),
    )
    try:
        with s.rule.mode():
            outputs = run(_stacked(s, s.points, every), s.trial.subject.others)
    except Exception:
        return False  # then the gradient raises too, and says why
    whole = [Leaf("", 0, (s.trial.output_size,), np.dtype(float), 0, s.trial.output_size)]
    for member, x in enumerate(s.points):
        mine = pack([np.asarray(out)[member] for out in outputs])
        sample = compare(
            lambda x, _: s.rule.value(x),
            lambda _x, _c, mine=mine: mine,  # type: ignore[misc]
            x,
            np.zeros(1),
            whole,
            s.trial.eps_traced,
            s.rng,
            "vmap",
        )
        if sample.wrong(whole[0]).any():
            place = int(np.argmax(sample.excess()))
            outcome.found(
                Finding(
                    "vmap",
                    None,
                    "vmap",
                    f"under vmap the value differs from the plain call's (output entry {place})",
                    "forward",
                    None,
                    float(np.real(mine[place])),
                    float(np.real(sample.got[place])),
                    float(sample.tolerance[place]),
                )
            )
            return True
    return False


def _together(compositions: list[Composition]) -> Callable[[list[Any]], list[Leaves]]:
    functions = [c.transformed for c in compositions]
    return lambda arguments: [f(*a) for f, a in zip(functions, arguments, strict=True)]


def _alone(s: Situation, composition: Composition) -> tuple[Any, Exception | None]:
    try:
        with s.rule.mode():
            run = jax.jit(composition.transformed, compiler_options=QUICK)
            return jax.block_until_ready(run(*composition.arguments)), None
    except Exception as error:
        return None, error


def _raised(
    s: Situation, kind: str, composition: Composition, error: Exception, outcome: Outcome
) -> None:
    """What raises is refused, not wrong: it is a finding where the reference can do it."""
    lines = str(error).strip().splitlines() or [""]
    said = textwrap.shorten(f"{type(error).__name__}: {lines[0]}", SAID, placeholder=" …")
    if kind == "shard-map":
        hint = ""
        if "manual axis types" in str(error) or "varying" in str(error):
            hint = (
                " (sum the cotangent of a replicated argument with `jax.lax.psum` over the axes in "
                "which it varies and its primal does not)"
            )
        outcome.row(kind, None, f"refused with the default checks{hint}: {said}")
        return
    if "UNIMPLEMENTED" in said:
        outcome.row(kind, None, f"this backend cannot run {composition.name}: {said}")
        return
    if not _reference_can(s, kind):
        outcome.row(kind, None, f"the reference cannot be transformed either: {said}")
        return
    hint = ""
    if "generic_batching" in str(error):
        hint = (
            " (an output depends on nothing that is mapped over, so that all examples share it: "
            "pass `generic_batching=True` to defvjp)"
        )
    outcome.found(
        Finding(kind, composition.blames, kind, f"{composition.name} raises {said}{hint}", "rule"),
        f"raises under {composition.name}",
    )


def _reference_can(s: Situation, kind: str) -> bool:
    makers = {"vmap": _vmaps, "scan": _scans, "remat": _remats}
    try:
        with s.trial.truth.mode():
            for composition in makers[kind](s, s.trial.truth_fn):
                jax.eval_shape(composition.transformed, *composition.arguments)
    except Exception:
        return False
    return True


def _first_wrong(
    s: Situation, composition: Composition, answer: Leaves
) -> tuple[Leaf, dict[str, object]] | None:
    """The first leaf in which the transformed answer is not the plain one."""
    leaves = s.trial.subject.leaves
    for leaf, got in zip(leaves, answer, strict=True):
        stacked = np.asarray(got, dtype=np.complex128 if leaf.dtype.kind == "c" else np.float64)
        members = (
            stacked if len(composition.expected) > 1 and stacked.ndim > len(leaf.shape) else None
        )
        if members is None:
            total = sum(np.asarray(e[leaf.part]) for e, _ in composition.expected)
            room = sum(np.asarray(t[leaf.part]) for _, t in composition.expected)
            pairs = [(stacked.reshape(-1), total, room)]
        else:
            pairs = [
                (m.reshape(-1), e[leaf.part], t[leaf.part])
                for m, (e, t) in zip(members, composition.expected, strict=True)
            ]
        for mine, theirs, room in pairs:
            sample = _sample(leaf, mine, theirs, room)
            if sample.wrong(leaf).any():
                return leaf, numbers(sample, leaf)
    return None


def _sample(leaf: Leaf, mine: Any, theirs: Any, room: Any) -> Sample:
    """One leaf's numbers placed where `Sample` looks for them."""
    full = np.zeros(leaf.stop, dtype=np.result_type(mine, theirs))
    got, expected, tolerance = full.copy(), full.copy(), np.zeros(leaf.stop)
    got[leaf.part], expected[leaf.part], tolerance[leaf.part] = mine, theirs, room
    return Sample(full, full, got, expected, tolerance, "")


def _vjp_leaves(fn: LeafFunction) -> LeavesVjp:
    vjp = vjp_of(fn)
    return lambda leaves, others, cts: vjp(leaves, others, cts)[1]


def _subsets(s: Situation) -> list[tuple[int, ...]]:
    """Subsets of the top-level arguments that hold arrays: all while they are few."""
    subject = s.trial.subject
    arguments = sorted({leaf.argument for leaf in subject.leaves})
    every = [
        chosen
        for length in range(1, len(arguments) + 1)
        for chosen in itertools.combinations(arguments, length)
    ]
    if len(every) > MOST_SUBSETS:
        every = [*[(a,) for a in arguments], tuple(arguments)]
    return every


def _mixed(s: Situation, subset: tuple[int, ...]) -> list[Vector]:
    """The points of a batch in which only the leaves of `subset` vary."""
    base = s.points[0]
    members = []
    for x in s.points:
        member = base.copy()
        for leaf in s.trial.subject.leaves:
            if leaf.argument in subset:
                member[leaf.part] = x[leaf.part]
        members.append(member)
    return members


def _stacked(s: Situation, members: list[Vector], subset: tuple[int, ...]) -> Leaves:
    columns = [s.leaves(x) for x in members]
    return [
        np.stack([column[i] for column in columns]) if leaf.argument in subset else columns[0][i]
        for i, leaf in enumerate(s.trial.subject.leaves)
    ]


def _stacked_cts(s: Situation) -> Leaves:
    return [np.stack(parts) for parts in zip(s.ct(0), s.ct(1), strict=True)]


def _names(s: Situation, subset: tuple[int, ...]) -> str:
    return ", ".join(s.trial.subject.argument_names[a] for a in subset)


def _vmaps(s: Situation, fn: LeafFunction | None = None) -> list[Composition]:
    fn = fn or s.trial.rule_fn
    subject = s.trial.subject
    compositions = []
    for subset in _subsets(s):
        axes = [0 if leaf.argument in subset else None for leaf in subject.leaves]
        mapped = jax.vmap(fn, in_axes=(axes, None))
        members = _mixed(s, subset)
        compositions.append(
            Composition(
                f"the gradient of vmap over {_names(s, subset)}",
                _vjp_leaves(mapped),
                (_stacked(s, members, subset), subject.others, _stacked_cts(s)),
                [s.plain(x, i) for i, x in enumerate(members)],
                _names(s, subset) if len(subset) == 1 else None,
                members,
            )
        )
    every = tuple(range(len(subject.argument_names)))
    compositions.append(
        Composition(
            "vmap of the gradient",
            jax.vmap(_vjp_leaves(fn), in_axes=(0, None, 0)),
            (_stacked(s, s.points, every), subject.others, _stacked_cts(s)),
            [s.plain(x, i) for i, x in enumerate(s.points)],
        )
    )
    compositions.append(
        Composition(
            "vmap over the cotangent alone (as in jacrev)",
            jax.vmap(_vjp_leaves(fn), in_axes=(None, None, 0)),
            (s.leaves(s.points[0]), subject.others, _stacked_cts(s)),
            [s.plain(s.points[0], i) for i in range(BATCH)],
        )
    )
    return compositions


def _scans(s: Situation, fn: LeafFunction | None = None) -> list[Composition]:
    inner = fn or s.trial.rule_fn
    subject = s.trial.subject
    first = (subject.leaves[0].argument,)
    moving = [leaf.argument in first for leaf in subject.leaves]

    def scanned(leaves: Leaves, others: Leaves) -> Leaves:
        def step(carry: Any, slices: Leaves) -> tuple[Any, Leaves]:
            each = iter(slices)
            full = [next(each) if m else leaf for m, leaf in zip(moving, leaves, strict=True)]
            return carry, inner(full, others)

        xs = [leaf for m, leaf in zip(moving, leaves, strict=True) if m]
        return jax.lax.scan(step, jnp.zeros(()), xs)[1]

    members = _mixed(s, first)
    return [
        Composition(
            f"the gradient of scan over {_names(s, first)}",
            _vjp_leaves(scanned),
            (_stacked(s, members, first), subject.others, _stacked_cts(s)),
            [s.plain(x, i) for i, x in enumerate(members)],
        )
    ]


def _remats(s: Situation, fn: LeafFunction | None = None) -> list[Composition]:
    x = s.points[0]
    return [
        Composition(
            "jax.checkpoint",
            _vjp_leaves(jax.checkpoint(fn or s.trial.rule_fn)),
            (s.leaves(x), s.trial.subject.others, s.ct(0)),
            [s.plain(x, 0)],
        )
    ]


def _shard_maps(s: Situation) -> list[Composition]:
    """Split the first array's leading axis over the devices, replicate what has another one."""
    subject = s.trial.subject
    first = next((leaf for leaf in subject.leaves if leaf.shape and leaf.size), None)
    if first is None:
        raise NotApplicable("no array with an axis to split")
    length = first.shape[0]

    def is_split(shape: tuple[int, ...], argument: int) -> bool:
        return bool(shape) and (
            argument == first.argument or (argument > 0 and shape[:1] == (length,) and _batched(s))
        )

    shapes = [leaf.shape for leaf in subject.leaves], [np.shape(v) for v in subject.others]
    arguments = [leaf.argument for leaf in subject.leaves], subject.other_arguments
    split = tuple(
        list(map(is_split, every, owners)) for every, owners in zip(shapes, arguments, strict=True)
    )
    fn = s.trial.rule_fn
    x = s.points[0]

    def parts(leaves: Leaves, others: Leaves) -> Leaves:
        """What the devices must give together, one after the other on one device."""
        together = []
        for device in range(DEVICES):
            mine = [
                [jnp.split(v, DEVICES)[device] if on else v for v, on in zip(vs, ons, strict=True)]
                for vs, ons in zip((leaves, others), split, strict=True)
            ]
            together.append(fn(*mine))
        return [jnp.stack(outs) for outs in zip(*together, strict=True)]

    lengths = [
        shape[0]
        for every, ons in zip(shapes, split, strict=True)
        for shape, on in zip(every, ons, strict=True)
        if on
    ]
    count, expected, cts = 1, s.plain(x, 0), [np.expand_dims(c, 0) for c in s.ct(0)]
    if len(jax.devices()) >= DEVICES and not any(n % DEVICES for n in lengths):
        plain = Pullback(subject, parts, s.rule.dtype)
        try:
            c = s.rng.standard_normal(sum(int(np.prod(out.shape)) for out in plain.outputs()))
            expected, cts = s.answered(plain, x, c), plain.cotangents(c)
            count = DEVICES
        except Exception:  # it refuses a part of its arguments: then all of them on one device
            pass
    mesh = Mesh(np.array(jax.devices()[:count]), ("shard",), axis_types=(AxisType.Auto,))
    specs = tuple([P("shard") if on else P() for on in ons] for ons in split)

    def local(leaves: Leaves, others: Leaves) -> Leaves:
        return [jnp.expand_dims(out, 0) for out in fn(leaves, others)]

    shard = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("shard"))
    over = "one device" if count == 1 else f"{count} devices"
    return [
        Composition(
            f"shard_map over {over} with {first.name} split and the rest replicated",
            _vjp_leaves(shard),
            (s.leaves(x), subject.others, cts),
            [expected],
        )
    ]


def _batched(s: Situation) -> bool:
    """Whether the outputs carry the first array's leading axis: then others with it do as well."""
    length = s.trial.subject.leaves[0].shape[:1]
    return all(out.shape[:1] == length for out in s.trial.given.outputs())
