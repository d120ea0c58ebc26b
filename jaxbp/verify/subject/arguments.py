"""Which arrays among the arguments a function can be differentiated by, and how it is called.

A `Subject` knows which part of a vector `x` is which argument.
"""

import enum
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.subject.vectors import Leaf, LeafFunction, Leaves, Vector, pack, unpack


class Role(enum.Enum):
    """What becomes of one leaf of the arguments."""

    DIFFERENTIATED = enum.auto()
    PASSED_ON = enum.auto()
    """An array that is not differentiated."""
    STATIC = enum.auto()


class Subject:
    """How `fn(*args, **kwargs)` is called with the differentiable leaves replaced."""

    def __init__(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.fn = fn
        self.name = _function_name(fn)
        held = set(getattr(fn, "nondiff_argnums", ()))
        names = _parameter_names(fn, len(args), kwargs)
        paths, self._tree = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs)))
        arrays = [leaf for _, leaf in paths if _is_array(leaf)]
        self._template: list[Any] = []
        self._roles: list[Role] = []
        self.leaves: list[Leaf] = []
        self.values: list[np.ndarray] = []
        self.others: list[Any] = []
        self.other_arguments: list[int] = []
        start = 0
        for path, leaf in paths:
            argument, name = _locate(path, names, len(args), kwargs)
            if argument not in held:
                _refuse(name, leaf)
            role = Role.STATIC if argument in held else _role_of(leaf)
            self._roles.append(role)
            self._template.append(leaf)
            if role is Role.DIFFERENTIATED:
                value = np.asarray(leaf, dtype=_dtype_of(leaf, arrays))
                stop = start + value.size
                self.leaves.append(Leaf(name, argument, value.shape, value.dtype, start, stop))
                self.values.append(value)
                start = stop
            elif role is Role.PASSED_ON:
                self.others.append(leaf)
                self.other_arguments.append(argument)
        self.size = start
        self.argument_names = names

    @property
    def x(self) -> Vector:
        """The given leaves as one float64 vector."""
        return pack(self.values)

    def cache_key(self) -> Any:
        """What has to be the same for compiled functions to be used again; None: nothing can be."""
        pairs = zip(self._template, self._roles, strict=True)
        held = [leaf for leaf, role in pairs if role is Role.STATIC]
        avals = [(v.shape, str(v.dtype)) for v in self.values]
        avals += [(jnp.shape(v), str(jnp.asarray(v).dtype)) for v in self.others]
        try:
            key = (self._tree, tuple(self._roles), tuple(map(_hashable, held)), tuple(avals))
            hash(key)
        except TypeError:
            return None
        return key

    def function(self, fn: Callable[..., Any]) -> LeafFunction:
        """`fn` as a function of lists of leaves, its floating outputs as a list of leaves."""

        def leaf_function(leaves: Leaves, others: Leaves) -> Leaves:
            result = self.call(fn, leaves, others)
            return [v for v in map(jnp.asarray, jax.tree.leaves(result)) if _is_inexact(v.dtype)]

        return leaf_function

    def call(self, fn: Callable[..., Any], leaves: Leaves, others: Leaves) -> Any:
        """Call `fn` as the user did, with these leaves in place of theirs."""
        given = {Role.DIFFERENTIATED: iter(leaves), Role.PASSED_ON: iter(others)}
        full = [
            next(given[role]) if role in given else leaf
            for leaf, role in zip(self._template, self._roles, strict=True)
        ]
        args, kwargs = jax.tree_util.tree_unflatten(self._tree, full)
        return fn(*args, **kwargs)

    def cast(self, x: Vector, dtype: Any = None) -> list[np.ndarray]:
        """The leaves of `x`, in `dtype` where they are real; None: each in its own."""
        cast = []
        for leaf in self.leaves:
            own = leaf.dtype
            if dtype is not None:
                own = np.dtype(dtype) if _is_real(own) else np.dtype(np.complex128)
            part = x[leaf.part] if own.kind == "c" else x[leaf.part].real
            cast.append(unpack(part, leaf).astype(own))
        return cast

    @property
    def is_real(self) -> bool:
        return all(_is_real(leaf.dtype) for leaf in self.leaves)


def _function_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "fun", fn)
    return str(getattr(fn, "__qualname__", None) or type(fn).__name__).replace("<locals>.", "")


def _parameter_names(fn: Any, count: int, kwargs: Mapping[str, Any]) -> list[str]:
    """The name of every top-level argument: the positional ones, then the keywords."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = []
    for position in range(count):
        named = parameters[position] if position < len(parameters) else None
        if named is not None and named.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            names.append(named.name)
        else:
            star = [p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
            if star:
                names.append(f"{star[0].name}[{position - parameters.index(star[0])}]")
            else:
                names.append(f"args[{position}]")
    return names + list(kwargs)


def _locate(
    path: tuple[Any, ...], names: list[str], count: int, kwargs: Mapping[str, Any]
) -> tuple[int, str]:
    """The top-level argument that a leaf belongs to, and the leaf's name."""
    argument = path[1].idx if path[0].idx == 0 else count + list(kwargs).index(path[1].key)
    return argument, names[argument] + jax.tree_util.keystr(path[2:])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _is_real(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _refuse(name: str, leaf: Any) -> None:
    """Raise for what looks like an array and holds no numbers."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(
            f"check_vjp: `{name}` must be data; got the spec {leaf}: pass an array like it"
        )
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "OUSMm":
        raise TypeError(f"check_vjp: `{name}` must hold numbers; got an array of {leaf.dtype}")


def _role_of(leaf: Any) -> Role:
    if _is_array(leaf):
        return Role.DIFFERENTIATED if _is_inexact(leaf.dtype) else Role.PASSED_ON
    return Role.DIFFERENTIATED if isinstance(leaf, (float, complex)) else Role.STATIC


def _dtype_of(leaf: Any, arrays: Sequence[Any]) -> np.dtype:
    """An array's own dtype as JAX will see it; a Python number takes that of its neighbours."""
    if _is_array(leaf):
        return np.dtype(jax.dtypes.canonicalize_dtype(leaf.dtype))
    near = [a.dtype for a in arrays if _is_inexact(a.dtype)]
    if isinstance(leaf, float) and near and _is_real(near[0]):
        return np.dtype(jax.dtypes.canonicalize_dtype(near[0]))
    return np.dtype(jax.dtypes.canonicalize_dtype(type(leaf)))


def _hashable(value: Any) -> Any:
    # With its type: 1 equals True, and is another argument.
    return type(value), value.tobytes() if isinstance(value, np.ndarray) else value
