"""The table of `jaxbp verify`: one line a case, and what follows it."""

from collections.abc import Sequence

from jaxbp.verify.report.report import Report
from jaxbp.verify.report.rows import ROWS, Column
from jaxbp.verify.report.text import Paint, mark, smallest, warning


def head(width: int, color: bool) -> str:
    """Write the head of the table that has one line a case.

    Args:
        width: the width of the first column, the cases' names.
        color: whether to mark it up for a terminal.
    """
    columns = [f"{'rule':<{width}}", *(c.value for c in Column), "    power", "seconds"]
    return Paint(color)("bold", "  ".join(columns))


def row(name: str, width: int, report: Report | None, failure: str, color: bool) -> str:
    """Write the line of one case.

    Args:
        name: the case's name.
        width: the width of the first column.
        report: what was found; None where the case could not run.
        failure: why it could not run.
        color: whether to mark it up for a terminal.
    """
    paint = Paint(color)
    if report is None:
        return f"{name:<{width}}  {paint('red', 'could not run')}: {failure}"
    cells = [f"{name:<{width}}"]
    for column in Column:
        if column is Column.PRECISION:
            cells.append(_worst_precision(report, paint))
        else:
            cells.append(mark(_outcome(report, column), paint) + " " * (len(column.value) - 5))
    cells.append(f"{_weakest_power(report):>9}")
    cells.append(f"{report.seconds:7.1f}")
    return "  ".join(cells)


def foot(reports: Sequence[Report], cases: int, seconds: float, color: bool) -> str:
    """Write what follows the table: every refuted report whole, warnings once, the verdict.

    Args:
        reports: those of the cases that could run.
        cases: how many cases there are.
        seconds: how long they took together.
        color: whether to mark it up for a terminal.
    """
    paint = Paint(color)
    refuted = [report for report in reports if not report.ok]
    warnings = dict.fromkeys(text for report in reports for text in report.warnings)
    counts = [(len(reports) - len(refuted), "ok"), (len(refuted), "refuted")]
    counts.append((cases - len(reports), "could not run"))
    total = ", ".join(f"{count} {what}" for count, what in counts if count)
    good = len(reports) == cases and not refuted
    blocks = [
        *(report.text(color) for report in refuted),
        *(warning(text, paint) for text in warnings),
        paint("green" if good else "red", f"{total} of {cases}") + f" in {seconds:.0f} s",
    ]
    return "\n" + "\n\n".join(blocks)


def _outcome(report: Report, column: Column) -> bool | None:
    """Whether the rows of one column are right; None: none of them was decided."""
    outcomes = [row.ok for row in report.checks if ROWS.get(row.name) is column]
    return False if False in outcomes else True if True in outcomes else None


def _worst_precision(report: Report, paint: Paint) -> str:
    """Give the largest ratio of the precisions; of a refuted one the report says how much."""
    if _outcome(report, Column.PRECISION) is False:
        return paint("red", f"{'WRONG':>9}")
    if not report.precisions:
        return f"{'-':>9}"
    worst = max(row.ratio for row in report.precisions)
    return paint("green", f"{f'{worst:.2f}x':>9}")


def _weakest_power(report: Report) -> str:
    if not report.powers:
        return "-"
    return smallest(max(power.smallest_error for power in report.powers))
