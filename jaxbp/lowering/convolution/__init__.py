"""The three sums of a convolution, one file a strategy."""
