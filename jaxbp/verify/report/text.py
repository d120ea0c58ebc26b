"""Each part of a report as text; what is wrong as a good compiler says it."""

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from jaxbp.verify.report.entries import Check, Finding, Power, Precision
from jaxbp.verify.report.words import WORDS

WIDTH = 92

_CODES = {"red": "1;31", "green": "1;32", "yellow": "1;33", "blue": "1;34", "bold": "1", "dim": "2"}


def wants_color(stream: TextIO) -> bool:
    """Say whether to colour: on a terminal that has not been told otherwise (NO_COLOR)."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") not in ("", "dumb")
    )


class Paint:
    """Colour, or the plain text where none is wanted."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._color and text else text


def verdict(function: str, findings: Sequence[Finding]) -> str:
    """Say the outcome in one line.

    Example:
        >>> verdict("f", [Finding("gradient", "w", "sign", "", "rule")])
        'refuted: sign (w) in f'
    """
    if not findings:
        return f"ok: nothing wrong found in {function}"
    blamed: dict[str, list[str]] = {}
    for finding in findings:
        blamed.setdefault(finding.diagnosis, []).append(finding.argument or "")
    parts = []
    for diagnosis, arguments in blamed.items():
        names = ", ".join(dict.fromkeys(name for name in arguments if name))
        parts.append(f"{diagnosis} ({names})" if names else diagnosis)
    return f"refuted: {', '.join(parts)} in {function}"


def headline(
    function: str, findings: Sequence[Finding], facts: Mapping[str, str], paint: Paint
) -> str:
    """Write the verdict, and below it what was asked."""
    lines = [paint("red" if findings else "green", verdict(function, findings))]
    for name, fact in facts.items():
        if fact:
            wrapped = textwrap.wrap(fact, WIDTH - 17, break_long_words=False)
            lines.append(f"  {paint('dim', f'{name:<13}')}  {wrapped[0]}")
            lines += [" " * 17 + line for line in wrapped[1:]]
    return "\n".join(lines)


def error(finding: Finding, function: str, paint: Paint) -> str:
    """Write one finding as a compiler writes an error."""
    where = finding.argument or ""
    if finding.index is not None:
        where += f"[{', '.join(map(str, finding.index))}]"
    place = f"{function}, {where}" if where else function
    title = paint("red", f"error[{finding.diagnosis}]") + paint("bold", f": {_claim(finding)}")
    bar = paint("blue", "   |")
    lines = [title, f"{paint('blue', '  -->')} {place}  {paint('dim', f'({finding.check})')}"]
    numbers = list(_errors(finding) if finding.unit else _answers(finding))
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


def _errors(finding: Finding) -> Iterable[tuple[str, str]]:
    """The rule's error beside autodiff's."""
    for name, error in (
        ("off by", finding.got),
        ("autodiff is", finding.expected),
        ("allowed", finding.tolerance),
    ):
        if error is not None:
            yield name, f" {_ulps(error)} {finding.unit}"


def _answers(finding: Finding) -> Iterable[tuple[str, str]]:
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


def _equals(text: str, paint: Paint) -> list[str]:
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


def warning(text: str, paint: Paint) -> str:
    """Write what throws doubt on the check itself."""
    return _remark("warning", "yellow", text, paint)


def note(text: str, paint: Paint) -> str:
    """Write what the reader should know."""
    return _remark("note", "blue", text, paint)


def _remark(kind: str, style: str, text: str, paint: Paint) -> str:
    lines = _wrap(text, WIDTH - len(kind) - 2)
    return paint(style, f"{kind}:") + " " + ("\n" + " " * (len(kind) + 2)).join(lines)


def checked(checks: Sequence[Check], paint: Paint) -> str:
    """Write what was looked at, a row each."""
    if not checks:
        return ""
    name_width = max(len(check.name) for check in checks)
    lines = [paint("bold", "checked")]
    for check in checks:
        details = _wrap(check.detail, WIDTH - name_width - 11)
        first = details[0] if details else ""
        lines.append(f"  {check.name:<{name_width}}  {mark(check.ok, paint)}  {first}".rstrip())
        lines += [" " * (name_width + 11) + line for line in details[1:]]
    return "\n".join(lines)


def mark(ok: bool | None, paint: Paint) -> str:
    """Give a mark of five columns."""
    if ok is None:
        return f"  {paint('dim', '-')}  "
    return f" {paint('green', 'ok')}  " if ok else paint("red", "WRONG")


def rounded(precisions: Sequence[Precision], paint: Paint) -> str:
    """Write how the rule rounds, beside autodiff."""
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


def seen(powers: Sequence[Power], paint: Paint) -> str:
    """Write how small an error would have been found."""
    if not powers:
        return ""
    rows = [
        (row.argument, smallest(row.smallest_error), smallest(row.smallest_scale), row.detail)
        for row in powers
    ]
    head = ("would be seen", "one entry off by", "all scaled by 1 +", "")
    return _aligned(head, rows, "<>><", paint)


def smallest(error: float) -> str:
    """Give the size of an error that is still found."""
    return "nothing" if error == float("inf") else f"{error:.1e}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str, paint: Paint) -> str:
    """Write columns under a head, each left (`<`) or right (`>`) aligned."""
    indented = [("  " + first, *others) for first, *others in rows]
    widths = [max(map(len, column)) for column in zip(head, *indented, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([paint("bold", line(head)), *map(line, indented)])
