"""Can a network learn real images through rules written by hand?

By default it trains `lenet` on 1,797 scanned digits, which takes less than a minute.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import command
import figures
import jax
import numpy as np
from command import Parser
from data import Dataset, load
from download import PUBLISHED
from models import MODELS, Recipe
from optimisers import OPTIMIZERS, SCHEDULES
from progress import Watch
from results import METRICS, Epoch, open_folder, write, write_metrics
from training import After, Options, Run, fit, prepare

PICTURES = ("curves.png", "confusion.png", "kernels.png", "mistakes.png")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        description="Train a convolutional network through hand-written rules.",
        epilog="What is not given is taken from the model's recipe (experiments/models.py).",
    )
    parser.add_argument("--model", choices=list(MODELS), default="lenet")
    parser.add_argument(
        "--rules",
        choices=("manual", "autodiff"),
        default="manual",
        help="whose gradients: jaxbp's rules (default), or jax.grad of the same forward",
    )
    data = parser.add_argument_group("data (default: scikit-learn's digits)")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data", type=command.path, metavar="DIR", help="a folder with IDX files, gzipped or not"
    )
    source.add_argument("--download", choices=list(PUBLISHED), help="a published set to fetch")
    data.add_argument("--mirror", metavar="URL", help="where --download fetches from")
    data.add_argument("--split", metavar="NAME", help="which set of a folder with several")
    data.add_argument(
        "--shift", type=command.natural, metavar="PIXELS", help="move images by chance"
    )
    data.add_argument("--flip", action="store_true", help="mirror images by chance")
    learning = parser.add_argument_group("learning")
    learning.add_argument("--optimizer", choices=OPTIMIZERS)
    learning.add_argument("--schedule", choices=SCHEDULES)
    learning.add_argument("--lr", type=command.positive_float, metavar="RATE")
    learning.add_argument("--momentum", type=command.fraction, default=0.9, help="of sgd")
    learning.add_argument("--weight-decay", type=command.fraction, metavar="RATE")
    learning.add_argument("--epochs", type=command.positive_int)
    learning.add_argument("--steps", type=command.positive_int, help="stop after so many")
    learning.add_argument("--batch", type=command.positive_int)
    learning.add_argument("--seed", type=command.natural, default=0)
    learning.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument(
        "--out",
        type=command.path,
        metavar="DIR",
        help="a folder for metrics.jsonl and four pictures",
    )
    args = parser.parse_args()
    if args.mirror is not None and args.download is None:
        parser.error("--mirror says where --download fetches from: give --download too")
    if args.split is not None and args.data is None:
        parser.error("--split chooses among the sets in --data DIR: give --data too")
    return args


def options_of(args: argparse.Namespace, recipe: Recipe) -> Options:
    """Return the options given, and the model's own where none were given."""
    given = {n: v for n, v in vars(args).items() if n in Options._fields and v is not None}
    return Options(**(recipe._asdict() | given))


def main() -> int:
    """Train, show what came of it, and keep it."""
    began = time.perf_counter()
    args = parse()
    model = MODELS[args.model]
    options = options_of(args, model.recipe)
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    data = load(args.data, args.split, args.download, args.mirror)
    run = prepare(model, data, options)
    folder = None if args.out is None else open_folder(args.out)

    epochs: list[Epoch] = []
    images = options.epochs * (len(data.train.labels) // options.batch) * options.batch
    if options.steps:
        images = min(images, options.steps * options.batch)
    with Watch(f"{args.model} on {data.name}", images, options.epochs) as watch:
        for after in fit(run, watch):
            epochs.append(after.epoch)
            if folder:
                write_metrics(folder, epochs)
    if folder:
        draw(folder, args.model, run, epochs, after)
    command.say(table(args, data, run, epochs, after.params, time.perf_counter() - began))
    if folder:
        command.say(f"\nwritten to {folder}: {METRICS}, {', '.join(PICTURES)}")
    return command.INTERRUPTED if watch.stopped else 0


def draw(folder: Path, model: str, run: Run, epochs: list[Epoch], after: After) -> None:
    """Write the four pictures."""
    scores = after.scores
    labels, classes = run.data.test.labels, run.data.classes
    on = f"{model} on {run.data.name}"
    accuracy = f"{on}: {scores.accuracy:.2%} of {len(labels):,} held-out images right"
    first = np.asarray(after.params["conv1"]["w"])
    pictures = (
        figures.curves(epochs, accuracy),
        figures.confusion(labels, scores.predicted, classes, accuracy),
        figures.kernels(first, f"{on}: the first layer's kernels"),
        figures.mistakes(
            run.data.test.images, labels, scores.predicted, scores.losses, classes,
            f"{on}: the worst mistakes (what it is → what the network says)",
        ),
    )  # fmt: skip
    for name, content in zip(PICTURES, pictures, strict=True):
        write(folder / name, content)


def table(
    args: argparse.Namespace,
    data: Dataset,
    run: Run,
    epochs: list[Epoch],
    params: Any,
    seconds: float,
) -> str:
    """Return the run in a few lines."""
    last, options = epochs[-1], run.options
    size, read = ("×".join(map(str, d.train.images.shape[1:3])) for d in (data, run.data))
    if read != size:
        size += f", read at {read}"
    train, test = len(run.data.train.labels), len(run.data.test.labels)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    speed = sum(e.images_per_second * e.seconds for e in epochs) / sum(e.seconds for e in epochs)
    ended = "" if last.complete else ", ended early"
    rows = {
        "model": f"{args.model}, {weights:,} weights, {options.dtype}, {options.rules} rules",
        "data": f"{run.data.name}, {train:,} + {test:,} held-out images of {size}",
        "learning": f"{options.optimizer}, rate {options.lr:g} ({options.schedule}), "
        f"batch {options.batch}, seed {options.seed}",
        "augmentation": f"shift {options.shift}{', flip' if options.flip else ''}",
        "trained": f"{last.epoch} epochs, {last.step:,} steps{ended}",
        "speed": f"{speed:,.0f} images/s, compilation included",
        "time": f"{seconds:.1f} s in all",
        "training loss": f"{last.train_loss:.4f}",
        "training accuracy": f"{last.train_accuracy:.2%}",
        "test loss": f"{last.test_loss:.4f}",
        "test accuracy": f"{last.test_accuracy:.2%}",
    }
    width = max(map(len, rows))
    rule = "-" * (width + 2 + max(map(len, rows.values())))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    return "\n".join([rule, *lines, rule])


if __name__ == "__main__":
    command.run(main)
