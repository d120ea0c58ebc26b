"""Files that are there whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path


def refuse_unwritable(path: Path) -> None:
    """Raise the OSError that writing the file would meet, and leave no trace.

    Args:
        path: a file that may exist already.

    Raises:
        OSError: the file could not be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists():
        with path.open("a"):
            pass
    if _is_replaceable(path):
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader never meets half of it.

    Args:
        path: a file that may exist already; the new content takes its place at once.
        content: what to write; text is written as UTF-8.

    Raises:
        OSError: the file cannot be written; an old one is as it was.
    """
    path = path.resolve()
    data = content.encode() if isinstance(content, str) else content
    if not _is_replaceable(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _is_replaceable(path: Path) -> bool:
    """Say whether it is a plain file or none yet: a device or a pipe must stay what it is."""
    return path.is_file() or not path.exists()
