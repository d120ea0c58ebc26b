"""Back-propagation for convolutional networks, written out by hand in JAX."""

from jaxbp import layers
from jaxbp.backprop import Sweep, backprop
from jaxbp.network import Layer, sequential
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
from jaxbp.verify import assert_vjp, check_vjp

__all__ = [
    "Layer",
    "Sweep",
    "assert_vjp",
    "avg_pool",
    "avg_pool_grad",
    "backprop",
    "check_vjp",
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
    "layers",
    "max_pool",
    "max_pool_grad",
    "sequential",
]
