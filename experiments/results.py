"""Keep what a training measured in a folder: each file appears whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from command import BadInput

if TYPE_CHECKING:
    from training import Epoch

METRICS = "metrics.jsonl"


def open_folder(path: str) -> Path:
    """Return the folder for results, made if need be, once it is known that it can be written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write to --out {path} ({error.strerror}): choose another folder"
        ) from None
    return folder


def write(path: Path, content: bytes) -> None:
    """Write a file under another name first, and rename it when it is complete."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(scratch, 0o644)  # mkstemp lets nobody else read
        os.replace(scratch, path)
    except BaseException as error:
        os.unlink(scratch)
        if isinstance(error, OSError):
            raise BadInput(f"cannot write {path}: {error.strerror}") from None
        raise


def write_metrics(folder: Path, epochs: list[Epoch]) -> None:
    """Write one JSON object a line for each epoch so far."""
    lines = "".join(json.dumps(epoch._asdict()) + "\n" for epoch in epochs)
    write(folder / METRICS, lines.encode())
