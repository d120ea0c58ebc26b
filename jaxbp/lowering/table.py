"""Which way a sum is taken: one table, read when an operation is traced.

Each operation's strategies, in the order in which they are asked: the first that can do the case
and wins it is taken. The last of each, `xla`, can do and wins everything. What a strategy can do,
and what it wins on a CPU, stands in its own file. Where sizes are not known yet, only rows that do
any size are asked. GPU and TPU convolve as XLA likes: the traced program holds both ways, and
lowering keeps the one of its platform. Pooling is elementwise however it is summed, so its rows
hold everywhere.
"""

from __future__ import annotations

from types import ModuleType

from jaxbp.lowering import blocks
from jaxbp.lowering.choice import ON_ALL_PLATFORMS, TABLE, Row
from jaxbp.lowering.convolution import (
    columns,
    folds,
    merged,
    phases,
    planes,
    pointwise,
    shifts,
    strides,
    winograd,
    xla,
)
from jaxbp.lowering.pooling import axes, cells, scatter, tiles, windows


def _rows(operation: str, *strategies: ModuleType) -> tuple[Row, ...]:
    return tuple(strategy.ROWS[operation] for strategy in strategies)


TABLE |= {
    operation: _rows(operation, *strategies)
    for operation, strategies in {
        "conv": (pointwise, shifts, merged, strides, winograd, planes, folds, columns, xla),
        "conv_kernel_grad": (
            pointwise,
            shifts,
            merged,
            strides,
            winograd,
            planes,
            folds,
            columns,
            xla,
        ),
        "conv_input_grad": (
            pointwise,
            shifts,
            merged,
            strides,
            winograd,
            planes,
            folds,
            columns,
            phases,
            xla,
        ),
        "max_pool": (axes, cells),
        "max_pool_grad": (tiles, scatter, cells),
        "sum_pool": (windows, cells),
        "sum_pool_grad": (tiles, windows, cells),
    }.items()
}
TABLE |= blocks.ROWS
ON_ALL_PLATFORMS |= {"max_pool", "max_pool_grad", "sum_pool", "sum_pool_grad"}
