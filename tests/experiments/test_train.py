"""Training from the command line: what it learns, keeps and says, and how it refuses."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios

import command
import jax
import numpy as np
import optimisers
import pytest
import results
import train
from command import BadInput
from data import digits
from models import MODELS
from training import Options, prepare

from tests.experiments.conftest import EXPERIMENTS, users_environment

PICTURES = ("confusion.png", "curves.png", "kernels.png", "mistakes.png")


def start(*args, script="train.py", stderr=subprocess.PIPE):
    command = [sys.executable, str(EXPERIMENTS / script), *map(str, args)]
    env = users_environment()
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)


def run(*args, script="train.py"):
    with start(*args, script=script) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lenet_learns_digits_and_keeps_what_it_measured(tmp_path):
    status, out, err = run("--epochs", 3, "--out", tmp_path / "new" / "out")
    assert (status, err) == (0, "")
    epochs = metrics(tmp_path / "new" / "out")
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert epochs[-1]["step"] == 3 * (1198 // 32)
    assert epochs[-1]["test_accuracy"] > 0.9
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 3
    assert all(e["complete"] and e["images_per_second"] > 0 for e in epochs)
    assert (
        f"{epochs[-1]['test_accuracy']:.2%}" in re.search("^test accuracy .*", out, re.MULTILINE)[0]
    )
    assert "lenet" in out
    names = sorted(p.name for p in (tmp_path / "new" / "out").iterdir())
    assert names == sorted([*PICTURES, "metrics.jsonl"])
    for name in PICTURES:
        content = (tmp_path / "new" / "out" / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert content[-8:-4] == b"IEND"


def test_bar_on_a_terminal_and_interrupted_keeps_what_was_measured(tmp_path):
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 140))
    with start("--epochs", 10_000, "--out", tmp_path, stderr=stderr) as process:
        os.close(stderr)
        shown = ""
        while "epoch 2/10000" not in shown:
            shown += os.read(terminal, 1000).decode()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=300)
    os.close(terminal)
    # lenet on digits:   0%|   | 1.28k/11.8M [00:03<8:13:24, 400 images/s, epoch 1/10000, loss 2.3]
    assert re.search(r"\[\S+<\S+, +\S+ images/s, epoch 2/10000, loss \d\.\d+\]", shown)
    assert process.returncode == 130
    epochs = metrics(tmp_path)
    assert epochs[-1]["epoch"] < 10_000
    assert 0 < epochs[-1]["test_accuracy"] <= 1
    assert "test accuracy" in out
    assert all((tmp_path / name).exists() for name in PICTURES)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path, monkeypatch, capsys):
    line = ["--optimizer", "sgd", "--lr", "1e6", "--steps", "20", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train.py", *line])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    # What a user has, where the tests are stricter.
    defaults = jax.enable_x64(False), jax.numpy_dtype_promotion("standard")
    with pytest.raises(SystemExit) as leave, defaults[0], defaults[1]:
        command.run(train.main)
    assert leave.value.code == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: the loss became (nan|inf) at step \d+: .*--lr\n", err)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_one_line_and_status_2(tmp_path):
    status, out, err = run("--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert re.fullmatch("error: .*nowhere is not a folder.*\n", err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model resnet", "invalid choice: 'resnet' .*lenet-1998"),
        ("--batch 0", "--batch: expected a whole number of at least 1, got '0'"),
        ("--batch 2000", "--batch 2000 is larger than digits's 1198 training images"),
        ("--epochs -1", "--epochs: expected"),
        ("--lr fast", "--lr: expected a number, got 'fast'"),
        ("--lr -1", "--lr: expected a number above 0"),
        ("--lr nan", "--lr: expected a number above 0"),
        ("--momentum 1", "--momentum: expected a number from 0 to below 1"),
        ("--rules numeric", "--rules: invalid choice"),
        ("--dtype float16", "--dtype: invalid choice"),
        ("--mirror http://127.0.0.1", "--mirror .* give --download too"),
        ("--split letters", "--split .* give --data too"),
        ("--download mnist --data .", "not allowed with"),
        ("--out=", "--out: expected a path, got ''"),
        ("--data=", "--data: expected a path, got ''"),
        (f"--data {'a' * 5000}", "is not a folder to read .File name too long"),
        ("--mirror=", "--mirror .* give --download too"),
        ("--mirror= --download mnist", "--mirror must be an http:// or https:// URL, got ''"),
        ("--split=", "--split .* give --data too"),
        ("--seed 9223372036854775808", "--seed: expected a whole number of at most 92233"),
        (f"--steps {'9' * 5000}", "--steps: expected a whole number of at most 92233"),
        ("--shift 32", "--shift 32 moves images of 32×32 out of sight: choose at most 31"),
        ("--out /proc/nowhere", "cannot write to --out /proc/nowhere .*choose another folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, line, words):
    monkeypatch.setattr(sys, "argv", ["train.py", *line.split()])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(SystemExit) as leave:
        command.run(train.main)
    assert leave.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(words, err)


def test_a_reader_that_leaves_costs_no_file(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(EXPERIMENTS / "train.py"), "--steps", "1", "--out", tmp_path]
    env = users_environment() | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*PICTURES, "metrics.jsonl"])


def test_letters_that_the_terminal_has_not_got_end_nothing(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    status, out, err = run("--steps", 1)
    assert (status, err) == (0, "")
    assert r"read at 32\xd732" in out


def test_epochs_without_end_have_a_schedule():
    recipe = MODELS["lenet"].recipe._replace(epochs=10**12)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        ready = prepare(MODELS["lenet"], digits(), Options(**recipe._asdict()))
        assert ready.rate(0) < ready.rate(10**7) < recipe.lr


def test_what_is_given_goes_before_the_recipe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.5", "--optimizer", "sgd", "--seed=3"])
    recipe = MODELS["lenet"].recipe
    options = train.options_of(train.parse(), recipe)
    assert options == Options(
        "sgd", 0.5, recipe.schedule, recipe.epochs, recipe.batch, recipe.weight_decay, seed=3
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # rate 2 at steps 0, 1, 2, 11 and 19 of 20, of which two are the warm-up
        ("constant", [2, 2, 2, 2, 2]),
        ("cosine", [1 + np.cos(np.pi * s / 20) for s in (0, 1, 2, 11, 19)]),
        ("warmup", [1, 2, 2, 2, 2]),
        ("warmup-cosine", [1, 2, 2, 1, 1 + np.cos(np.pi * 17 / 18)]),
    ],
)
def test_schedules(name, expected):
    rate = optimisers.schedule(name, 2.0, 20)
    np.testing.assert_allclose([rate(s) for s in (0, 1, 2, 11, 19)], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        # 6·(25 + 1); 2·6; 16·(25·6 + 1); 2·16; 120·(25·16 + 1); 84·121; 10·85
        ("lenet-1998", (32, 32, 1), 156 + 12 + 2416 + 32 + 48120 + 10164 + 850),
        # 6·(25 + 1); 16·(25·6 + 1); 120·(8·8·16 + 1); 84·121; 10·85
        ("lenet", (32, 32, 1), 156 + 2416 + 123000 + 10164 + 850),
        # 32·(9 + 1); 64·(9·32 + 1); 256·(7·7·64 + 1); 10·257
        ("cnn", (28, 28, 1), 320 + 18496 + 803072 + 2570),
        # 64·28, 64·577; 128·577, 128·1153; 256·1153, 256·2305; 256·(4·4·256 + 1); 10·257
        ("vgg", (32, 32, 3), 1792 + 36928 + 73856 + 147584 + 295168 + 590080 + 1048832 + 2570),
    ],
)
def test_models_are_as_large_as_they_should_be(name, shape, weights):
    network = MODELS[name].build(10)
    params = jax.eval_shape(lambda key: network.init(key, (1, *shape)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == weights
    x = jax.ShapeDtypeStruct((1, *shape), jax.tree.leaves(params)[0].dtype)
    assert jax.eval_shape(network.apply, params, x).shape == (1, 10)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    results.write(tmp_path / "a", b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(BadInput, match=r"cannot write .*: No space left on device"):
            results.write(tmp_path / "a", b"second")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"
    results.write(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"


def test_what_is_no_plain_file_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    results.write(tmp_path / "pipe", b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
