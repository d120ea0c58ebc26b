"""Fetch a published data set from a mirror, and take nothing whose checksum is not known."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from command import BadInput


class Published(NamedTuple):
    """A data set as its authors published it."""

    mirror: str
    sha256: dict[str, tuple[str, ...]]  # file -> of the file as published, of what it unpacks to


PUBLISHED = {
    "mnist": Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
    ),
    "fashion-mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
    ),
    "kmnist": Published(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        {
            "train-images-idx3-ubyte.gz": (
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            "train-labels-idx1-ubyte.gz": (
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            "t10k-images-idx3-ubyte.gz": (
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        },
    ),
}


def download(name: str, mirror: str | None = None, cache: Path | None = None) -> Path:
    """Return the folder with the files of a published data set, fetching those that are not there.

    A file enters the folder whole and checked or not at all.
    """
    published = PUBLISHED[name]
    base = (published.mirror if mirror is None else mirror).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise BadInput(f"--mirror must be an http:// or https:// URL, got {mirror!r}")
    folder = (cache or Path(pooch.os_cache("jaxbp"))) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, digests in published.sha256.items():
            target = folder / file
            if not (target.is_file() and _is_genuine(target, digests)):
                _fetch(f"{base}/{file}", target, digests)
    except OSError as error:
        raise BadInput(f"cannot write to the cache {folder}: {error.strerror}") from None
    return folder


def _fetch(url: str, target: Path, digests: tuple[str, ...]) -> None:
    # The checksum is looked at here: pooch knows one a file, and a repacked file has another.
    pooch.get_logger().setLevel("ERROR")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            bar = sys.stderr.isatty()
            pooch.retrieve(url, None, fname=target.name, path=scratch, progressbar=bar)
        except (
            requests.RequestException,
            ValueError,
        ) as error:  # ValueError: of a URL that is none
            raise BadInput(f"cannot fetch {url} ({_reason(error)}): try another --mirror") from None
        fetched = Path(scratch) / target.name
        if not _is_genuine(fetched, digests):
            raise BadInput(
                f"{url} has sha256 {pooch.file_hash(str(fetched))}, expected {digests[0]}: "
                "the file is damaged or another one; try another --mirror"
            )
        os.replace(fetched, target)


def _is_genuine(path: Path, digests: tuple[str, ...]) -> bool:
    """Return whether the file, or what it unpacks to, has a known checksum."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() in digests:
        return True
    try:
        return hashlib.sha256(gzip.decompress(content)).hexdigest() in digests
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, requests.RequestException) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__
