"""Keep what a training measured in a folder: each file appears whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from command import BadInput

from jaxbp.verify.cli.files import refuse_unwritable, write_whole

if TYPE_CHECKING:
    from training import Epoch

METRICS = "metrics.jsonl"


def open_folder(folder: Path) -> Path:
    """Return the folder for results, made if need be, once it is known that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write to --out {folder} ({error.strerror}): choose another folder"
        ) from None
    return folder


def refuse_file(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written: before the work rather than after it."""
    try:
        if path is not None:
            refuse_unwritable(path)
    except OSError as error:
        raise BadInput(
            f"cannot write to {option} {path} ({error.strerror}): choose another file"
        ) from None


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None


def write_metrics(folder: Path, epochs: list[Epoch]) -> None:
    """Write one JSON object a line for each epoch so far."""
    lines = "".join(json.dumps(epoch._asdict()) + "\n" for epoch in epochs)
    write(folder / METRICS, lines.encode())
