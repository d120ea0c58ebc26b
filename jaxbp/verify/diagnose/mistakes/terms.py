"""The mistakes that show when the derivative is taken apart: a term, a factor, a use left out.

Each function takes the evidence for one leaf and yields explanations, by setting the gates of
`gated` and looking whether the answer is the rule's.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.diagnosis import EXACT, Diagnosis
from jaxbp.verify.diagnose.evidence import PROMISING, Evidence
from jaxbp.verify.diagnose.gated import CARRIED, Gate, Kind
from jaxbp.verify.diagnose.parts import Parts
from jaxbp.verify.diagnose.rearrangements import index_maps

MOST_PAIRED = 24
"""Of the paths the first so many are cut two at a time: it goes with the square."""
MOST_STRAIGHT = 16
"""… and so many of the elementwise derivatives."""
MOST_USES = 64
"""More uses of one value, or steps of a scan, are not tried one by one."""
SAME = 1e-6
"""Weights this close are one."""


class Setting(NamedTuple):
    """How the gates are set."""

    weights: np.ndarray
    orders: dict[int, np.ndarray]
    """For some operands and results, by their gates: which entry stands where."""


class _Path(NamedTuple):
    """A path, and what flows along it."""

    gate: Gate
    lost: np.ndarray


class _Weighted(NamedTuple):
    """A path, and the weight with which it explains the error."""

    gate: Gate
    weight: float


def one_term(e: Evidence) -> Iterator[Diagnosis]:
    """One path cut, or turned in sign, or weighted."""
    parts = e.parts()
    if parts is None:
        return
    error = e.got[0] - e.truth[0]
    swept = any(gate.primitive == CARRIED for gate in parts.gates)
    fitted = []
    for path in _paths(e, parts):
        factor = float(np.sum(error * path.lost)) / float(np.sum(path.lost * path.lost))
        if np.isfinite(factor) and _left(error, factor * path.lost) <= PROMISING:
            fitted.append(_Weighted(path.gate, 1.0 + factor))
    # A path left out goes before half of one counted the other way round.
    for gate, weight in sorted(fitted, key=lambda found: abs(found.weight) > SAME):
        setting = _cut(parts, {gate.index: weight})
        if swept and _spares_another(e, parts, setting):
            continue  # the state is handed back: only this leaf's sum over the steps is not taken
        yield _term(gate, weight, _share(e, parts, setting))


def _spares_another(e: Evidence, parts: Parts, setting: Setting) -> bool:
    """Whether the rule is right for another leaf, which these gates would change."""
    x, c, truth = e.points[0], e.cotangents[0], e.truths[0]
    got, answer = e.rule(x, c), parts.answer(x, c, *setting)
    for other in e.leaves:
        right = truth[other.part]
        room = 1e-6 * float(np.abs(right).max(initial=0.0))
        if (
            other != e.leaf
            and np.allclose(got[other.part], right, 1e-6, room)
            and not np.allclose(answer[other.part], right, 1e-6, room)
        ):
            return True
    return False


def _term(gate: Gate, weight: float, share: float) -> Diagnosis:
    if abs(weight) < SAME:
        return Diagnosis("missing-term", f"{gate.what} is missing from the cotangent", share)
    if abs(weight + 1) < SAME:
        return Diagnosis("sign", f"{gate.what} has its sign turned", share)
    if share < EXACT:
        return Diagnosis("unknown", "", 0.0)
    what = f"a factor is wrong: {gate.what} is {naming.spelled(weight)} times what it must be"
    return Diagnosis("missing-term", what, share)


def one_factor(e: Evidence) -> Iterator[Diagnosis]:
    """An elementwise derivative, or the other factor of a product, left out."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind == Kind.STRAIGHT:
            share = _share(e, parts, _cut(parts, _instead(gate)))
            yield Diagnosis("missing-term", f"{gate.what} is left out", share)


def some_uses(e: Evidence) -> Iterator[Diagnosis]:
    """Only one of several uses of a value, or of several steps of a scan, kept."""
    parts = e.parts()
    if parts is None:
        return
    by_source: dict[int, list[Gate]] = {}
    for gate in parts.gates:
        if gate.kind == Kind.PATH and gate.source >= 0:
            by_source.setdefault(gate.source, []).append(gate)
    for uses in by_source.values():
        if not 2 < len(uses) <= MOST_USES:
            continue
        if len({g.primitive for g in uses}) > 1:
            continue  # not one loop's turns: terms are missing
        for kept in uses:
            others = {g.index: 0.0 for g in uses if g is not kept}
            yield Diagnosis(
                "overwritten",
                f"of {len(uses)} uses of one value only one contributes ({kept.what}): the others "
                "are replaced where they should be added",
                _share(e, parts, _cut(parts, others)),
            )
    yield from _steps(e, parts)


def _steps(e: Evidence, parts: Parts) -> Iterator[Diagnosis]:
    carries = {g.index: 0.0 for g in parts.gates if g.primitive == CARRIED}
    for gate in parts.gates:
        if gate.kind != Kind.STEP or not 1 < gate.steps <= MOST_USES:
            continue
        last = gate.steps - 1
        for t in (0, last):
            yield Diagnosis(
                "missing-term",
                f"step {t} of {gate.steps} of the scan is missing from the sum over the steps",
                _share(e, parts, _cut(parts, {gate.index + t: 0.0})),
            )
        for t in (last, 0):
            others = {gate.index + k: 0.0 for k in range(gate.steps) if k != t}
            for handed_back in ({}, carries):  # with and without what later steps hand back
                yield Diagnosis(
                    "overwritten",
                    f"only step {t} of {gate.steps} of the scan contributes: each step's share "
                    "replaces the one before where it should be added",
                    _share(e, parts, _cut(parts, others | handed_back)),
                )


