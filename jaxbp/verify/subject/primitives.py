"""What kind each of JAX's primitives is, for all that walk a program."""

CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_vjp_call"}
"""Calls that are the same as the program that they hold."""
HIDING = {"custom_jvp_call", "remat2", "checkpoint", "remat"}
"""Calls whose program a derivative of their own, or remat, hides."""

SMOOTH = {
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "cos", "cosh", "digamma", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic",
    "rsqrt", "sin", "sinh", "sqrt", "square", "tan", "tanh",
}  # fmt: skip
"""Of one operand, entry by entry, and rounded."""
UNARY = SMOOTH | {"abs", "neg", "sign"}
"""Of one operand, entry by entry."""
PRODUCTS = {"atan2", "div", "mul", "pow"}
"""Of two operands, entry by entry: each has the other in its derivative."""
CHOICES = {"max", "min", "select_n"}
"""One operand's entry or another's: a mask is their derivative."""
SUMS = {"add", "sub"}
"""Of two operands, entry by entry, each of which is passed on."""
CONTRACTIONS = {"conv_general_dilated", "dot_general"}
"""Products of arrays, summed."""
ACCUMULATIONS = {
    "add_any", "cumlogsumexp", "cumprod", "cumsum", "reduce_prod", "reduce_sum",
    "reduce_window_sum", "scatter-add", "scatter_add",
}  # fmt: skip
"""Many entries in one."""
LOOPS = {"scan", "while"}

ROUNDED = SMOOTH | PRODUCTS | SUMS | CONTRACTIONS | ACCUMULATIONS | LOOPS
"""Whose results are the nearest that their dtype holds."""
TO_INTEGERS = {"ceil", "floor", "round", "sign"}
"""Whose results no rounding of an operand changes, but where it crosses a step."""
LEAVABLE = UNARY | PRODUCTS | CHOICES | SUMS
"""What a backward may leave out of a forward that it computes anew."""
AS_WRITTEN = {"bitcast_convert_type", "io_callback", "pure_callback", "rng_uniform"}
"""Whose meaning is in the dtype."""
