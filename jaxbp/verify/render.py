"""A report as text: first what is wrong, as a good compiler says it, then what was looked at."""

import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

from jaxbp.verify.report import Check, Finding, Power, Precision, Report
from jaxbp.verify.words import WORDS

WIDTH = 92

_CODES = {"red": "1;31", "green": "1;32", "yellow": "1;33", "blue": "1;34", "bold": "1", "dim": "2"}

# The columns of the table, and the checks that each one gathers; "gradient" takes all others.
_COLUMNS = {
    "value": ("value", "fwd-value"),
    "gradient": (),
    "second order": ("second-order",),
    "transforms": ("jit", "vmap", "scan", "remat", "shard-map"),
}


def wants_color(stream: TextIO) -> bool:
    """Say whether to colour: on a terminal that has not been told otherwise (NO_COLOR)."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") not in ("", "dumb")
    )


def render(report: Report, color: bool = False) -> str:
    """Write a report out.

    Args:
        report: what `check_vjp` returned.
        color: whether to mark it up for a terminal.

    Returns:
        The text, at most 92 columns wide unless a name or an index is longer; no last newline.

    Example:
        >>> print(render(Report("f", ("x: f32[3]",), (), ())).splitlines()[0])
        ok: nothing wrong found in f
    """
    paint = _Paint(color)
    blocks = [
        _headline(report, paint),
        *(_finding(finding, report, paint) for finding in report.findings),
        _checks(report.checks, paint),
        _precisions(report.precisions, paint),
        _powers(report.powers, paint),
        *(_remark("warning", "yellow", text, paint) for text in report.warnings),
        "\n".join(_remark("note", "blue", text, paint) for text in report.notes),
    ]
    return "\n\n".join(block for block in blocks if block)


def table_head(width: int, color: bool) -> str:
    """Write the head of the table that has one line a case.

    Args:
        width: the width of the first column, the cases' names.
        color: whether to mark it up for a terminal.
    """
    columns = [f"{'rule':<{width}}", *_COLUMNS, "precision", "    power", "seconds"]
    return _Paint(color)("bold", "  ".join(columns))


def table_row(name: str, width: int, report: Report | None, failure: str, color: bool) -> str:
    """Write the line of one case.

    Args:
        name: the case's name.
        width: the width of the first column.
        report: what was found; None where the case could not run.
        failure: why it could not run.
        color: whether to mark it up for a terminal.
    """
    paint = _Paint(color)
    if report is None:
        return f"{name:<{width}}  {paint('red', 'could not run')}: {failure}"
    cells = [f"{name:<{width}}"]
    for column in _COLUMNS:
        outcomes = [check.ok for check in report.checks if _column(check) == column]
        outcome = False if False in outcomes else True if True in outcomes else None
        cells.append(_mark(outcome, paint) + " " * (len(column) - 5))
    cells.append(_worst_precision(report, paint))
    cells.append(f"{_weakest_power(report):>9}")
    cells.append(f"{report.seconds:7.1f}")
    return "  ".join(cells)


def table_foot(reports: Sequence[Report], cases: int, seconds: float, color: bool) -> str:
    """Write what follows the table: every refuted report whole, warnings once, the verdict.

    Args:
        reports: those of the cases that could run.
        cases: how many cases there are.
        seconds: how long they took together.
        color: whether to mark it up for a terminal.
    """
    paint = _Paint(color)
    refuted = [report for report in reports if not report.ok]
    warnings = dict.fromkeys(text for report in reports for text in report.warnings)
    counts = [(len(reports) - len(refuted), "ok"), (len(refuted), "refuted")]
    counts.append((cases - len(reports), "could not run"))
    total = ", ".join(f"{count} {what}" for count, what in counts if count)
    good = len(reports) == cases and not refuted
    blocks = [
        *(render(report, color) for report in refuted),
        *(_remark("warning", "yellow", text, paint) for text in warnings),
        paint("green" if good else "red", f"{total} of {cases}") + f" in {seconds:.0f} s",
    ]
    return "\n" + "\n\n".join(blocks)


def _column(check: Check) -> str:
    return next((column for column, names in _COLUMNS.items() if check.name in names), "gradient")


def _worst_precision(report: Report, paint: "_Paint") -> str:
    """Give the largest ratio of the precisions, marked by what the check says of it."""
    if not report.precisions:
        return f"{'-':>9}"
    worst = max(row.ratio for row in report.precisions)
    wrong = any(check.ok is False for check in report.checks if check.name == "precision")
    return paint("red" if wrong else "green", f"{f'{worst:.2f}x':>9}")


def _weakest_power(report: Report) -> str:
    if not report.powers:
        return "-"
    return _smallest(max(power.smallest_error for power in report.powers))


class _Paint:
    """Colour, or the plain text where none is wanted."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._color and text else text


