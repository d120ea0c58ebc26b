"""The mistakes that show when the derivative is taken apart: a term, a factor, a use left out.

Each function takes the evidence for one leaf and yields explanations, by setting the gates of
`terms` and looking whether the answer is the rule's.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxbp.verify.diagnose import naming
from jaxbp.verify.diagnose.evidence import Diagnosis, Evidence
from jaxbp.verify.diagnose.gated import Gate, Parts
from jaxbp.verify.diagnose.mistakes.answers import index_maps
from jaxbp.verify.subject.subject import unpack

PROMISING = 0.95
MOST_PAIRED = 24
MOST_STRAIGHT = 16

Settings = tuple[np.ndarray, dict[int, np.ndarray]]


def one_term(e: Evidence) -> Iterator[Diagnosis]:
    """One path cut, or turned in sign, or weighted."""
    parts = e.parts()
    if parts is None:
        return
    error = e.got[0] - e.truth[0]
    swept = any(gate.primitive == "carry" for gate in parts.gates)
    fitted = []
    for gate, lost in _contributions(e, parts):
        factor = float(np.sum(error * lost)) / float(np.sum(lost * lost))
        if np.isfinite(factor) and _left(error, factor * lost) <= 1 - PROMISING:
            fitted.append((gate, factor))
    # A path left out goes before half of one counted the other way round.
    for gate, factor in sorted(fitted, key=lambda found: abs(found[1] + 1) > 1e-6):
        weights = parts.whole()
        weights[gate.index] = 1.0 + factor
        if swept and _spares_another(e, parts, (weights, {})):
            continue  # the state is handed back: only this leaf's sum over the steps is not taken
        yield _term(gate, factor, _share(e, parts, (weights, {})))


def _spares_another(e: Evidence, parts: Parts, settings: Settings) -> bool:
    """Whether the rule is right for another leaf, which these gates would change."""
    x, c, truth = e.points[0], e.cotangents[0], e.truths[0]
    got, answer = e.rule(x, c), parts.answer(x, c, *settings)
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


def _term(gate: Gate, factor: float, share: float) -> Diagnosis:
    if abs(factor + 1) < 1e-6:
        return Diagnosis("missing-term", f"{gate.what} is missing from the cotangent", share)
    if abs(factor + 2) < 1e-6:
        return Diagnosis("sign", f"{gate.what} has its sign turned", share)
    if share < 1 - 1e-6:
        return Diagnosis("unknown", "", 0.0)
    what = f"a factor is wrong: {gate.what} is {naming.spelled(1 + factor)} times what it must be"
    return Diagnosis("missing-term", what, share)


def one_factor(e: Evidence) -> Iterator[Diagnosis]:
    """An elementwise derivative, or the other factor of a product, left out."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind != "straight":
            continue
        weights = parts.whole()
        weights[gate.index], weights[gate.partner] = 1.0, 0.0
        yield Diagnosis("missing-term", f"{gate.what} is left out", _share(e, parts, (weights, {})))


def some_uses(e: Evidence) -> Iterator[Diagnosis]:
    """Only one of several uses of a value, or of several steps of a scan, kept."""
    parts = e.parts()
    if parts is None:
        return
    by_source: dict[int, list[Gate]] = {}
    for gate in parts.gates:
        if gate.kind == "path" and gate.source >= 0:
            by_source.setdefault(gate.source, []).append(gate)
    for uses in by_source.values():
        if not 2 < len(uses) <= 64:
            continue
        if len({g.primitive for g in uses}) > 1:
            continue  # not one loop's turns: terms are missing
        for kept in uses:
            weights = parts.whole()
            weights[[g.index for g in uses if g is not kept]] = 0.0
            yield Diagnosis(
                "overwritten",
                f"of {len(uses)} uses of one value only one contributes ({kept.what}): the others "
                "are replaced where they should be added",
                _share(e, parts, (weights, {})),
            )
    yield from _steps(e, parts)


def _steps(e: Evidence, parts: Parts) -> Iterator[Diagnosis]:
    steps = [g for g in parts.gates if g.kind == "step"]
    carries = [g for g in parts.gates if g.primitive == "carry"]
    for gate in steps:
        if not 1 < gate.steps <= 64:
            continue
        for t in (0, gate.steps - 1):
            weights = parts.whole()
            weights[gate.index + t] = 0.0
            yield Diagnosis(
                "missing-term",
                f"step {t} of {gate.steps} of the scan is missing from the sum over the steps",
                _share(e, parts, (weights, {})),
            )
        for t in (gate.steps - 1, 0):
            for cut in ((), carries):  # with and without what later steps hand back
                weights = parts.whole()
                weights[gate.index : gate.index + gate.steps] = 0.0
                weights[gate.index + t] = 1.0
                weights[[g.index for g in cut]] = 0.0
                yield Diagnosis(
                    "overwritten",
                    f"only step {t} of {gate.steps} of the scan contributes: each step's share "
                    "replaces the one before where it should be added",
                    _share(e, parts, (weights, {})),
                )


