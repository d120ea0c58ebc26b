"""Window geometry against counting one by one, and against lax."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from jax import lax

from jaxbp.window import Window, make_pairs, make_transposed_window, make_window
from tests import oracles
from tests.rules.geometry import CASES, windows


def window_of(case):
    return make_window(
        "f",
        case.spatial,
        case.size,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
    )


@pytest.mark.parametrize("name", CASES)
def test_options_are_read_axis_by_axis(name):
    case = CASES[name]
    assert window_of(case) == Window(case.size, case.strides, case.pairs, case.dilations)


@given(windows())
def test_output_counts_whole_windows(case):
    expected = oracles.count_windows(
        case.spatial, case.size, case.strides, case.pairs, case.dilations
    )
    assert window_of(case).output(case.spatial) == expected


@given(windows())
def test_reach_is_the_last_cell_of_the_last_window(case):
    window = window_of(case)
    counts = window.output(case.spatial)
    reach = window.reach(counts)
    for axis, count in enumerate(counts):
        cells = [
            case.strides[axis] * i + case.dilations[axis] * m
            for i, m in itertools.product(range(count), range(case.size[axis]))
        ]
        assert reach[axis] == max(cells, default=-1) + 1
        assert reach[axis] <= window.padded(case.spatial)[axis]


@given(windows())
def test_offsets_are_the_cells_row_major(case):
    window = window_of(case)
    expected = [
        tuple(d * m for d, m in zip(case.dilations, cell, strict=True))
        for cell in np.ndindex(*case.size)
    ]
    assert list(window.offsets()) == expected
    assert window.cells == len(expected)
    assert window.low == tuple(low for low, _ in case.pairs)
    assert window.span == tuple(last + 1 for last in expected[-1])


def test_same_and_valid_are_those_of_lax():
    for n, k, s, d, padding in itertools.product(
        range(8), range(1, 5), range(1, 5), range(1, 4), ("SAME", "VALID")
    ):
        window = make_window("f", (n,), (k,), stride=s, padding=padding, dilation=d)
        expected = lax.padtype_to_pads((n,), (d * (k - 1) + 1,), (s,), padding)
        assert window.padding == tuple(expected), (n, k, s, d, padding)


def test_a_padded_input_without_places():
    assert make_window("f", (2,), (1,), stride=1, padding=-1, dilation=1).output((2,)) == (0,)


@pytest.mark.parametrize("padding", [2, np.int64(2), ((2, 2), (2, 2)), [[2, 2], np.array([2, 2])]])
def test_pairs(padding):
    pairs = make_pairs("f", padding, 2)
    assert pairs == ((2, 2), (2, 2))
    assert all(type(p) is int for pair in pairs for p in pair)


def test_a_transposed_window_is_that_of_the_convolution_back():
    """The convolution with this window takes the output's shape back to the input's."""
    paddings = ("SAME", "VALID", 0, 1, ((2, 0),), ((-1, 2),), ((0, -1),))
    for n, k, s, d, padding in itertools.product(
        range(5), range(1, 4), range(1, 4), range(1, 3), paddings
    ):
        if n == 0 and padding == ((0, -1),):  # which crops more than there is
            continue
        window, output = make_transposed_window(
            "f", (n,), (k,), stride=s, padding=padding, dilation=d
        )
        assert window.output(output) == (n,), (n, k, s, d, padding)


def test_a_window_is_hashable_and_equal_by_value():
    one, other = (window_of(CASES["2d same"]) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
