"""One argument's error that follows from another's: db is wrong, and dA = -db xᵀ is made of it.

Where the truth for one leaf is a linear function of the truth for another, and the wrong answers
are related by the very same function, there is one mistake and not two.
"""

import dataclasses

import numpy as np

from jaxbp.verify.report import Finding
from jaxbp.verify.subject import inputs
from jaxbp.verify.subject.vectors import Leaf, Vector
from jaxbp.verify.trial import Trial

MOST_ROWS = 256
"""Jacobians of more rows are not compared: each row is a question to both sides."""
EXACT = 1e-6
"""Relative to the largest: as closely must the linear map give right and wrong answers."""


def explained(trial: Trial, findings: list[Finding], x: Vector) -> list[Finding]:
    """The findings, those without a diagnosis explained by one that has it, where that is so."""
    known = [f for f in findings if f.diagnosis != "unknown" and f.explained]
    if not known or len(known) == len(findings) or trial.output_size > MOST_ROWS:
        return findings
    rows = [inputs.one_hot(trial.output_size, i) for i in range(trial.output_size)]
    got = np.array([trial.rule(x, c) for c in rows])
    truth = np.array([trial.truth(x, c) for c in rows])
    if not (np.all(np.isfinite(got)) and np.all(np.isfinite(truth))):
        return findings
    leaves = {leaf.name: leaf for leaf in trial.subject.leaves}
    told = []
    for finding in findings:
        if finding.diagnosis == "unknown" and finding.argument in leaves:
            for other in known:
                if _follows(got, truth, leaves[finding.argument], leaves[str(other.argument)]):
                    finding = dataclasses.replace(
                        finding,
                        diagnosis=other.diagnosis,
                        message=f"it follows from what is wrong for `{other.argument}`: this "
                        "cotangent is computed from that one, as it should be",
                        explained=other.explained,
                    )
                    break
        told.append(finding)
    return told


def _follows(got: np.ndarray, truth: np.ndarray, leaf: Leaf, other: Leaf) -> bool:
    """Whether one linear map gives this leaf's answer from the other's, the right and the wrong."""
    source, target = truth[:, other.part], truth[:, leaf.part]
    if np.allclose(source, got[:, other.part], 1e-9) or not target.any():
        return False
    linear, _, rank, _ = np.linalg.lstsq(source, target, rcond=1e-9)
    if rank < other.size:
        return False  # then more than one map would do
    return all(
        np.abs(a @ linear - b).max() <= EXACT * np.abs(b).max(initial=0.0)
        for a, b in ((source, target), (got[:, other.part], got[:, leaf.part]))
    )
