"""Check what users hand in: every message names function, argument, expectation and find."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

# In `jax.export` of symbolic shapes, sizes are expressions that count as ints where they can.
Shape = tuple[int, ...]

# Beyond, what NumPy and XLA count by overflows.
_LARGEST = 2**31 - 1


def reject(
    function: str, argument: str, expected: str, got: object, kind: type[Exception] = ValueError
) -> Exception:
    """Return the exception to raise for a bad argument."""
    return kind(f"{function}: {argument} must be {expected}, got {got}")


def describe(value: object) -> str:
    """Return a value in few words: an array as dtype[shape], anything else by its repr."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return f"{value!r} ({type(value).__name__})"


def is_array(value: object) -> bool:
    """Return whether jax.numpy takes the value as an array: no lists, no strings, no None.

    Nor NumPy's arrays of what JAX has not (objects, text, masks, bytes in another order), nor keys.
    """
    if not isinstance(value, jax.Array | np.ndarray | np.generic | int | float):
        return False
    try:
        dtype = jax.typeof(value).dtype
    except (TypeError, ValueError, OverflowError):
        return False
    return not jnp.issubdtype(dtype, jax.dtypes.extended)


def is_float(dtype: Any) -> bool:
    """Return whether rules take this dtype: real floating, of 16 bits or more.

    Some of fewer bits have no infinity, which pads the input of max pooling.
    """
    return bool(jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16)


def floats(function: str, **values: Any) -> tuple[jax.Array, ...]:
    """Return the values as real floating arrays of one dtype; Python scalars take that dtype."""
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not is_array(value)
            or not (isinstance(value, int | float) or jnp.issubdtype(value.dtype, jnp.floating))
        ):
            raise reject(function, name, "a real floating array", describe(value), TypeError)
        if not isinstance(value, int | float) and not is_float(value.dtype):
            raise reject(function, name, "of 16 bits or more", describe(value), TypeError)
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    strong = {name: a for name, a in arrays.items() if not _is_weak(a)}
    first, dtype = next(
        ((name, a.dtype) for name, a in strong.items()), ("", jnp.result_type(float))
    )
    for name, a in strong.items():
        if a.dtype != dtype:
            raise reject(function, name, f"{dtype} as {first} is", describe(a), TypeError)
    return tuple(
        a if a.dtype == dtype and not _is_weak(a) else a.astype(dtype) for a in arrays.values()
    )


def floats_alike(function: str, **values: Any) -> tuple[jax.Array, ...]:
    """Return the values as real floating arrays of one dtype and one shape: nothing broadcasts."""
    arrays = floats(function, **values)
    first = next(iter(values))
    for name, a in zip(values, arrays, strict=True):
        shape(function, name, a, arrays[0].shape, f"as {first} is")
    return arrays


def sum_dtype(dtype: Any) -> np.dtype:
    """Return the dtype that sums of this dtype run in: float32 at least.

    By its size, since `jnp.promote_types` refuses under `jax_numpy_dtype_promotion="strict"`.
    """
    return np.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)


