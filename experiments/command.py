"""What the scripts' command lines share: one line for bad input, exit statuses, output."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

REFUTED, BAD_INPUT, INTERRUPTED = 1, 2, 130
MOST = sys.maxsize  # what JAX takes for a seed, and Python for a length


class BadInput(Exception):
    """Something that the user can put right; the message says what is wrong and what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run(main: Callable[[], int]) -> NoReturn:
    """Call a script's main function and leave with its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal has not got is written as stderr writes it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        status = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)


def say(text: object = "", end: str = "\n") -> None:
    """Print; once the reader, `head` say, has left, be silent: there may be files to write yet."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def path(text: str) -> Path:
    """Read the name of a file or a folder; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def positive_int(text: str) -> int:
    """Read an int of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Read an int of at least 0."""
    return _whole(text, 0)


def several(text: str) -> int:
    """Read an int of at least 2: so many measurements have a spread."""
    return _whole(text, 2)


def _whole(text: str, least: int) -> int:
    # First the digits: Python reads no more than 4300 of them.
    if text.isdecimal() and (len(text) > len(str(MOST)) or int(text) > MOST):
        raise argparse.ArgumentTypeError(f"expected a whole number of at most {MOST}, got {text!r}")
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {least}, got {text!r}"
        )
    return int(text)


def positive_float(text: str) -> float:
    """Read a number above 0."""
    number = _float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def fraction(text: str) -> float:
    """Read a number from 0 up to, but not including, 1."""
    number = _float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got {text!r}")
    return number


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
