"""The document's formulas as literal sums: float64, NumPy, one loop for each index.

Slow on purpose, and sharing no code with the library. Arrays are channels last, as there. Applied
to absolute values, a sum of products gives the magnitude that `tests.tolerance` asks for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Index = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def places(shape: Index) -> Iterator[Index]:
    """Every index of an array of this shape, row-major."""
    return itertools.product(*map(range, shape))


# Chapter 2: fully connected


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(2.1) z_j = Σ_i x_i w_ij + b_j, for each example."""
    z = np.zeros((x.shape[0], w.shape[1]))
    for n, j in places(z.shape):
        z[n, j] = sum(x[n, i] * w[i, j] for i in range(w.shape[0])) + b[j]
    return z


def dense_input_grad(dz: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(2.10) ∂E/∂y_i = Σ_j w_ij δ_j."""
    dx = np.zeros((dz.shape[0], w.shape[0]))
    for n, i in places(dx.shape):
        dx[n, i] = sum(w[i, j] * dz[n, j] for j in range(w.shape[1]))
    return dx


def dense_weight_grad(x: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """(2.9) ∂E/∂w_ij = x_i δ_j, summed over examples."""
    dw = np.zeros((x.shape[1], dz.shape[1]))
    for i, j in places(dw.shape):
        dw[i, j] = sum(x[n, i] * dz[n, j] for n in range(x.shape[0]))
    return dw


def dense_bias_grad(dz: np.ndarray) -> np.ndarray:
    """(2.9) ∂E/∂b_j = δ_j, summed over examples."""
    return np.array([sum(dz[n, j] for n in range(dz.shape[0])) for j in range(dz.shape[1])])


def sigmoid(z: np.ndarray) -> np.ndarray:
    """y = 1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


def sigmoid_slope(z: np.ndarray) -> np.ndarray:
    """(2.5) f′(z_j) = y_j (1 - y_j)."""
    return sigmoid(z) * (1 - sigmoid(z))


def half_squared_error(y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(2.2) E = Σ_j ½ (t_j - y_j)², for each example."""
    return np.array(
        [sum(0.5 * (t[n, j] - y[n, j]) ** 2 for j in range(y.shape[1])) for n in range(len(y))]
    )


def output_sensitivity(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(2.4), (2.8) δ_j = -(t_j - y_j) f′(z_j), for the sigmoid."""
    return -(t - sigmoid(z)) * sigmoid_slope(z)


def hidden_sensitivity(z: np.ndarray, w: np.ndarray, dz_next: np.ndarray) -> np.ndarray:
    """(2.11) δ_i = f′(z_i) Σ_j w_ij δ_j, for the sigmoid."""
    return sigmoid_slope(z) * dense_input_grad(dz_next, w)


# Chapter 3: convolution


def same_padding(spatial: Index, size: Index, stride: Index, dilation: Index) -> Pairs:
    """The pairs that give ceil(S / stride) places, the odd one after."""
    pairs = []
    for n, k, s, d in zip(spatial, size, stride, dilation, strict=True):
        windows = (n + s - 1) // s
        last = (windows - 1) * s + (k - 1) * d  # the place of the last window's last cell
        missing = max(last - (n - 1), 0)
        pairs.append((missing // 2, missing - missing // 2))
    return tuple(pairs)


def count_windows(
    spatial: Index, size: Index, stride: Index, padding: Pairs, dilation: Index
) -> Index:
    """How many windows fit wholly into the padded input, counted one by one."""
    counts = []
    for n, k, s, (low, high), d in zip(spatial, size, stride, padding, dilation, strict=True):
        windows = 0
        while windows * s + (k - 1) * d < low + n + high:
            windows += 1
        counts.append(windows)
    return tuple(counts)


def place(i: Index, m: Index, stride: Index, padding: Pairs, dilation: Index) -> Index:
    """The input's place s·i + d·m - p of the cell m of the window i."""
    return tuple(
        s * a + d * b - low
        for a, b, s, (low, _), d in zip(i, m, stride, padding, dilation, strict=True)
    )


def inside(k: Index, spatial: Index) -> bool:
    """Whether the place lies in the input, not in the padding."""
    return all(0 <= a < n for a, n in zip(k, spatial, strict=True))


def _terms(
    spatial: Index, size: Index, stride: Index, padding: Pairs, dilation: Index
) -> Iterator[tuple[Index, Index, Index]]:
    """Every (window i, cell m, place k) of the input that (3.5) to (3.7) sum over."""
    for i in places(count_windows(spatial, size, stride, padding, dilation)):
        for m in places(size):
            k = place(i, m, stride, padding, dilation)
            if inside(k, spatial):
                yield i, m, k


def _channels(w_shape: Index, groups: int) -> Iterator[tuple[int, int, int]]:
    """Every (channel of x, channel of the kernel, output channel) that meet, group by group."""
    inputs, outputs = w_shape[-2], w_shape[-1] // groups
    for g in range(groups):
        for c in range(inputs):
            for o in range(outputs):
                yield g * inputs + c, c, g * outputs + o


def conv(
    x: np.ndarray, w: np.ndarray, *, stride: Index, padding: Pairs, dilation: Index, groups: int = 1
) -> np.ndarray:
    """(3.1), (3.5) O_nio = Σ_cm X_{n, s·i + d·m - p, c} F_{m,c,o}."""
    spatial, size = x.shape[1:-1], w.shape[:-2]
    windows = count_windows(spatial, size, stride, padding, dilation)
    y = np.zeros((x.shape[0], *windows, w.shape[-1]))
    for i, m, k in _terms(spatial, size, stride, padding, dilation):
        for n in range(x.shape[0]):
            for c, c_w, o in _channels(w.shape, groups):
                y[(n, *i, o)] += x[(n, *k, c)] * w[(*m, c_w, o)]
    return y


def conv_kernel_grad(
    x: np.ndarray,
    dy: np.ndarray,
    kernel_shape: Index,
    *,
    stride: Index,
    padding: Pairs,
    dilation: Index,
    groups: int = 1,
) -> np.ndarray:
    """(3.2), (3.6) ∂L/∂F_mco = Σ_ni X_{n, s·i + d·m - p, c} δ_nio."""
    dw = np.zeros(kernel_shape)
    for i, m, k in _terms(x.shape[1:-1], kernel_shape[:-2], stride, padding, dilation):
        for n in range(x.shape[0]):
            for c, c_w, o in _channels(kernel_shape, groups):
                dw[(*m, c_w, o)] += x[(n, *k, c)] * dy[(n, *i, o)]
    return dw


def conv_input_grad(
    dy: np.ndarray,
    w: np.ndarray,
    input_shape: Index,
    *,
    stride: Index,
    padding: Pairs,
    dilation: Index,
    groups: int = 1,
) -> np.ndarray:
    """(3.3), (3.7) ∂L/∂X_nkc = Σ_om δ_nio F_mco over the i with s·i = k - d·m + p."""
    dx = np.zeros(input_shape)
    for i, m, k in _terms(input_shape[1:-1], w.shape[:-2], stride, padding, dilation):
        for n in range(input_shape[0]):
            for c, c_w, o in _channels(w.shape, groups):
                dx[(n, *k, c)] += dy[(n, *i, o)] * w[(*m, c_w, o)]
    return dx


def conv_bias_grad(dy: np.ndarray) -> np.ndarray:
    """(3.8) ∂L/∂b_o = Σ_ni δ_noi."""
    db = np.zeros(dy.shape[-1])
    for index in places(dy.shape):
        db[index[-1]] += dy[index]
    return db


def conv_transpose(
    x: np.ndarray, w: np.ndarray, *, stride: Index, padding: Pairs, dilation: Index, groups: int = 1
) -> np.ndarray:
    """Dilate x by the stride, pad it, and slide w[*K, O // groups, C] over it, turned by 180°.

    The padding is that of the dilated input, as lax reads pairs.
    """
    spatial, size = x.shape[1:-1], w.shape[:-2]
    dilated = tuple((n - 1) * s + 1 if n else 0 for n, s in zip(spatial, stride, strict=True))
    spread = np.zeros((x.shape[0], *dilated, x.shape[-1]))
    spread[(slice(None), *(slice(None, None, s) for s in stride))] = x
    outputs, inputs = w.shape[-2], w.shape[-1] // groups
    ones = (1,) * len(size)
    y = np.zeros(
        (x.shape[0], *count_windows(dilated, size, ones, padding, dilation), outputs * groups)
    )
    for i, m, k in _terms(dilated, size, ones, padding, dilation):
        turned = tuple(n - 1 - a for n, a in zip(size, m, strict=True))
        for n, g, o, c in places((x.shape[0], groups, outputs, inputs)):
            y[(n, *i, g * outputs + o)] += (
                spread[(n, *k, g * inputs + c)] * w[(*turned, o, g * inputs + c)]
            )
    return y


# Chapter 4: pooling


def avg_pool(
    x: np.ndarray, size: Index, *, stride: Index, padding: Pairs, count_include_pad: bool = True
) -> np.ndarray:
    """(4.1) a convolution with every F_m = 1/|K|, channel by channel."""
    spatial, ones = x.shape[1:-1], (1,) * len(size)
    windows = count_windows(spatial, size, stride, padding, ones)
    share = _shares(spatial, size, stride, padding, count_include_pad)
    y = np.zeros((x.shape[0], *windows, x.shape[-1]))
    for i, _, k in _terms(spatial, size, stride, padding, ones):
        for n, c in places((x.shape[0], x.shape[-1])):
            y[(n, *i, c)] += x[(n, *k, c)] * share[i]
    return y


def avg_pool_grad(
    dy: np.ndarray,
    input_shape: Index,
    size: Index,
    *,
    stride: Index,
    padding: Pairs,
    count_include_pad: bool = True,
) -> np.ndarray:
    """(4.2) each window spreads δ/|K| over its cells, and overlapping windows add."""
    spatial, ones = input_shape[1:-1], (1,) * len(size)
    share = _shares(spatial, size, stride, padding, count_include_pad)
    dx = np.zeros(input_shape)
    for i, _, k in _terms(spatial, size, stride, padding, ones):
        for n, c in places((input_shape[0], input_shape[-1])):
            dx[(n, *k, c)] += dy[(n, *i, c)] * share[i]
    return dx


def _shares(
    spatial: Index, size: Index, stride: Index, padding: Pairs, count_include_pad: bool
) -> dict[Index, float]:
    ones = (1,) * len(size)
    cells: dict[Index, int] = {}
    for i, _, _ in _terms(spatial, size, stride, padding, ones):
        cells[i] = cells.get(i, 0) + 1
    return {i: 1 / (np.prod(size) if count_include_pad else count) for i, count in cells.items()}


def max_pool(
    x: np.ndarray, size: Index, *, stride: Index, padding: Pairs, dilation: Index
) -> tuple[np.ndarray, np.ndarray]:
    """(4.3) y = x_{m*}, and every m that is largest: bool[N, *S_out, C, |K|].

    NaN is larger than any number. The padding never wins, whatever the input is.
    """
    spatial = x.shape[1:-1]
    windows = count_windows(spatial, size, stride, padding, dilation)
    y = np.full((x.shape[0], *windows, x.shape[-1]), -np.inf)
    winners = np.zeros((*y.shape, int(np.prod(size))), bool)
    for n, *i, c in places(y.shape):
        cells = {}
        for number, m in enumerate(places(size)):
            k = place(tuple(i), m, stride, padding, dilation)
            if inside(k, spatial):
                cells[number] = x[(n, *k, c)]
        nans = [number for number, value in cells.items() if np.isnan(value)]
        if nans:
            y[(n, *i, c)] = np.nan
            winners[(n, *i, c, nans)] = True
        elif cells:
            y[(n, *i, c)] = max(cells.values())
            for number, value in cells.items():
                winners[(n, *i, c, number)] = value == y[(n, *i, c)]
    return y, winners


def max_pool_grad(
    dy: np.ndarray,
    winners: np.ndarray,
    input_shape: Index,
    size: Index,
    *,
    stride: Index,
    padding: Pairs,
    dilation: Index,
    ties: str = "first",
) -> np.ndarray:
    """(4.4) each window sends its whole δ to m*, and overlapping windows add.

    Where several are largest, "first" sends it to the first, "split" an equal part to each, "all"
    the whole to each.
    """
    dx, cells = np.zeros(input_shape), list(places(size))
    for n, *i, c in places(dy.shape):
        largest = [number for number, won in enumerate(winners[(n, *i, c)]) if won]
        for number in largest[:1] if ties == "first" else largest:
            k = place(tuple(i), cells[number], stride, padding, dilation)
            dx[(n, *k, c)] += dy[(n, *i, c)] / (len(largest) if ties == "split" else 1)
    return dx


# Any function


def finite_differences(
    fn: Callable[..., Any], args: list[np.ndarray], dy: np.ndarray, step: float = 1e-3
) -> list[np.ndarray]:
    """The cotangent of each argument by central differences, one entry at a time.

    Two steps, extrapolated (Richardson), so that the error is of the fourth order in the step.
    """
    cotangents = []
    for number, argument in enumerate(args):
        cotangent = np.zeros(argument.shape)
        for index in places(argument.shape):

            def slope(h: float, number: int = number, index: Index = index) -> float:
                values = []
                for sign in (1, -1):
                    moved = [a.copy() for a in args]
                    moved[number][index] += sign * h
                    values.append(np.asarray(fn(*moved), np.float64))
                return float(np.sum(dy * (values[0] - values[1])) / (2 * h))

            cotangent[index] = (4 * slope(step / 2) - slope(step)) / 3
        cotangents.append(cotangent)
    return cotangents
