"""Back-propagation for convolutional networks, written out by hand in JAX."""
