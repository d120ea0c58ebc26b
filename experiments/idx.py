"""Read the IDX files in which MNIST, Fashion-MNIST, KMNIST and EMNIST are published."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from command import BadInput

# train-images-idx3-ubyte.gz; t10k-labels.idx1-ubyte; emnist-balanced-test-images-idx3-ubyte.gz
_NAME = re.compile(
    r"(?:(?P<prefix>.+)-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?"
)
_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


class IdxFiles(NamedTuple):
    """Where the four files of a data set lie."""

    prefix: str  # "emnist-balanced"; empty where the files are named as MNIST's are
    train_images: Path
    train_labels: Path
    test_images: Path
    test_labels: Path


class IdxData(NamedTuple):
    """What the four files hold."""

    prefix: str
    train_images: np.ndarray  # uint8[N, H, W]
    train_labels: np.ndarray  # uint8[N]
    test_images: np.ndarray
    test_labels: np.ndarray


def read_folder(folder: Path, split: str | None = None) -> IdxData:
    """Return the data set that lies in a folder; of several, the one that `split` names."""
    files = find_files(folder, split)
    train = _read_pair(files.train_images, files.train_labels)
    test = _read_pair(files.test_images, files.test_labels)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise BadInput(
            f"the images of {files.train_images.name} are {_size(train[0])} and those of "
            f"{files.test_images.name} are {_size(test[0])}: the files belong to different sets"
        )
    return IdxData(files.prefix, *train, *test)


def find_files(folder: Path, split: str | None = None) -> IdxFiles:
    """Return the four files of the data set that lies in a folder."""
    try:
        # Sorted, so that of x and x.gz the smaller name, the one that is unpacked already, is kept.
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(
            f"{folder} is not a folder to read ({error.strerror}): "
            "give --data the folder with the IDX files"
        ) from None
    sets: dict[str, dict[str, Path]] = {}
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            part = "train" if match["part"] == "train" else "test"
            files = sets.setdefault(match["prefix"] or "", {})
            files.setdefault(f"{part}_{match['kind']}", path)
    if not sets:
        raise BadInput(
            f"no IDX files in {folder}: expected train-images-idx3-ubyte[.gz] and its companions"
        )
    prefix = _choose(folder, sorted(sets), split)
    missing = [name for name in IdxFiles._fields[1:] if name not in sets[prefix]]
    if missing:
        names = " and ".join(_published_name(prefix, name) for name in missing)
        raise BadInput(f"{names} is missing from {folder}: put it there, gzipped or not")
    return IdxFiles(prefix, **sets[prefix])


def read_idx(path: Path) -> np.ndarray:
    """Return the array of unsigned bytes in an IDX file, gzipped or not."""
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise BadInput(f"{path} is not an IDX file: it does not begin with two zero bytes")
    kind, rank = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise BadInput(f"{path} holds values of type 0x{kind:02x}, not the unsigned bytes 0x08")
    header = 4 + 4 * rank
    if len(content) < header:
        raise BadInput(f"{path} is truncated inside its header: fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, offset=4))
    found, expected = len(content) - header, math.prod(shape)
    if found < expected:
        raise BadInput(
            f"{path} is truncated: its header announces {expected} bytes and {found} follow; "
            "fetch it again"
        )
    if found > expected:
        raise BadInput(f"{path} is longer than its header says ({found} bytes for {expected})")
    try:
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    except ValueError as error:  # too many axes, or none of too much: 0 × 4294967295 × 4294967295
        raise BadInput(f"{path} announces a shape that no array has: {error}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == _GZIP else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is a damaged gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def _read_pair(image_path: Path, label_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(image_path), read_idx(label_path)
    for path, array, rank, kind in (
        (image_path, images, 3, "images"),
        (label_path, labels, 1, "labels"),
    ):
        if array.ndim != rank:
            raise BadInput(
                f"{path} is mislabelled: its name says {kind} (rank {rank}), "
                f"its header says rank {array.ndim}"
            )
        if not array.size:
            raise BadInput(f"{path} holds no {kind}")
    if len(images) != len(labels):
        raise BadInput(
            f"{image_path} holds {len(images)} images and {label_path.name} {len(labels)} labels: "
            "the files belong to different sets"
        )
    return images, labels


def _choose(folder: Path, prefixes: list[str], split: str | None) -> str:
    names = {p: p.rpartition("-")[2] or "unnamed" for p in prefixes}
    chosen = [p for p in prefixes if split in (None, p, names[p]) or p.endswith(f"-{split}")]
    if len(chosen) == 1:
        return chosen[0]
    among = ", ".join(names.values())
    if split is None:
        raise BadInput(f"{folder} holds several sets: choose with --split one of {among}")
    raise BadInput(f"no set {split!r} in {folder}: --split can be {among}")


def _published_name(prefix: str, name: str) -> str:
    part, kind = name.split("_")
    if part == "test" and not prefix:
        part = "t10k"
    rank = 3 if kind == "images" else 1
    return "-".join(filter(None, (prefix, part, kind, f"idx{rank}", "ubyte")))


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]}×{images.shape[2]}"
