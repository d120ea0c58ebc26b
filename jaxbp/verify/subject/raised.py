"""What an exception says, in one line of bearable length."""

import textwrap

LONGEST = 480
"""Characters: JAX writes paragraphs, of which the first line says what is wrong."""


def first_line(error: Exception) -> str:
    """The first line of an exception's text, cut."""
    lines = str(error).strip().splitlines() or [""]
    return textwrap.shorten(lines[0], LONGEST, placeholder=" …")


def named(error: Exception) -> str:
    """The kind of exception, and its first line.

    Example:
        >>> named(ValueError("no\\nmore"))
        'ValueError: no'
    """
    return f"{type(error).__name__}: {first_line(error)}"
