"""What does each layer tell the one before it?

Trains `lenet` on digits, takes the held-out digit that it finds hardest, and draws the sweep of
the document through the network: what every layer says on the way forward, and the sensitivity
δ = ∂E/∂z of everything it says on the way back.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import command
import figures
import jax
import jax.numpy as jnp
import numpy as np
from command import Parser
from data import digits
from figures import INK, MUTED, PAPER, SIGNED
from matplotlib.axes import Axes
from models import MODELS
from progress import Watch
from results import Epoch, open_folder, write
from training import Options, Run, fit, prepare

from jaxbp import Sweep, backprop, softmax

# The layers to draw, and what to write above them.
LAYERS = {
    "conv1": "conv 5×5",
    "max_pool1": "relu, max",
    "conv2": "conv 5×5",
    "max_pool2": "relu, max",
    "dense1": "dense",
    "dense2": "dense",
    "dense3": "dense",
}


class Sight(NamedTuple):
    """One image on its way through the network."""

    image: np.ndarray  # [H, W]
    image_sensitivity: np.ndarray  # [H, W]: ∂E/∂x, where the sweep ends
    label: int
    probabilities: np.ndarray  # [K]
    sweep: Sweep


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Draw the sensitivities that flow back through a network.")
    parser.add_argument("--epochs", type=command.positive_int)
    parser.add_argument("--seed", type=command.natural, default=0)
    parser.add_argument(
        "--out", type=command.path, default="out", metavar="DIR", help="where lenet.png goes"
    )
    return parser.parse_args()


def look(run: Run, params: Any, losses: np.ndarray) -> Sight:
    """Send the held-out image with the largest loss forward, and its sensitivities back."""
    hardest = int(np.argmax(losses))
    x = jnp.asarray(run.data.test.images[hardest : hardest + 1])
    label = jnp.asarray(run.data.test.labels[hardest : hardest + 1])
    sweep = backprop(run.network, MODELS["lenet"].loss, params, x, label)
    y, residuals = run.network.forward(params, x)
    _, dx = run.network.backward(residuals, sweep.sensitivities["dense3"])
    return Sight(
        np.asarray(x)[0, ..., 0],
        np.asarray(dx)[0, ..., 0],
        int(label[0]),
        np.asarray(softmax(y))[0],
        jax.device_get(sweep),
    )


def draw(epochs: list[Epoch], kernels: np.ndarray, sight: Sight, held_out: int) -> bytes:
    """Draw how the network learned, what it looks for, and one image on its way."""
    with figures.style():
        figure = figures.blank(13, 8.2)
        top, bottom = _split(figure, (1, 1.35), down=True)
        left, middle, right = _split(top, (1, 1, 1.05))

        axes = left.subplots()
        figures.draw_wrong(axes, epochs)
        axes.set_title(f"Wrong answers: {1 - epochs[-1].test_accuracy:.2%} of {held_out} held out")
        axes = middle.subplots()
        figures.draw_loss(axes, epochs)

        grid = right.subplots(2, 3)
        figures.draw_kernels(grid.ravel(), kernels)
        _title(right, "What the first layer looks for")

        _draw_sweep(bottom, sight)
        return figures.png(figure)


def _draw_sweep(panel: Any, sight: Sight) -> None:
    said = int(np.argmax(sight.probabilities))
    hardest = f"{_article(sight.label)} {sight.label}"
    if said != sight.label:
        hardest += f" taken for {_article(said)} {said}"
    _title(
        panel, f"The hardest, {hardest}: outputs on the way forward, sensitivities on the way back"
    )
    grid = panel.subplots(2, len(LAYERS) + 1, width_ratios=[1.15] * 6 + [0.85, 0.75])
    outputs = [np.asarray(sight.sweep.outputs[name][0]) for name in LAYERS]
    sensitivities = [np.asarray(sight.sweep.sensitivities[name][0]) for name in LAYERS]
    grid[0, 0].imshow(sight.image, cmap=PAPER)
    _keep_box(grid[0, 0])
    for axes, values in zip(grid[0, 1:], outputs, strict=True):
        _draw_values(axes, values)
    for axes, name in zip(grid[0], ["image", *LAYERS.values()], strict=True):
        axes.set_title(name, loc="center", fontsize=10, fontweight="normal", pad=6)
    for axes, values in zip(grid[1], [sight.image_sensitivity, *sensitivities], strict=True):
        _draw_values(axes, values)
        axes.set_xlabel(f"±{np.abs(values).max():.2g}", fontsize=8, color=MUTED, labelpad=4)
    for axes in grid.ravel():
        _strip(axes)
    for row, (text, arrow) in zip(grid, (("output", "→"), ("δ = ∂E/∂output", "←")), strict=True):
        row[0].set_ylabel(text, fontsize=10)
        for after in row[1:]:
            _draw_arrow(after, arrow)
    for row in grid:
        _name_classes(row[-1], len(sight.probabilities))
    _note(panel, "orange above zero, blue below, each picture on its own scale; ± the largest δ")


def _draw_values(axes: Axes, values: np.ndarray) -> None:
    """Draw maps [H, W, C] as a mosaic, a vector [K] as a block, on a scale of their own."""
    tiles = _mosaic(values) if values.ndim == 3 else _block(values) if values.ndim == 1 else values
    most = float(np.nanmax(np.abs(tiles))) or 1.0
    axes.imshow(tiles, cmap=SIGNED, vmin=-most, vmax=most)
    _keep_box(axes)


def _keep_box(axes: Axes) -> None:
    """Leave white beside an image rather than shrink the axes, so that titles stand in line."""
    axes.set_aspect("equal", adjustable="datalim")


def _strip(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _mosaic(maps: np.ndarray) -> np.ndarray:
    height, width, count = maps.shape
    columns = math.isqrt(count)
    rows = -(-count // columns)
    gap = max(1, height // 12)
    tiles = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for index in range(count):
        top, left = (height + gap) * (index // columns), (width + gap) * (index % columns)
        tiles[top : top + height, left : left + width] = maps[..., index]
    return tiles


def _block(vector: np.ndarray) -> np.ndarray:
    columns = {120: 10, 84: 7}.get(len(vector), 1)  # 84 nodes were a 12×7 bitmap in 1998
    return vector.reshape(-1, columns)


def _draw_arrow(after: Axes, arrow: str) -> None:
    after.annotate(
        arrow, (0, 0.5), xytext=(-9, 0), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="center", fontsize=13, color=INK, annotation_clip=False,
    )  # fmt: skip


def _note(panel: Any, text: str) -> None:
    panel.supxlabel(text, x=0.99, ha="right", fontsize=9, color=MUTED)


def _split(panel: Any, ratios: Sequence[float], down: bool = False) -> list[Any]:
    if down:
        return list(panel.subfigures(len(ratios), 1, height_ratios=ratios, hspace=0.05))
    return list(panel.subfigures(1, len(ratios), width_ratios=ratios, wspace=0.04))


def _title(panel: Any, text: str) -> None:
    panel.suptitle(text, x=0.01, ha="left", fontweight="bold", fontsize=11)


def _article(digit: int) -> str:
    return "an" if digit == 8 else "a"


def _name_classes(axes: Axes, count: int) -> None:
    for label in range(count):
        axes.text(0.75, label, str(label), va="center", fontsize=8, color=MUTED)


def main() -> int:
    """Train, look, draw."""
    args = parse()
    recipe = MODELS["lenet"].recipe
    options = Options(**recipe._asdict(), seed=args.seed)
    options = options._replace(epochs=args.epochs or recipe.epochs)
    data = digits()
    run = prepare(MODELS["lenet"], data, options)
    folder = open_folder(args.out)
    epochs = []
    with Watch("lenet on digits", options.epochs * len(data.train.labels), options.epochs) as watch:
        for after in fit(run, watch):
            epochs.append(after.epoch)
    sight = look(run, after.params, after.scores.losses)
    kernels = np.asarray(after.params["conv1"]["w"])[:, :, 0]
    write(folder / "lenet.png", draw(epochs, kernels, sight, len(data.test.labels)))
    command.say(
        f"{epochs[-1].test_accuracy:.2%} of {len(data.test.labels)} held-out digits right; "
        f"the hardest is {_article(sight.label)} {sight.label} "
        f"(probability {sight.probabilities[sight.label]:.3f})\n"
        f"drawn in {folder / 'lenet.png'}"
    )
    return command.INTERRUPTED if watch.stopped else 0


if __name__ == "__main__":
    command.run(main)
