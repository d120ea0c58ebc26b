"""The rows that a report can have, and the column of the table of cases that each belongs to."""

import enum


class Column(enum.Enum):
    """A column of the table of `jaxbp verify`."""

    VALUE = "value"
    GRADIENT = "gradient"
    SECOND_ORDER = "second order"
    TRANSFORMS = "transforms"
    PRECISION = "precision"


PRECISIONS = ("float32", "bfloat16", "float16", "mixed")
"""The dtypes in which rounding is measured; `mixed` is each argument in its own."""


def precision_row(dtype: str) -> str:
    """The row of one dtype.

    Example:
        >>> precision_row("bfloat16")
        'bfloat16 precision'
    """
    return f"{dtype} precision"


ROWS = {
    "value": Column.VALUE,
    "fwd-value": Column.VALUE,
    "structure": Column.GRADIENT,
    "dtype": Column.GRADIENT,
    "deterministic": Column.GRADIENT,
    "zero": Column.GRADIENT,
    "linear": Column.GRADIENT,
    "gradient": Column.GRADIENT,
    "symbolic-zeros": Column.GRADIENT,
    "finite-differences": Column.GRADIENT,
    "kinks": Column.GRADIENT,
    "nan": Column.GRADIENT,
    "jit": Column.TRANSFORMS,
    "vmap": Column.TRANSFORMS,
    "scan": Column.TRANSFORMS,
    "remat": Column.TRANSFORMS,
    "shard-map": Column.TRANSFORMS,
    "second-order": Column.SECOND_ORDER,
    "precision": Column.PRECISION,
    **{precision_row(dtype): Column.PRECISION for dtype in PRECISIONS},
}
"""Every name of a `Check`. The row `precision` says why no dtype was tried."""
