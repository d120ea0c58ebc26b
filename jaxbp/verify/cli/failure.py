"""What keeps the command from running, in one line."""

import traceback
from pathlib import Path


class CannotRunError(Exception):
    """What keeps the check from running, in one line."""


def reason(error: BaseException) -> str:
    """Give an exception as one line.

    Example:
        >>> reason(ValueError("no\\nmore"))
        'ValueError: no more'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def where(error: BaseException) -> str:
    """Name the line that raised, where it stands in a module that was being imported."""
    own = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [
        f for f in frames if "importlib" not in f.filename and not f.filename.startswith(own)
    ]
    return f"{foreign[-1].filename}:{foreign[-1].lineno}: " if foreign else ""
