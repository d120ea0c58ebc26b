"""The words of a diagnosis: what each says of the wrong answer, and where to look for its cause."""

from typing import NamedTuple


class Word(NamedTuple):
    """What a diagnosis means to the one who wrote the rule."""

    phrase: str
    """Goes on from "the gradient of x ..."."""
    look_at: str
    """The usual places of the cause."""


WORDS = {
    "scale": Word(
        "is a multiple of the truth",
        "the constants in bwd: a factor of the forward's derivative left out, or put in twice",
    ),
    "averaged": Word(
        "is a mean where a sum belongs",
        "mean, or a division by a size, in bwd. What is used many times collects a sum; "
        "a mean in the loss is in the incoming cotangent already",
    ),
    "sign": Word(
        "has its sign turned",
        "the minus signs: (t - y) for (y - t), or the second operand of a subtraction",
    ),
    "transposed": Word(
        "has axes exchanged",
        "the order of the operands and axes in the product that makes this cotangent",
    ),
    "swapped-arguments": Word(
        "belongs to another argument",
        "the order of what bwd returns: it is the order of the function's arguments",
    ),
    "flipped": Word(
        "is mirrored along axes",
        "the kernel: a convolution's input gradient takes it turned by 180 degrees, "
        "its kernel gradient does not; or a reversed scan",
    ),
    "shifted": Word(
        "is displaced",
        "the padding of the backward sum (low and high exchanged, SAME for an even size), "
        "or an index that is off by one",
    ),
    "border": Word(
        "is wrong at the border only",
        "the padding: how many windows reach a border cell, and which cells are no cells at all",
    ),
    "local": Word(
        "is wrong at a few entries, or in one region",
        "branches, masks, clipping and slices of bwd: which of them meets the entry above?",
    ),
    "missing-term": Word(
        "lacks a summand or a factor",
        "the paths from this argument to the output: each of them is a summand, and each function "
        "on a path a factor",
    ),
    "zero": Word(
        "is zero where it must not be",
        "stop_gradient, zeros_like, None or an integer cast on the way to this cotangent",
    ),
    "one-example": Word(
        "covers part of the batch",
        "an index such as [0] or a loop over the batch that keeps one turn only",
    ),
    "not-reduced": Word(
        "was not summed over a broadcast axis",
        "the axes that the forward broadcasts this argument over: its cotangent sums over them",
    ),
    "unknown": Word(
        "is wrong, and no hypothesis explains it",
        "a smaller input that still fails, and the two numbers above worked out by hand",
    ),
    "value": Word(
        "differs from the reference",
        "the forward before the backward: what differs in value differs in its gradient",
    ),
    "fwd-value": Word(
        "differs between fwd and the primal",
        "the first thing that fwd returns: it must be what the plain call returns",
    ),
    "structure": Word(
        "has the wrong number or tree of cotangents",
        "what bwd returns: a tuple with one cotangent for each differentiable argument, each with "
        "the tree of its argument",
    ),
    "shape": Word(
        "has another shape than its primal",
        "broadcast axes that were not summed, and axes of size 1 that were dropped",
    ),
    "dtype": Word(
        "has another dtype than its primal",
        "the last line of bwd: cast each cotangent to its primal's dtype after summing",
    ),
    "nan": Word(
        "is NaN or inf for a finite input",
        "0 * inf and 0 / 0: exp that overflows, a root or logarithm at 0, and where, which does "
        "not stop a NaN in the branch not taken",
    ),
    "nonlinear": Word(
        "is not linear in the cotangent",
        "what bwd does to the incoming cotangent: no clipping, sign, activation or constant there",
    ),
    "nondeterministic": Word(
        "differs between two calls, or depends on state",
        "globals, caches and random keys: all that bwd needs must come through the residuals",
    ),
    "precision": Word(
        "loses more digits than the dtype must",
        "long sums: let them accumulate in float32 (preferred_element_type, dtype=), and cast last",
    ),
    "second-order": Word(
        "is right once and wrong when differentiated again",
        "stop_gradient, host callbacks, and residuals computed outside of JAX: bwd is itself "
        "differentiated",
    ),
    "vmap": Word(
        "is wrong only under vmap",
        "axes counted from the front, sums over all axes, and sizes read from shapes",
    ),
    "jit": Word(
        "is wrong only under jit",
        "Python state and numpy calls, which run once while tracing",
    ),
    "scan": Word(
        "is wrong only under scan",
        "Python state and closures over values of one turn",
    ),
    "remat": Word(
        "is wrong only under remat",
        "state and random numbers: fwd runs a second time and must do the same again",
    ),
    "shard-map": Word(
        "is wrong only under shard_map",
        "the sum over devices: the cotangent of a replicated argument needs psum over the axes "
        "that it varies in",
    ),
    "ties": Word(
        "breaks the reference's convention at a kink",
        "comparisons such as x > 0 against x >= 0, and which of several maxima wins",
    ),
    "overwritten": Word(
        "keeps one of several contributions",
        "at[...].set for at[...].add, and loops that assign where they should add",
    ),
    "surrogate": Word(
        "is the gradient of something else on purpose",
        "nothing, if it is meant so: give the function that it is the gradient of as reference",
    ),
}
