"""Data: what is read is what was written, and every kind of damage has its own words."""

import gzip
import hashlib
import http.server
import struct
import threading

import download
import numpy as np
import pytest
from augment import sampler
from command import BadInput
from data import Dataset, Examples, digits, load, standardise, to_side
from idx import read_folder, read_idx


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_set(folder, rng, prefix="", test="t10k", packed=True, dot="-", labels=10, first=0):
    """Write a small data set as it would be published; return what is in it."""
    folder.mkdir(exist_ok=True)
    content = {}
    for part, count in (("train", 7), (test, 5)):
        images = rng.integers(0, 256, (count, 6, 4), dtype=np.uint8)
        numbers = rng.integers(first, first + labels, count, dtype=np.uint8)
        for kind, array in (("images", images), ("labels", numbers)):
            name = f"{prefix}{part}-{kind}{dot}idx{array.ndim}-ubyte"
            content[part, kind] = array
            data = idx_bytes(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return content


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
def test_reads_what_was_written(tmp_path, rng, packed, dot):
    content = write_set(tmp_path / "mnist", rng, packed=packed, dot=dot)
    data = load(tmp_path / "mnist")
    assert data.name == "mnist"
    np.testing.assert_array_equal(data.train.images[..., 0] * 255, content["train", "images"])
    np.testing.assert_array_equal(data.test.labels, content["t10k", "labels"])
    assert data.train.images.dtype == np.float32
    assert data.train.labels.dtype == np.int32


def test_unpacked_file_goes_first(tmp_path, rng):
    content = write_set(tmp_path, rng, packed=False)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip file at all")
    data = read_folder(tmp_path)
    np.testing.assert_array_equal(data.train_images, content["train", "images"])


def test_emnist_stands_upright_and_its_letters_start_at_zero(tmp_path, rng):
    content = write_set(tmp_path, rng, "emnist-letters-", "test", labels=26, first=1)
    data = load(tmp_path)
    assert data.name == "emnist-letters"
    assert data.classes[0] == "A"
    assert len(data.classes) == 26
    np.testing.assert_array_equal(
        data.train.images[..., 0] * 255, content["train", "images"].transpose(0, 2, 1)
    )
    np.testing.assert_array_equal(data.test.labels, content["test", "labels"].astype(int) - 1)


def test_of_several_sets_one_is_chosen(tmp_path, rng):
    write_set(tmp_path, rng, "emnist-digits-", "test")
    balanced = write_set(tmp_path, rng, "emnist-balanced-", "test", labels=47)
    with pytest.raises(BadInput, match="--split one of balanced, digits"):
        load(tmp_path)
    with pytest.raises(BadInput, match="no set 'byclass'"):
        load(tmp_path, "byclass")
    data = load(tmp_path, "balanced")
    assert data.classes[36:] == tuple("abdefghnqrt")
    unnamed = write_set(tmp_path, rng)
    with pytest.raises(BadInput, match="--split one of unnamed, balanced, digits"):
        load(tmp_path)
    data = load(tmp_path, "unnamed")
    np.testing.assert_array_equal(data.train.labels, unnamed["train", "labels"])
    data = load(tmp_path, "balanced")
    np.testing.assert_array_equal(data.train.labels, balanced["train", "labels"])


def _missing_folder(folder):
    return folder / "nowhere"


def _empty(folder):
    for file in folder.iterdir():
        file.unlink()


def _missing(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()


def _short(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def _headless(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")


def _long(folder):
    file = folder / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes() + b"\0")


def _torn(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(file.read_bytes())[:-20])


def _garbled(folder):
    file = folder / "train-images-idx3-ubyte"
    packed = bytearray(gzip.compress(file.read_bytes()))
    packed[15:40] = b"x" * 25
    file.write_bytes(packed)


def _other_format(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(b"\x89PNG and so on")


def _floats(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0")


def _exchanged(folder):
    images, labels = (folder / f"train-{k}-ubyte" for k in ("images-idx3", "labels-idx1"))
    content = images.read_bytes(), labels.read_bytes()
    labels.write_bytes(content[0])
    images.write_bytes(content[1])


def _mixed(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(8)))


def _other_size(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((5, 6, 5))))


def _none(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((0, 6, 4))))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(0)))


def _many_axes(folder):
    header = struct.pack(">BBBB70I", 0, 0, 8, 70, *[1] * 70)
    (folder / "train-images-idx3-ubyte").write_bytes(header + b"x")


def _none_of_much(folder):
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1)
    (folder / "train-images-idx3-ubyte").write_bytes(header)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing_folder, "is not a folder"),
        (_empty, "no IDX files"),
        (_missing, "t10k-labels-idx1-ubyte is missing"),
        (_short, "truncated: its header announces 168 bytes and 167 follow"),
        (_headless, "truncated inside its header"),
        (_long, "longer than its header says"),
        (_torn, "damaged gzip file"),
        (_garbled, "damaged gzip file"),
        (_other_format, "is not an IDX file"),
        (_floats, "type 0x0d"),
        (_exchanged, "mislabelled: its name says images"),
        (_mixed, "7 images and train-labels-idx1-ubyte 8 labels"),
        (_other_size, "6×4 and those of t10k-images-idx3-ubyte are 6×5"),
        (_none, "holds no images"),
        (_many_axes, "announces a shape that no array has: maximum supported dimension"),
        (_none_of_much, "announces a shape that no array has"),
    ],
)
def test_damage_is_called_by_its_name(tmp_path, rng, damage, words):
    write_set(tmp_path, rng, packed=False)
    folder = damage(tmp_path) or tmp_path
    with pytest.raises(BadInput, match=words) as error:
        read_folder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value) or "images-idx3" in str(error.value)