def verdict(report: Report) -> str:
    """Say the outcome in one line.

    Example:
        >>> wrong = Finding("gradient", "w", "sign", "", "rule")
        >>> verdict(Report("f", (), (), (wrong,)))
        'refuted: sign (w) in f'
    """
    if report.ok:
        return f"ok: nothing wrong found in {report.function}"
    blamed: dict[str, list[str]] = {}
    for finding in report.findings:
        blamed.setdefault(finding.diagnosis, []).append(finding.argument or "")
    parts = []
    for diagnosis, arguments in blamed.items():
        names = ", ".join(dict.fromkeys(name for name in arguments if name))
        parts.append(f"{diagnosis} ({names})" if names else diagnosis)
    return f"refuted: {', '.join(parts)} in {report.function}"


def _headline(report: Report, paint: _Paint) -> str:
    first = paint("green" if report.ok else "red", verdict(report))
    facts = [
        ("arguments", ", ".join(report.arguments)),
        ("compared with", report.reference),
        ("seed", f"{report.seed}, {report.seconds:.1f} s"),
    ]
    lines = [first]
    for name, text in facts:
        if text:
            wrapped = textwrap.wrap(text, WIDTH - 17, break_long_words=False)
            lines.append(f"  {paint('dim', f'{name:<13}')}  {wrapped[0]}")
            lines += [" " * 17 + line for line in wrapped[1:]]
    return "\n".join(lines)


def _finding(finding: Finding, report: Report, paint: _Paint) -> str:
    where = finding.argument or ""
    if finding.index is not None:
        where += f"[{', '.join(map(str, finding.index))}]"
    place = f"{report.function}, {where}" if where else report.function
    title = paint("red", f"error[{finding.diagnosis}]") + paint("bold", f": {_claim(finding)}")
    bar = paint("blue", "   |")
    lines = [title, f"{paint('blue', '  -->')} {place}  {paint('dim', f'({finding.check})')}"]
    numbers = list(_numbers(finding))
    if numbers:
        lines += [bar, *(f"{bar} {name:<15} {value}" for name, value in numbers), bar]
    evidence = finding.message
    if finding.explained and finding.diagnosis != "unknown":
        evidence += f"; this explains {_share(finding.explained)} of the error"
    lines += _equals(evidence, paint)
    if finding.diagnosis in WORDS:
        lines += _equals(f"look at {WORDS[finding.diagnosis].look_at}", paint)
    return "\n".join(lines)


def _claim(finding: Finding) -> str:
    """Say who is wrong, in which way."""
    phrase = WORDS[finding.diagnosis].phrase if finding.diagnosis in WORDS else "is wrong"
    if finding.argument is None or finding.diagnosis in ("value", "fwd-value"):
        side = "rule or its reference" if finding.side == "undecided" else finding.side
        return f"the {side} {phrase}"
    if finding.side == "rule":
        return f"the gradient of {finding.argument} {phrase}"
    if finding.side == "undecided":
        return f"the gradient of {finding.argument}, or the reference's, {phrase}"
    return f"the {finding.side}'s gradient of {finding.argument} {phrase}"


