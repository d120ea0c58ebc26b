"""The sample that a run takes of cases that are much alike, to stay under ten minutes.

`JAXBP_TESTS=whole` takes them all, as CI does once, in 64 bits.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

WHOLE = os.environ.get("JAXBP_TESTS") == "whole"


def sample(cases: Iterable[T], every: int, start: int = 0) -> list[T]:
    """One in `every` of the cases, from the start on: other tests of the same list take others.

    Of the pairs of two lists, with the second the faster, both are met evenly where `every` has no
    factor in common with the second's length.
    """
    return list(cases) if WHOLE else list(cases)[start::every]