def test_idx_is_read_in_the_order_of_the_file(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_digits_hold_out_every_third():
    data = digits()
    assert data.train.images.shape == (1198, 8, 8, 1)
    assert data.test.images.shape == (599, 8, 8, 1)
    assert (data.train.images.min(), data.train.images.max()) == (0, 1)
    # The file begins 0, 1, 2, 3, …, 9, 0, 1, …
    np.testing.assert_array_equal(data.test.labels[:6], [2, 5, 8, 1, 4, 7])
    np.testing.assert_array_equal(data.train.labels[:6], [0, 1, 3, 4, 6, 7])
    shares = [np.bincount(e.labels, minlength=10) / len(e.labels) for e in data[2:]]
    assert np.abs(shares[0] - shares[1]).max() < 0.02


def _dataset(images):
    examples = Examples(images, np.zeros(len(images), np.int32))
    return Dataset("some", ("0",), examples, examples)


def test_enlarged_by_a_whole_factor_then_padded():
    data = _dataset(np.ones((2, 3, 3, 1), np.float32))
    images = to_side(data, 8).train.images
    expected = np.zeros((8, 8))
    expected[1:7, 1:7] = 1
    np.testing.assert_array_equal(images, np.broadcast_to(expected[..., None], (2, 8, 8, 1)))


def test_too_large_for_the_model():
    with pytest.raises(BadInput, match="9×3 do not fit into the 8×8"):
        to_side(_dataset(np.ones((1, 9, 3, 1), np.float32)), 8)


def test_standardised_by_the_training_images(rng):
    data = _dataset(rng.random((20, 5, 5, 1)).astype(np.float32))
    data = data._replace(test=data.test._replace(images=data.train.images[:1] * 0))
    scaled = standardise(data, "float64")
    np.testing.assert_allclose(scaled.train.images.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.train.images.std(), 1, rtol=1e-6)
    raw = data.train.images
    np.testing.assert_allclose(scaled.test.images, -raw.mean() / raw.std(), rtol=1e-5)
    assert scaled.test.images.dtype == np.float64
    with pytest.raises(BadInput, match="every pixel"):
        standardise(_dataset(np.ones((2, 3, 3, 1), np.float32)), "float32")


def test_unmoved_images_are_themselves(rng):
    images = rng.random((6, 5, 4, 2))
    np.testing.assert_array_equal(sampler(images)(np.array([3, 0]), rng), images[[3, 0]])


def test_moved_images_are_the_image_moved(rng):
    images = rng.random((1, 5, 4, 1)) + 1
    images[0, 0, 0] = 0.5  # the background
    draws = sampler(images, shift=1, flip=True)(np.zeros(400, int), rng)
    padded = np.pad(images[0], ((1, 1), (1, 1), (0, 0)), constant_values=0.5)
    moved = [padded[i : i + 5, j : j + 4] for i in range(3) for j in range(3)]
    possible = {m.tobytes() for m in moved} | {m[:, ::-1].tobytes() for m in moved}
    assert len(possible) == 18
    assert {d.tobytes() for d in draws} == possible


@pytest.fixture
def mirror(tmp_path):
    """A web server on this machine, for the files of one folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def published(monkeypatch, rng, mirror):
    """A data set published on that server, its checksums known."""
    folder, url = mirror
    content = write_set(folder, rng)
    known = {f.name: (hashlib.sha256(f.read_bytes()).hexdigest(),) for f in folder.iterdir()}
    monkeypatch.setitem(download.PUBLISHED, "mnist", download.Published(url, known))
    return content


def test_downloads_once(tmp_path, mirror, published):
    folder, url = mirror
    where = download.download("mnist", url + "/", tmp_path / "cache")
    data = read_folder(where)
    np.testing.assert_array_equal(data.train_images, published["train", "images"])
    for file in folder.iterdir():
        file.unlink()
    assert download.download("mnist", url, tmp_path / "cache") == where


def test_repacked_file_is_known_by_what_it_unpacks_to(tmp_path, mirror, published, monkeypatch):
    folder, url = mirror
    known = {f.name: ("0" * 64, _sha256(gzip.decompress(f.read_bytes()))) for f in folder.iterdir()}
    monkeypatch.setitem(download.PUBLISHED, "mnist", download.Published(url, known))
    where = download.download("mnist", None, tmp_path / "cache")
    np.testing.assert_array_equal(read_folder(where).test_labels, published["t10k", "labels"])


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("published")
def test_wrong_checksum_leaves_nothing(tmp_path, mirror):
    folder, url = mirror
    for file in folder.iterdir():
        file.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(BadInput, match=r"has sha256 \w{64}, expected \w{64}"):
        download.download("mnist", url, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "mnist").iterdir())


@pytest.mark.usefixtures("published")
def test_missing_at_the_mirror(tmp_path, mirror, capsys):
    _, url = mirror
    with pytest.raises(BadInput, match=r"cannot fetch .*HTTP status 404.*--mirror"):
        download.download("mnist", f"{url}/nowhere", tmp_path / "cache")
    with pytest.raises(BadInput, match="must be an http:// or https:// URL"):
        download.download("mnist", "ftp://127.0.0.1", tmp_path / "cache")
    with pytest.raises(BadInput, match=r"cannot fetch http://\[::1/.* .ValueError."):
        download.download("mnist", "http://[::1", tmp_path / "cache")
    assert capsys.readouterr().err == ""  # the message is all there is to say


def test_damaged_cache_is_fetched_again(tmp_path, mirror, published):
    _, url = mirror
    where = download.download("mnist", url, tmp_path / "cache")
    (where / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    download.download("mnist", url, tmp_path / "cache")
    np.testing.assert_array_equal(read_folder(where).train_labels, published["train", "labels"])
