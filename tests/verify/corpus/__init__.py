"""Wrong rules with their right twins, and right rules that look suspicious.

What a checker of `custom_vjp` rules is examined on. The rules are written for this corpus in plain
JAX and know nothing of the checker; every wrong one is a mistake that people make.
"""

from tests.verify.corpus import (
    activation,
    attention,
    convolution,
    dense,
    indexing,
    later,
    losses,
    normalisation,
    one_value,
    pooling,
    precision,
    pytrees,
    scans,
    structure,
    suspicious,
    transforms,
)
from tests.verify.corpus.case import Case, Problem

FAMILIES = tuple(
    module.cases
    for module in (
        dense,
        activation,
        convolution,
        pooling,
        normalisation,
        attention,
        scans,
        losses,
        indexing,
        transforms,
        precision,
        pytrees,
        suspicious,
        later,
        structure,
        one_value,
    )
)
CASES: tuple[Case, ...] = tuple(case for family in FAMILIES for case in family)
WRONG = tuple(case for case in CASES if case.wrong)
RIGHT = tuple(case for case in CASES if not case.wrong)

__all__ = ["CASES", "FAMILIES", "RIGHT", "WRONG", "Case", "Problem"]
