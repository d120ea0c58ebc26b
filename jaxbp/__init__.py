"""Back-propagation for convolutional networks, written out by hand in JAX."""

from jaxbp.rules.dense import dense, dense_bias_grad, dense_input_grad, dense_weight_grad

__all__ = [
    "dense",
    "dense_bias_grad",
    "dense_input_grad",
    "dense_weight_grad",
]
