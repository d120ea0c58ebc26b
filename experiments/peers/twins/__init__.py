"""PyTorch twins of the networks in `others`, in PyTorch's idiom; they import nothing of JAX.

Each function takes the sizes of `networks.py` and returns a `Twin`.
"""