def operand_of_product(e: Evidence) -> Iterator[Diagnosis]:
    """An operand of a product exchanged, mirrored or displaced where its adjoint is formed."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind != Kind.OPERAND:
            continue
        for way in index_maps(gate.shape):
            # Behind the operand's entries stands the zero that may be let in.
            order = np.where(way.source < 0, way.source.size, way.source)
            setting = _cut(parts, _instead(gate), {gate.index: order})
            what = f"{gate.what} enters {way.sentence}"
            yield Diagnosis(way.word, what, _share(e, parts, setting))


def result_of_product(e: Evidence) -> Iterator[Diagnosis]:
    """What flows back into a product exchanged or mirrored, for one operand's adjoint."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind != Kind.RESULT:
            continue
        for way in index_maps(gate.shape):
            if np.any(way.source < 0) or way.word == "shifted":
                continue
            setting = _cut(parts, _instead(gate), {gate.index: way.source})
            yield Diagnosis(
                way.word,
                f"the cotangent of `{gate.primitive}` enters the adjoint of {gate.what} "
                f"{way.sentence}",
                _share(e, parts, setting),
            )


def two_terms(e: Evidence) -> Iterator[Diagnosis]:
    """Two paths cut at once: a mean and a variance taken for constants, say."""
    parts = e.parts()
    if parts is None:
        return
    unlike: list[_Path] = []
    for path in _paths(e, parts):
        if all(_left(path.lost, other.lost) > 1e-12 for other in unlike):
            unlike.append(path)
    unlike = unlike[:MOST_PAIRED]
    for (a, _), (b, _) in itertools.combinations(unlike, 2):
        yield Diagnosis(
            "missing-term",
            f"{a.what} and {b.what} are missing from the cotangent",
            _share(e, parts, _cut(parts, {a.index: 0.0, b.index: 0.0})),
        )
    yield from _two_weighted(e, parts, unlike)


def _two_weighted(e: Evidence, parts: Parts, paths: list[_Path]) -> Iterator[Diagnosis]:
    """Two paths with a factor each, that must fit exactly: sums for means, one term twice."""
    if e.leaf.size < 3 or len(e.got) < 2:
        return
    error = (e.got[0] - e.truth[0]).reshape(-1)
    for (a, first), (b, second) in itertools.combinations(paths, 2):
        lost = np.stack([first.reshape(-1), second.reshape(-1)], axis=1)
        factors = np.linalg.lstsq(lost, error, rcond=None)[0]
        if _left(error, lost @ factors) > 1e-9:
            continue
        weights = 1.0 + factors
        share = _share(e, parts, _cut(parts, {a.index: weights[0], b.index: weights[1]}))
        if share >= EXACT:
            by_a, by_b = (naming.spelled(float(np.round(w, 9))) for w in weights)
            yield Diagnosis(
                "missing-term",
                f"two factors are wrong: {a.what} is {by_a} times what it must be, and {b.what} "
                f"{by_b} times",
                share,
            )
            return


def two_factors(e: Evidence) -> Iterator[Diagnosis]:
    """Two elementwise derivatives left out at once."""
    parts = e.parts()
    if parts is None:
        return
    straight = [gate for gate in parts.gates if gate.kind == Kind.STRAIGHT]
    for a, b in itertools.combinations(straight[:MOST_STRAIGHT], 2):
        if a.partner == b.partner:
            continue
        share = _share(e, parts, _cut(parts, _instead(a) | _instead(b)))
        yield Diagnosis("missing-term", f"{a.what} and {b.what} are left out", share)


def _paths(e: Evidence, parts: Parts) -> Iterator[_Path]:
    """The paths through which something flows into this leaf, for the first question."""
    size = float(np.abs(e.truth[0]).max(initial=0.0))
    for gate in parts.gates:
        if gate.kind != Kind.PATH:
            continue
        lost = e.truth[0] - _ask(e, parts, 0, _cut(parts, {gate.index: 0.0}))
        if np.all(np.isfinite(lost)) and np.abs(lost).max(initial=0.0) > 1e-9 * size:
            yield _Path(gate, lost)


def _cut(
    parts: Parts, weights: Mapping[int, float], orders: Mapping[int, np.ndarray] | None = None
) -> Setting:
    """The function's own derivative, but for these weights and orders."""
    setting = parts.whole()
    for index, weight in weights.items():
        setting[index] = weight
    return Setting(setting, dict(orders or {}))


def _instead(gate: Gate) -> dict[int, float]:
    """The weights that put a gate in the place of the path beside it."""
    return {gate.index: 1.0, gate.partner: 0.0}


def _ask(e: Evidence, parts: Parts, question: int, setting: Setting) -> np.ndarray:
    return e.mine(parts.answer(e.points[question], e.cotangents[question], *setting))


def _share(e: Evidence, parts: Parts, setting: Setting) -> float:
    """The share explained over all questions; most settings fail the first one already."""
    if not e.left(_ask(e, parts, 0, setting)) <= PROMISING:
        return 0.0
    return e.explained(np.array([_ask(e, parts, q, setting) for q in range(len(e.got))]))


def _left(error: np.ndarray, explanation: np.ndarray) -> float:
    """The share of an error that an explanation leaves."""
    norm = float(np.sum(error * error))
    with np.errstate(over="ignore", invalid="ignore"):
        left = float(np.sum(np.abs(error - explanation) ** 2))
    return left / norm if norm > 0 and np.isfinite(left) else 1.0