def operand_of_product(e: Evidence) -> Iterator[Diagnosis]:
    """An operand of a product exchanged, mirrored or displaced where its adjoint is formed."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind != "operand":
            continue
        size = int(np.prod(gate.shape, dtype=int))
        for word, sentence, index in index_maps(gate.shape):
            weights = parts.whole()
            weights[gate.index], weights[gate.partner] = 1.0, 0.0
            order = np.where(index < 0, size, index)
            yield Diagnosis(
                word,
                f"{gate.what} enters {sentence}",
                _share(e, parts, (weights, {gate.index: order})),
            )


def result_of_product(e: Evidence) -> Iterator[Diagnosis]:
    """What flows back into a product exchanged or mirrored, for one operand's adjoint."""
    parts = e.parts()
    if parts is None:
        return
    for gate in parts.gates:
        if gate.kind != "result":
            continue
        for word, sentence, index in index_maps(gate.shape):
            if np.any(index < 0) or word == "shifted":
                continue
            weights = parts.whole()
            weights[gate.index], weights[gate.partner] = 1.0, 0.0
            yield Diagnosis(
                word,
                f"the cotangent of `{gate.primitive}` enters the adjoint of {gate.what} {sentence}",
                _share(e, parts, (weights, {gate.index: index})),
            )


def two_terms(e: Evidence) -> Iterator[Diagnosis]:
    """Two paths cut at once: a mean and a variance taken for constants, say."""
    parts = e.parts()
    if parts is None:
        return
    unlike: list[tuple[Gate, np.ndarray]] = []
    for gate, lost in _contributions(e, parts):
        if all(_left(lost, other) > 1e-12 for _, other in unlike):
            unlike.append((gate, lost))
    for (a, _), (b, _) in itertools.combinations(unlike[:MOST_PAIRED], 2):
        weights = parts.whole()
        weights[[a.index, b.index]] = 0.0
        yield Diagnosis(
            "missing-term",
            f"{a.what} and {b.what} are missing from the cotangent",
            _share(e, parts, (weights, {})),
        )
    yield from _two_weighted(e, parts, unlike[:MOST_PAIRED])


def _two_weighted(
    e: Evidence, parts: Parts, paths: list[tuple[Gate, np.ndarray]]
) -> Iterator[Diagnosis]:
    """Two paths with a factor each, that must fit exactly: sums for means, one term twice."""
    if e.leaf.size < 3 or len(e.got) < 2:
        return
    error = (e.got[0] - e.truth[0]).reshape(-1)
    for (a, first), (b, second) in itertools.combinations(paths, 2):
        lost = np.stack([first.reshape(-1), second.reshape(-1)], axis=1)
        factors = np.linalg.lstsq(lost, error, rcond=None)[0]
        if _left(error, lost @ factors) > 1e-9:
            continue
        weights = parts.whole()
        weights[a.index], weights[b.index] = 1.0 + factors
        share = _share(e, parts, (weights, {}))
        by_a, by_b = (float(np.round(1 + f, 9)) for f in factors)
        if share >= 1 - 1e-6:
            yield Diagnosis(
                "missing-term",
                f"two factors are wrong: {a.what} is {naming.spelled(by_a)} times what "
                f"it must be, and {b.what} {naming.spelled(by_b)} times",
                share,
            )
            return


def two_factors(e: Evidence) -> Iterator[Diagnosis]:
    """Two elementwise derivatives left out at once."""
    parts = e.parts()
    if parts is None:
        return
    straight = [gate for gate in parts.gates if gate.kind == "straight"]
    for a, b in itertools.combinations(straight[:MOST_STRAIGHT], 2):
        if a.partner == b.partner:
            continue
        weights = parts.whole()
        for gate in (a, b):
            weights[gate.index], weights[gate.partner] = 1.0, 0.0
        what = f"{a.what} and {b.what} are left out"
        yield Diagnosis("missing-term", what, _share(e, parts, (weights, {})))


def _contributions(e: Evidence, parts: Parts) -> list[tuple[Gate, np.ndarray]]:
    """What flows through each path into this leaf, for the first question; paths with nothing
    are left out."""
    found = []
    size = float(np.abs(e.truth[0]).max(initial=0.0))
    for gate in parts.gates:
        if gate.kind != "path":
            continue
        weights = parts.whole()
        weights[gate.index] = 0.0
        lost = e.truth[0] - _ask(e, parts, 0, (weights, {}))
        if np.all(np.isfinite(lost)) and np.abs(lost).max(initial=0.0) > 1e-9 * size:
            found.append((gate, lost))
    return found


def _ask(e: Evidence, parts: Parts, question: int, settings: Settings) -> np.ndarray:
    answer = parts.answer(e.points[question], e.cotangents[question], *settings)
    return unpack(answer[e.leaf.part], e.leaf)


def _share(e: Evidence, parts: Parts, settings: Settings) -> float:
    """The share explained over all questions; most settings fail the first one already."""
    if _left(e.got[0] - e.truth[0], _ask(e, parts, 0, settings) - e.truth[0]) > 1 - PROMISING:
        return 0.0
    return e.explained(np.array([_ask(e, parts, q, settings) for q in range(len(e.got))]))


def _left(error: np.ndarray, explanation: np.ndarray) -> float:
    """The share of an error that an explanation leaves."""
    norm = float(np.sum(error * error))
    with np.errstate(over="ignore", invalid="ignore"):
        left = float(np.sum(np.abs(error - explanation) ** 2))
    return left / norm if norm > 0 and np.isfinite(left) else 1.0
