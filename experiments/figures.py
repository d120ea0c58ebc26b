"""The pictures of the experiments, all in one style: PNG bytes of a training's measurements."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from results import Epoch

INK, MUTED, FAINT = "#22262b", "#6b7280", "#e5e7eb"
BLUE, ORANGE = "#2563a8", "#d9681d"

# Below zero blue, above zero orange, zero the paper's white.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#123a66", BLUE, "#ffffff", ORANGE, "#7d3408"]
)
_RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", BLUE])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", ORANGE])
PAPER = LinearSegmentedColormap.from_list("paper", ["#ffffff", "#16191d"])

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.interpolation": "nearest",
}


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made and saved."""
    return mpl.rc_context(_STYLE)


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight", pad_inches=0.2)
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of a width and a height in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def curves(epochs: Sequence[Epoch], title: str) -> bytes:
    """Draw the loss and the share of wrong answers by epoch."""
    with style():
        figure = blank(9, 3.6)
        left, right = figure.subplots(1, 2)
        draw_loss(left, epochs)
        draw_wrong(right, epochs)
        _headline(figure, title)
        return png(figure)


def draw_loss(axes: Axes, epochs: Sequence[Epoch]) -> None:
    """Draw the loss by epoch, on the images learned from and on those held out."""
    _two_lines(axes, epochs, [e.train_loss for e in epochs], [e.test_loss for e in epochs])
    axes.set_title("Loss")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_wrong(axes: Axes, epochs: Sequence[Epoch]) -> None:
    """Draw the share of wrong answers by epoch."""
    wrong = ([1 - e.train_accuracy for e in epochs], [1 - e.test_accuracy for e in epochs])
    _two_lines(axes, epochs, *wrong)
    axes.set_title("Wrong answers")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _two_lines(
    axes: Axes, epochs: Sequence[Epoch], train: Sequence[float], test: Sequence[float]
) -> None:
    number = [e.epoch for e in epochs]
    marker = "o" if len(epochs) == 1 else None
    axes.plot(number, train, color=BLUE, linewidth=1.8, marker=marker, label="training")
    axes.plot(number, test, color=ORANGE, linewidth=1.8, marker=marker, label="held out")
    axes.set_xlabel("epoch")
    axes.set_xlim(left=min(1, len(epochs) - 1))
    axes.set_yscale("log", nonpositive="mask")  # where nothing is wrong the line has a gap
    logarithmic(axes, [*train, *test])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend()


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Label a logarithmic axis at 1, 2 and 5 where it is short, at powers of ten where long."""
    above = [v for v in values if v > 0]
    short = not above or max(above) < 100 * min(above)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def confusion(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str
) -> bytes:
    """Draw how often which class was taken for which: right answers in blue, wrong in orange."""
    count = len(classes)
    table = np.zeros((count, count), int)
    np.add.at(table, (labels, predicted), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    right = np.eye(count, dtype=bool)
    # Mistakes are few, so they get a scale of their own, or they would all be white.
    worst = max(share[~right].max(initial=0), 1e-12)
    colours = np.where(
        right[..., None],
        _RIGHT(0.15 + 0.6 * share),
        np.where(table[..., None] > 0, _WRONG(0.12 + 0.7 * share / worst), 1.0),
    )
    with style():
        side = max(4.6, 0.52 * count) if count <= 20 else 9
        figure = blank(side + 0.6, side + 0.9)
        axes = figure.subplots()
        axes.imshow(colours)
        font = 9 if count <= 20 else 5
        for (row, column), number in np.ndenumerate(table):
            if number and count <= 50:
                strong = share[row, column] > (0.8 if row == column else 0.75 * worst)
                axes.text(
                    column, row, f"{number}", ha="center", va="center", fontsize=font,
                    color="white" if strong else INK,
                )  # fmt: skip
        turned = max(map(len, classes)) > 3
        axes.set_xticks(
            range(count),
            classes,
            rotation=45 if turned else 0,
            ha="right" if turned else "center",
            rotation_mode="anchor" if turned else None,
        )
        axes.set_yticks(range(count), classes)
        axes.tick_params(length=0, labelsize=font)
        axes.set(xlabel="the network's answer", ylabel="the image shows")
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(visible=False, which="major")
        axes.grid(color="white", linewidth=1.5 if count <= 20 else 0.5, which="minor")
        axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        _headline(figure, title)
        return png(figure)


def kernels(w: np.ndarray, title: str) -> bytes:
    """Draw the first layer's kernels `[H, W, C, O]`: the pattern that each map looks for."""
    w = w.mean(axis=2)  # over the channels of the image, of which grey ones have one
    count = w.shape[-1]
    columns = min(count, 8)
    rows = -(-count // columns)
    with style():
        figure = blank(1.05 * columns + 1.0, 1.05 * rows + 0.7)
        grid = figure.subplots(rows, columns, squeeze=False)
        drawn = draw_kernels(grid.ravel(), w)
        bar = figure.colorbar(drawn, ax=grid, shrink=0.9, aspect=12 * rows, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        _headline(figure, title)
        return png(figure)


def draw_kernels(grid: Iterable[Axes], w: np.ndarray) -> Any:
    """Draw kernels `[H, W, O]`, one a pair of axes, all on one scale around zero."""
    most = max(float(np.abs(w).max()), 1e-12)
    for axes in grid:
        axes.set_axis_off()
    images = [
        axes.imshow(kernel, cmap=SIGNED, vmin=-most, vmax=most)
        for axes, kernel in zip(grid, np.moveaxis(w, -1, 0), strict=False)
    ]
    return images[0]


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    losses: np.ndarray,
    classes: Sequence[str],
    title: str,
) -> bytes:
    """Draw the wrong answers that the network was surest of, the worst first."""
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:40]
    long = max(map(len, classes)) > 3
    columns = 8
    rows = max(1, -(-len(worst) // columns))
    with style():
        figure = blank(1.15 * columns, (1.45 if long else 1.3) * rows + 0.6)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes, index in zip(grid.ravel(), worst, strict=False):
            axes.imshow(images[index, ..., 0], cmap=PAPER)
            between = "\n→ " if long else " → "
            name = f"{classes[labels[index]]}{between}{classes[predicted[index]]}"
            axes.set_title(
                name, loc="center", fontsize=8 if long else 10, fontweight="normal", pad=4
            )
        if not len(worst):
            figure.text(0.5, 0.4, "no mistakes", ha="center", color=MUTED)
        _headline(figure, title)
        return png(figure)


def _headline(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)


def equivalence(
    manual: np.ndarray, autodiff: np.ndarray, apart: np.ndarray, tolerance: float, title: str
) -> bytes:
    """Draw two trainings' losses by step, and their relative difference beside the tolerance."""
    step = np.arange(1, len(manual) + 1)
    with style():
        figure = blank(9, 3.6)
        left, right = figure.subplots(1, 2)
        left.plot(step, autodiff, color=ORANGE, linewidth=4, alpha=0.45, label="autodiff")
        left.plot(step, manual, color=BLUE, linewidth=1.1, label="rules by hand")
        left.set(title="Loss", xlabel="step", yscale="log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        logarithmic(left, [*manual, *autodiff])
        left.legend()
        right.plot(step, apart, color=BLUE, linewidth=0, marker=".", markersize=4)
        right.axhline(tolerance, color=ORANGE, linewidth=1.4)
        right.annotate(
            f"tolerance {tolerance:.0e}", (1, tolerance), xytext=(0, -4), color=ORANGE,
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="top",
        )  # fmt: skip
        right.set(title="Relative difference of the two", xlabel="step")
        right.set_yscale("log", nonpositive="mask")  # no point where the losses are the same bits
        _headline(figure, title)
        return png(figure)