def _numbers(finding: Finding) -> Iterable[tuple[str, str]]:
    got, expected = finding.got, finding.expected
    if got is not None and expected is not None:
        digits = _digits_to_tell_apart(got, expected)
        yield "it is", f"{got: .{digits}g}"
        yield "should be", f"{expected: .{digits}g}"
        yield "apart by", f"{abs(got - expected): .3g}"
    elif got is not None:
        yield "it is", f"{got: .6g}"
    elif expected is not None:
        yield "should be", f"{expected: .6g}"
    if finding.tolerance is not None:
        yield "allowed", f"{finding.tolerance: .3g}"


def _digits_to_tell_apart(first: float, second: float) -> int:
    """Give enough digits to see the difference, and two more."""
    for digits in range(4, 16):
        if f"{first:.{digits}g}" != f"{second:.{digits}g}":
            return max(6, digits + 2)
    return 17


def _share(explained: float) -> str:
    """Give a share in per cent, never rounded up to all of it."""
    percent = 100 * explained
    return f"{percent:.0f} %" if percent <= 99 or percent == 100 else f"{percent:.6g} %"


def _equals(text: str, paint: _Paint) -> list[str]:
    """Write a paragraph behind the compiler's `=`."""
    lines = _wrap(text, WIDTH - 5)
    return [
        (paint("blue", "   = ") if number == 0 else "     ") + line
        for number, line in enumerate(lines)
    ]


def _wrap(text: str, width: int) -> list[str]:
    """Wrap each line of a text by itself."""
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, width, break_long_words=False) or [""]
    ]


def _remark(kind: str, style: str, text: str, paint: _Paint) -> str:
    lines = _wrap(text, WIDTH - len(kind) - 2)
    return paint(style, f"{kind}:") + " " + ("\n" + " " * (len(kind) + 2)).join(lines)


def _checks(checks: Sequence[Check], paint: _Paint) -> str:
    if not checks:
        return ""
    name_width = max(len(check.name) for check in checks)
    lines = [paint("bold", "checked")]
    for check in checks:
        mark = _mark(check.ok, paint)
        details = _wrap(check.detail, WIDTH - name_width - 11)
        lines.append(
            f"  {check.name:<{name_width}}  {mark}  {'' if not details else details[0]}".rstrip()
        )
        lines += [" " * (name_width + 11) + line for line in details[1:]]
    return "\n".join(lines)


def _mark(ok: bool | None, paint: _Paint) -> str:
    """Give a mark of five columns."""
    if ok is None:
        return f"  {paint('dim', '-')}  "
    return f" {paint('green', 'ok')}  " if ok else paint("red", "WRONG")


def _precisions(precisions: Sequence[Precision], paint: _Paint) -> str:
    if not precisions:
        return ""
    rows = [
        (
            row.dtype,
            row.argument,
            _ulps(row.error_ulps),
            _ulps(row.autodiff_ulps),
            f"{row.ratio:.2f}",
        )
        for row in precisions
    ]
    # Autodiff may be exact by chance, so no rule is held to less than a floor.
    ratio = "rule over autodiff or floor"
    head = ("precision", "argument", "rule, ulps", "autodiff, ulps", ratio)
    return _aligned(head, rows, "<<>>>", paint)


def _ulps(ulps: float) -> str:
    return f"{ulps:.2f}" if ulps < 1e4 else f"{ulps:.1e}"


def _powers(powers: Sequence[Power], paint: _Paint) -> str:
    if not powers:
        return ""
    rows = [
        (row.argument, _smallest(row.smallest_error), _smallest(row.smallest_scale), row.detail)
        for row in powers
    ]
    head = ("would be seen", "one entry off by", "all scaled by 1 +", "")
    return _aligned(head, rows, "<>><", paint)


def _smallest(error: float) -> str:
    return "nothing" if error == float("inf") else f"{error:.1e}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str, paint: _Paint) -> str:
    """Write columns under a head, each left (`<`) or right (`>`) aligned."""
    indented = [("  " + first, *others) for first, *others in rows]
    widths = [max(map(len, column)) for column in zip(head, *indented, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([paint("bold", line(head)), *map(line, indented)])
