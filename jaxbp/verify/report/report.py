"""The report of a check: everything that was found, its text and its JSON."""

import dataclasses
import json
import math
from typing import Any

from jaxbp.verify.report import text
from jaxbp.verify.report.entries import Check, Finding, Power, Precision


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of `check_vjp`."""

    function: str
    arguments: tuple[str, ...]
    """Every differentiable leaf, as in `Finding.argument`, with dtype and shape after a colon."""
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    powers: tuple[Power, ...] = ()
    precisions: tuple[Precision, ...] = ()
    warnings: tuple[str, ...] = ()
    """What throws doubt on the check itself: a JAX build that computes wrongly, no power, …"""
    notes: tuple[str, ...] = ()
    """What the reader should know: kinks met, a reference that does not compute in float64, …"""
    seed: int = 0
    seconds: float = 0.0
    reference: str = ""
    """What the rule was compared with: a name, or `the primal inside the rule`, …"""

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Give everything as dicts, lists, strings, numbers; what is not finite as a string."""
        plain = _plain(dataclasses.asdict(self))
        return {"ok": self.ok, **plain}

    def to_json(self, indent: int | None = 2) -> str:
        """Give `to_dict` as a JSON text.

        Example:
            >>> print(Report("f", (), (), ()).to_json(indent=None)[:28])
            {"ok": true, "function": "f"
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def text(self, color: bool = False) -> str:
        """Write the report out: first what is wrong, then what was looked at.

        Args:
            color: whether to mark it up for a terminal.

        Returns:
            The text, at most 92 columns wide unless a name or an index is longer; no last newline.

        Example:
            >>> print(Report("f", ("x: f32[3]",), (), ()).text().splitlines()[0])
            ok: nothing wrong found in f
        """
        paint = text.Paint(color)
        facts = {
            "arguments": ", ".join(self.arguments),
            "compared with": self.reference,
            "seed": f"{self.seed}, {self.seconds:.1f} s",
        }
        blocks = [
            text.headline(self.function, self.findings, facts, paint),
            *(text.error(finding, self.function, paint) for finding in self.findings),
            text.checked(self.checks, paint),
            text.rounded(self.precisions, paint),
            text.seen(self.powers, paint),
            *(text.warning(warning, paint) for warning in self.warnings),
            "\n".join(text.note(note, paint) for note in self.notes),
        ]
        return "\n\n".join(block for block in blocks if block)

    def __str__(self) -> str:
        return self.text()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
