"""Keep what a training measured in a folder: each file appears whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from command import BadInput

from jaxbp.verify.cli.files import refuse_unwritable, write_whole

METRICS = "metrics.jsonl"


class Epoch(NamedTuple):
    """The measurements of one pass over the training images: a line of `metrics.jsonl`."""

    epoch: int
    step: int  # since the beginning
    learning_rate: float  # at the last step
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float  # spent on the steps, compilation included
    images_per_second: float
    complete: bool  # False where Ctrl-C or --steps ended it early


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
