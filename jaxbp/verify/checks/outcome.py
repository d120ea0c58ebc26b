"""What one part of a check hands to the report: rows of the table, findings, notes, figures."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

from jaxbp.verify.compare.sample import Place
from jaxbp.verify.report import Check, Finding, Power, Precision, Side
from jaxbp.verify.report.rows import ROWS
from jaxbp.verify.report.words import WORDS

WRONG_ALREADY = "the gradient is wrong already"
"""The detail of a row that an error found before has decided."""


class Errors(NamedTuple):
    """In units in the last place: the rule's, autodiff's, and what the rule may have."""

    got: float
    expected: float
    tolerance: float


def finding(
    check: str,
    word: str,
    message: str,
    *,
    argument: str | None = None,
    side: Side = "rule",
    at: Place | None = None,
    explained: float | None = None,
    errors: Errors | None = None,
) -> Finding:
    """A finding: what is said of which argument, and both numbers at one place of it, or both
    errors of it as a whole."""
    if word not in WORDS:
        raise ValueError(f"a finding must say a word of words.py; got {word!r}")
    found = Finding(
        check=check,
        argument=argument,
        diagnosis=word,
        message=message,
        side=side,
        explained=explained,
    )
    if at is not None:
        return dataclasses.replace(found, **dataclasses.asdict(at))
    if errors is not None:
        return dataclasses.replace(found, **errors._asdict(), unit="ulps")
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, and the findings that make it fail."""

    check: Check
    findings: tuple[Finding, ...] = ()


@dataclasses.dataclass
class Outcome:
    """Everything that was found, in the order in which it was."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    powers: list[Power] = dataclasses.field(default_factory=list)
    precisions: list[Precision] = dataclasses.field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """The rows as the report has them."""
        return [row.check for row in self.rows]

    def row(
        self, name: str, ok: bool | None, detail: str = "", findings: Sequence[Finding] = ()
    ) -> None:
        """Add a row, which fails because of these findings."""
        if name not in ROWS:
            raise ValueError(f"a row must have a name of rows.py; got {name!r}")
        self.rows.append(Row(Check(name, ok, detail), tuple(findings)))

    def found(self, what: Finding, detail: str = "") -> None:
        """Add a finding and the row that it makes fail."""
        self.findings.append(what)
        self.row(what.check, False, detail or what.message, [what])

    def note(self, text: str) -> None:
        """Add what the reader should know."""
        self.notes.append(text)

    def add(self, other: "Outcome") -> None:
        """Append what another part found."""
        self.rows += other.rows
        self.findings += other.findings
        self.notes += other.notes
        self.powers += other.powers
        self.precisions += other.precisions

    def but_for(self, arguments: Collection[str | None]) -> "Outcome":
        """Without what is said of arguments that are known to be wrong, rows included."""

        def decided(row: Row) -> bool:
            return bool(row.findings) and all(f.argument in arguments for f in row.findings)

        rows = [
            Row(Check(row.check.name, None, WRONG_ALREADY)) if decided(row) else row
            for row in self.rows
        ]
        left = [f for f in self.findings if f.argument not in arguments]
        return dataclasses.replace(self, rows=rows, findings=left)

    def failed(self, *names: str) -> bool:
        """Whether one of these checks failed."""
        return any(f.check in names for f in self.findings)

    def decided(self, name: str) -> bool:
        """Whether there is a row of this name."""
        return any(row.check.name == name for row in self.rows)

    @property
    def blamed(self) -> set[str | None]:
        """The arguments that were found wrong."""
        return {f.argument for f in self.findings}
