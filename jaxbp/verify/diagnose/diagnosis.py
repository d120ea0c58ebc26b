"""What a hypothesis says: a kind of mistake, why it is taken to be that one, and how sure it is."""

import dataclasses

from jaxbp.verify.report.words import WORDS

BELIEVED = 0.95
"""A hypothesis that explains less of the error, in any question, is not believed."""
EXACT = 1.0 - 1e-6
"""One that explains as much as this is right; so is a fit with many free factors only then."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A kind of mistake, and how much of the error it explains."""

    word: str
    """One of `report/words.py`."""
    sentence: str
    explained: float
    """The share, 0 to 1, in the question in which it explains least."""

    def __post_init__(self) -> None:
        if self.word not in WORDS:
            raise ValueError(f"a diagnosis must be a word of words.py; got {self.word!r}")
