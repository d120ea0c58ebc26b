"""The images to learn from: digits, IDX files in a folder, or a published set from a mirror."""

from __future__ import annotations

import string
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from command import BadInput
from download import download
from idx import IdxData, read_folder

_BALANCED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_FASHION = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot",
)  # fmt: skip
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


class Examples(NamedTuple):
    """Images and what they show."""

    images: np.ndarray  # float32[N, H, W, 1], from 0 (background) to 1 (ink)
    labels: np.ndarray  # int32[N], from 0 to the number of classes - 1


class Dataset(NamedTuple):
    """Examples to learn from, and others to be judged by."""

    name: str
    classes: tuple[str, ...]  # what to call label 0, 1, …
    train: Examples
    test: Examples


def load(
    folder: Path | None = None,
    split: str | None = None,
    published: str | None = None,
    mirror: str | None = None,
) -> Dataset:
    """Return the data set that the command line asks for: digits unless it names another."""
    if published is not None:
        return _from_idx(read_folder(download(published, mirror)), published)
    if folder is not None:
        return _from_idx(read_folder(folder, split), folder.resolve().name)
    return digits()


def digits() -> Dataset:
    """Return scikit-learn's 1,797 scans of 8×8, every third of them held out.

    Writers follow one another in the file, so every third scan holds each writer's hand and each
    digit in the same share as the others do.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    labels = labels.astype(np.int32)
    held_out = np.arange(len(labels)) % 3 == 2
    return Dataset(
        "digits",
        tuple(string.digits),
        Examples(images[~held_out], labels[~held_out]),
        Examples(images[held_out], labels[held_out]),
    )


def _from_idx(idx: IdxData, folder: str) -> Dataset:
    name = idx.prefix or folder
    first_label, classes = _naming(name, idx)
    train = _examples(idx.train_images, idx.train_labels, idx.prefix, first_label)
    test = _examples(idx.test_images, idx.test_labels, idx.prefix, first_label)
    return Dataset(name, classes, train, test)


def _examples(images: np.ndarray, labels: np.ndarray, prefix: str, first_label: int) -> Examples:
    if prefix.startswith("emnist"):  # published lying on their side
        images = images.transpose(0, 2, 1)
    scaled = images[..., None].astype(np.float32) / 255
    return Examples(scaled, labels.astype(np.int32) - first_label)


def _naming(name: str, idx: IdxData) -> tuple[int, tuple[str, ...]]:
    """Return the label of the first class, and the names of the classes."""
    labels = np.concatenate([idx.train_labels, idx.test_labels])
    low, high = int(labels.min()), int(labels.max())
    if name == "emnist-letters" and low >= 1 and high <= 26:
        return 1, tuple(string.ascii_uppercase)
    known = {
        "emnist-balanced": tuple(_BALANCED),
        "emnist-bymerge": tuple(_BALANCED),
        "emnist-byclass": tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    }.get(name)
    if known is None and "fashion" in name.lower():
        known = _FASHION
    if known is None and any(word in name.lower() for word in ("kmnist", "kuzushiji")):
        known = _KUZUSHIJI
    if known is None or high >= len(known):
        known = tuple(map(str, range(high + 1)))
    return 0, known


def to_side(data: Dataset, side: int) -> Dataset:
    """Return the data with square images: enlarged by a whole factor, then padded all round.

    Digits' 8×8 scans count the ink in the 4×4 blocks of a 32×32 bitmap, so that enlarging them
    fourfold gives them their size back.
    """
    height, width = data.train.images.shape[1:3]
    if max(height, width) > side:
        raise BadInput(
            f"images of {height}×{width} do not fit into the {side}×{side} that this model reads: "
            "choose another --model"
        )
    factor = min(side // height, side // width)
    around = [_halves(side - factor * n) for n in (height, width)]

    def enlarged(examples: Examples) -> Examples:
        images = examples.images
        shape = (len(images), height * factor, width * factor, 1)
        images = np.asarray(jax.image.resize(images, shape, "linear"))
        return examples._replace(images=np.pad(images, ((0, 0), *around, (0, 0))))

    return data._replace(train=enlarged(data.train), test=enlarged(data.test))


def _halves(n: int) -> tuple[int, int]:
    return n // 2, n - n // 2


def standardise(data: Dataset, dtype: str) -> Dataset:
    """Return the data with the training images' mean at 0 and their standard deviation at 1."""
    mean, deviation = data.train.images.mean(), data.train.images.std()
    if not deviation > 0:
        raise BadInput(f"every pixel of {data.name}'s training images is the same")

    def scaled(examples: Examples) -> Examples:
        return examples._replace(images=((examples.images - mean) / deviation).astype(dtype))

    return data._replace(train=scaled(data.train), test=scaled(data.test))
