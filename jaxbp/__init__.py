"""Back-propagation for convolutional networks, written out by hand in JAX."""

from jaxbp import layers
from jaxbp.accelerate import accelerate
from jaxbp.backprop import Sweep, backprop
from jaxbp.explain import explain
from jaxbp.network import Layer, sequential
from jaxbp.plain import plain
from jaxbp.rules.activation import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxbp.rules.block import conv_relu_max_pool
from jaxbp.rules.conv import conv, conv_bias_grad, conv_input_grad, conv_kernel_grad, conv_transpose
from jaxbp.rules.dense import dense, dense_bias_grad, dense_input_grad, dense_weight_grad
from jaxbp.rules.loss import half_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from jaxbp.rules.pool import (
    avg_pool,
    avg_pool_grad,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_grad,
)
from jaxbp.rules.subsample import combine_maps, subsample
from jaxbp.verify import assert_vjp, check_vjp

__all__ = [
    "Layer",
    "Sweep",
    "accelerate",
    "assert_vjp",
    "avg_pool",
    "avg_pool_grad",
    "backprop",
    "check_vjp",
    "combine_maps",
    "conv",
    "conv_bias_grad",
    "conv_input_grad",
    "conv_kernel_grad",
    "conv_relu_max_pool",
    "conv_transpose",
    "dense",
    "dense_bias_grad",
    "dense_input_grad",
    "dense_weight_grad",
    "elu",
    "explain",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "half_squared_error",
    "layers",
    "leaky_relu",
    "log_softmax",
    "max_pool",
    "max_pool_grad",
    "plain",
    "relu",
    "sequential",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "subsample",
    "tanh",
]
