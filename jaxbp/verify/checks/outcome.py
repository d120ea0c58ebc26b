"""What one part of a check hands to the report: rows of the table, and findings."""

import dataclasses
from collections.abc import Collection

import numpy as np

from jaxbp.verify.compare.sample import Sample
from jaxbp.verify.report import Check, Finding
from jaxbp.verify.subject.subject import Leaf

WRONG_ALREADY = "the gradient is wrong already"
"""The detail of a row that an error found before has decided."""


@dataclasses.dataclass
class Outcome:
    """Rows and findings, in the order in which they were made."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def row(self, name: str, ok: bool | None, detail: str = "") -> None:
        """Add a row of the table."""
        self.checks.append(Check(name, ok, detail))

    def found(self, finding: Finding, detail: str = "") -> None:
        """Add a finding and the row that it makes fail."""
        self.findings.append(finding)
        self.row(finding.check, False, detail or finding.message)

    def add(self, other: "Outcome") -> None:
        """Append what another part found."""
        self.checks += other.checks
        self.findings += other.findings
        self.notes += other.notes

    def but_for(self, arguments: Collection[str | None]) -> "Outcome":
        """Without what is said of arguments that are known to be wrong, rows included."""
        left = [f for f in self.findings if f.argument not in arguments]
        told = {f.check for f in self.findings} - {f.check for f in left}
        said = {f.message for f in self.findings} - {f.message for f in left}
        rows = [
            Check(row.name, None, WRONG_ALREADY)
            if row.ok is False and (row.name in told or row.detail in said)
            else row
            for row in self.checks
        ]
        return Outcome(rows, left, self.notes)

    def failed(self, *names: str) -> bool:
        """Whether one of these checks failed."""
        return any(f.check in names for f in self.findings)


def numbers(sample: Sample, leaf: Leaf) -> dict[str, object]:
    """Where a leaf is most wrong, and both numbers there, as fields of a `Finding`.

    Where the reference is a number, if it is wrong anywhere there.
    """
    excess = sample.excess()[leaf.part]
    known = np.where(np.isfinite(sample.expected[leaf.part]), excess, 0.0)
    if (known > 1.0).any():
        excess = known
    place = int(np.argmax(excess))
    at = leaf.start + place
    return {
        "index": tuple(int(i) for i in np.unravel_index(place, leaf.shape)),
        "got": float(np.real(sample.got[at])),
        "expected": float(np.real(sample.expected[at])),
        "tolerance": float(sample.tolerance[at]),
    }
