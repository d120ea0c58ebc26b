"""Back-propagation for convolutional networks, written out by hand in JAX."""

from jaxbp.rules.conv import conv, conv_bias_grad, conv_input_grad, conv_kernel_grad, conv_transpose
from jaxbp.rules.dense import dense, dense_bias_grad, dense_input_grad, dense_weight_grad
from jaxbp.rules.pool import (
    avg_pool,
    avg_pool_grad,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_grad,
)

__all__ = [
    "avg_pool",
    "avg_pool_grad",
    "conv",
    "conv_bias_grad",
    "conv_input_grad",
    "conv_kernel_grad",
    "conv_transpose",
    "dense",
    "dense_bias_grad",
    "dense_input_grad",
    "dense_weight_grad",
    "global_avg_pool",
    "global_max_pool",
    "max_pool",
    "max_pool_grad",
]
