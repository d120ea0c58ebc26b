"""How an answer to a case is marked. It knows nothing of who answered."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tests.verify.corpus.case import Case

ONLY_THERE = ("jit", "vmap", "second-order", "precision", "state", "state-value", "interleaved")
"""Where a mistake shows that a single gradient at one point cannot show."""


class Accusation(Protocol):
    """One thing that a checker found wrong, the chief one first among several."""

    @property
    def argument(self) -> str | None: ...

    @property
    def diagnosis(self) -> str: ...


class Mark(NamedTuple):
    """What was right about an answer."""

    refused: bool
    blamed: bool
    """The chief accusation is of a wrong argument, and no right one is accused."""
    diagnosed: bool


def mark(case: Case, accusations: Sequence[Accusation]) -> Mark:
    """Mark a checker's accusations."""
    if not accusations:
        return Mark(False, False, False)
    chief = accusations[0]
    accused = {a.argument for a in accusations if a.argument is not None}
    blamed = not case.arguments or (
        chief.argument in case.arguments and accused <= set(case.arguments)
    )
    return Mark(True, blamed, chief.diagnosis in case.diagnosis)


def everyday(wrong: Sequence[Case], each: int) -> list[Case]:
    """Of every word and every place where it shows, the first `each` cases, families in turn."""
    chosen: dict[tuple[str, str], list[Case]] = {}
    for case in wrong:
        group = chosen.setdefault((case.diagnosis[0], case.shows), [])
        if len(group) < each and case.family not in [c.family for c in group]:
            group.append(case)
    return [case for group in chosen.values() for case in group]
