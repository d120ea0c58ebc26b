"""The sums of the rules, each in the order that the device likes.

A rule names a sum, `lowering.conv_kernel_grad(x, dy, window, groups)`; how it is summed is chosen
here, when it is traced, by platform, shape and dtype.
"""

from jaxbp.lowering.slices import max_pool, max_pool_grad, sum_pool, sum_pool_grad
from jaxbp.lowering.xla import conv, conv_input_grad, conv_kernel_grad

__all__ = [
    "conv",
    "conv_input_grad",
    "conv_kernel_grad",
    "max_pool",
    "max_pool_grad",
    "sum_pool",
    "sum_pool_grad",
]