def widen(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Return the arrays in the dtype that their sums run in: float32 at least."""
    return tuple(a.astype(sum_dtype(a.dtype)) for a in arrays)


def _is_weak(a: jax.Array) -> bool:
    return bool(jax.typeof(a).weak_type)


def vary_alike(*arrays: Any) -> tuple[Any, ...]:
    """Return the arrays (or None), all varying over the mesh axes over which any of them varies.

    Under `shard_map` a replicated kernel meets a batch that varies over devices. Spreading the
    kernel here, outside the rule, leaves the sum over devices of its cotangent to JAX, which
    transposes the spreading; the rule itself then sees operands that vary alike.
    """
    axes = frozenset[str]().union(*(_varying(a) for a in arrays if a is not None))
    return tuple(
        a if a is None else jax.lax.pcast(a, tuple(axes - _varying(a)), to="varying")
        for a in arrays
    )


def _varying(a: jax.Array) -> frozenset[str]:
    return jax.typeof(a).manual_axis_type.varying


def rank(function: str, argument: str, value: Any, ranks: tuple[int, ...], layout: str) -> None:
    """Raise unless the array has one of the ranks that the layout allows."""
    if value.ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise reject(function, argument, f"{layout} of rank {wanted}", describe(value))


def shape(function: str, argument: str, value: Any, expected: Shape, why: str) -> None:
    """Raise unless the array has just this shape."""
    if value.shape != tuple(expected):
        raise reject(function, argument, f"of shape {tuple(expected)} ({why})", describe(value))


def shape_tuple(
    function: str, argument: str, value: Any, ranks: tuple[int, ...] | None, layout: str
) -> Shape:
    """Return a shape given by the user as a tuple of ints that are not negative.

    It has one of the ranks, or any but 0 where they are None.
    """
    wanted = "one or more" if ranks is None else " or ".join(map(str, ranks))
    expected = f"a shape {layout} of {wanted} ints, none negative"
    try:
        result = tuple(map(dimension, entries(value)))
    except TypeError:
        raise reject(function, argument, expected, describe(value), TypeError) from None
    not_too_large(function, argument, value, result)
    of_rank = bool(result) if ranks is None else len(result) in ranks
    if not of_rank or any(known(n) and n < 0 for n in result):
        raise reject(function, argument, expected, describe(value))
    return result


def known(*sizes: Any) -> bool:
    """Return whether these sizes are numbers, as all are but in `jax.export` of symbolic shapes."""
    return not any(map(is_symbolic_dim, sizes))


def not_negative(size: int) -> int:
    """Return the size, or 0 if it is less."""
    result: int = jax.core.max_dim(size, 0)
    return result


def integer(value: Any) -> int:
    """Return an int; TypeError for anything else, True and False among it."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def entries(value: Any) -> tuple[Any, ...]:
    """Return the entries of a sequence; TypeError for text, and for what has no order."""
    if isinstance(value, bytes | bytearray | Set | Mapping):
        raise TypeError
    return tuple(value)


def not_too_large(function: str, argument: str, value: Any, sizes: Iterable[int]) -> None:
    """Raise if one of the sizes that the value gave cannot be counted."""
    if any(known(n) and n > _LARGEST for n in sizes):
        raise reject(function, argument, f"at most {_LARGEST}", describe(value))


def dimension(value: Any) -> int:
    """Return an int or a size not known yet; TypeError for anything else."""
    return integer(value) if known(value) else value


def ints(function: str, argument: str, value: Any, axes: int, least: int = 1) -> Shape:
    """Return an int, or one int a spatial axis, as a tuple with one int an axis."""
    expected = f"an int or {axes} ints (one a spatial axis), each at least {least}"
    try:
        result = (integer(value),) * axes
    except TypeError:
        try:
            result = tuple(map(integer, entries(value)))
        except TypeError:
            raise reject(function, argument, expected, describe(value), TypeError) from None
    not_too_large(function, argument, value, result)
    if len(result) != axes or any(n < least for n in result):
        raise reject(function, argument, expected, describe(value))
    return result


def positive(function: str, argument: str, value: Any) -> int:
    """Return a positive int."""
    try:
        result = integer(value)
    except TypeError:
        raise reject(function, argument, "a positive int", describe(value), TypeError) from None
    not_too_large(function, argument, value, (result,))
    if result < 1:
        raise reject(function, argument, "a positive int", describe(value))
    return result


def number(function: str, argument: str, value: Any) -> float:
    """Return a finite Python number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise reject(function, argument, "a Python number", describe(value), TypeError)
    if not np.isfinite(value):
        raise reject(function, argument, "finite", describe(value))
    return float(value)


def aligned(a: jax.Array, like: jax.Array) -> jax.Array:
    """Return the array with as many axes as the other: JAX can be told to refuse unlike ranks."""
    return a.reshape((1,) * (like.ndim - a.ndim) + a.shape)


def flag(function: str, argument: str, value: Any) -> bool:
    """Return True or False, and nothing that merely looks like it."""
    if not isinstance(value, bool | np.bool_):
        raise reject(function, argument, "True or False", describe(value), TypeError)
    return bool(value)


def choice(function: str, argument: str, value: Any, among: tuple[str, ...]) -> str:
    """Return one of the strings allowed."""
    if not isinstance(value, str):
        raise reject(function, argument, f"one of {among}", describe(value), TypeError)
    if value not in among:
        raise reject(function, argument, f"one of {among}", repr(value))
    return value


def axis(function: str, argument: str, value: Any, ndim: int) -> int:
    """Return an axis as a number from 0 to ndim - 1."""
    expected = f"an axis of an array of rank {ndim}"
    try:
        result = integer(value)
    except TypeError:
        raise reject(function, argument, expected, describe(value), TypeError) from None
    if not -ndim <= result < ndim:
        raise reject(function, argument, expected, describe(value))
    return result % ndim
