"""A function as vectors in and out, and its traced program."""
