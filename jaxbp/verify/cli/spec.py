"""Arrays described in a few letters, as a jaxpr prints them: `f32[2,5,5,3]`.

    spec    = array | tuple | list | dict | "key" | "None" | a Python number
    array   = dtype "[" [size {"," size}] "]" {bound}
    bound   = (">" | ">=" | "<" | "<=") number
    tuple   = "(" spec {"," spec} ")"
    list    = "[" spec {"," spec} "]"
    dict    = "{" name ":" spec {"," name ":" spec} "}"
    dtype   = "f64" | "f32" | "bf16" | "f16" | "i32" | "u8" | "bool" | "c64" | ...

A bound keeps the values on its side: `i32[8]<10` are labels of ten classes, `f32[4]>0` is positive,
`f32[4]>=-1<1` is uniform in between. Integers without a bound are 0 or 1. Numbers are finite, and
the names of a dict differ.
"""

import dataclasses
import math
import re
import sys
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
    "c128": "complex128", "c64": "complex64", "bool": "bool",
}  # fmt: skip

NESTED = 100
"""So many brackets may stand inside one another: far from where Python's own stack ends."""

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?))"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>[<>]=?|[\[\](){},:])"
    r")"
)


class SpecError(ValueError):
    """A spec that cannot be read; the message names the place."""


@dataclasses.dataclass(frozen=True)
class Array:
    """An array to draw: its dtype, its shape, and what its values keep to."""

    dtype: str
    """NumPy's name."""
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    closed: tuple[bool, bool] = (True, False)
    """Whether `low` and `high` themselves are allowed."""

    def draw(self, rng: np.random.Generator) -> jax.Array | np.ndarray:
        """Draw the array: normal values, or values between the bounds."""
        dtype = jnp.dtype(self.dtype)
        if dtype.kind == "b":
            values = rng.integers(0, 2, self.shape)
        elif dtype.kind in "iu":
            values = rng.integers(*self._integer_range(), size=self.shape, dtype=dtype)
        elif dtype.kind == "c":
            values = rng.standard_normal(self.shape) + 1j * rng.standard_normal(self.shape)
        else:
            values = self._draw_real(rng)
        return jnp.asarray(np.asarray(values).astype(dtype))

    def bounded(self, relation: str, bound: float) -> "Array":
        """Give the array with one bound more, `relation` being `<`, `<=`, `>` or `>=`."""
        low_closed, high_closed = self.closed
        if relation.startswith("<"):
            return dataclasses.replace(self, high=bound, closed=(low_closed, relation == "<="))
        return dataclasses.replace(self, low=bound, closed=(relation == ">=", high_closed))

    def holds(self, bound: float) -> bool:
        """Say whether the dtype reaches as far as the bound; what lies beyond is drawn infinite."""
        dtype = jnp.dtype(self.dtype)
        return dtype.kind in "iu" or abs(bound) <= float(jnp.finfo(dtype).max)

    def has_values(self) -> bool:
        """Say whether the dtype has a value between the bounds."""
        if jnp.dtype(self.dtype).kind in "iu":
            first, stop = self._integer_range()
            limits = jnp.iinfo(self.dtype)
            return limits.min <= first < stop <= limits.max + 1
        return self.low is None or self.high is None or self.low < self.high

    def _integer_range(self) -> tuple[int, int]:
        """Give the half-open range; two values wide where one side is free."""
        low, high = self.low, self.high
        first = None if low is None else math.ceil(low) if self.closed[0] else math.floor(low) + 1
        stop = None if high is None else math.floor(high) + 1 if self.closed[1] else math.ceil(high)
        if first is None:
            first = 0 if stop is None or stop > 0 else stop - 2
        return first, first + 2 if stop is None else stop

    def _draw_real(self, rng: np.random.Generator) -> np.ndarray:
        if self.low is not None and self.high is not None:
            return rng.uniform(self.low, self.high, self.shape)
        values = rng.standard_normal(self.shape)
        if self.low is not None:
            return self.low + np.abs(values)
        if self.high is not None:
            return self.high - np.abs(values)
        return values


@dataclasses.dataclass(frozen=True)
class Key:
    """A random key to draw."""

    def draw(self, rng: np.random.Generator) -> jax.Array:
        """Draw the key."""
        return jax.random.key(int(rng.integers(2**31)))


def parse(text: str) -> Any:
    """Read a spec into a pytree of `Array`, `Key` and plain numbers.

    Args:
        text: the spec.

    Returns:
        One `Array` or `Key`, a Python number, None, or a tuple, list or dict of such.

    Raises:
        SpecError: the text does not follow the grammar; the message names the position, from 1.

    Example:
        >>> parse("i32[8]<10").shape
        (8,)
        >>> parse("f32[2,,3]")
        Traceback (most recent call last):
        ...
        jaxbp.verify.cli.spec.SpecError: 'f32[2,,3]', position 7: expected a size, got ','
    """
    return _Parser(text).parse()


def draw(spec: Any, rng: np.random.Generator) -> Any:
    """Draw the arrays that a parsed spec describes.

    Args:
        spec: what `parse` returned.
        rng: where the values come from.

    Returns:
        The same tree with an array in the place of every `Array` and a key in that of every `Key`.

    Example:
        >>> draw(parse("(f32[2,3], i32[])"), np.random.default_rng(0))[0].shape
        (2, 3)
    """
    return jax.tree.map(
        lambda leaf: leaf.draw(rng) if isinstance(leaf, (Array, Key)) else leaf, spec
    )


def needs_x64(spec: Any) -> bool:
    """Say whether an array of the spec is 64 bits wide a number.

    Example:
        >>> needs_x64(parse("{w: f64[3], b: f32[]}"))
        True
    """
    return any(
        isinstance(leaf, Array) and leaf.dtype in ("float64", "int64", "uint64", "complex128")
        for leaf in jax.tree.leaves(spec)
    )


class _Parser:
    """One pass over the text, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.depth = 0
        self._advance()

    def parse(self) -> Any:
        spec = self._spec()
        if self.kind != "end":
            self._fail("the end")
        return spec

    def _advance(self) -> str:
        """Step to the next token and give the one left behind."""
        left = getattr(self, "token", "")
        rest = self.text[self.end :]
        match = _TOKEN.match(self.text, self.end)
        if match:
            self.kind = match.lastgroup or ""
            self.token = match[self.kind]
            self.start, self.end = match.span(self.kind)
        else:
            self.start = self.end + len(rest) - len(rest.lstrip())
            self.token = self.text[self.start : self.start + 1]
            self.kind = "stray" if self.token else "end"
        return left

    def _fail(self, expected: str) -> NoReturn:
        got = repr(self.token) if self.token else "the end"
        raise SpecError(f"{self.text!r}, position {self.start + 1}: expected {expected}, got {got}")

    def _take(self, token: str, expected: str | None = None) -> None:
        if self.token != token:
            self._fail(expected or repr(token))
        self._advance()

    def _spec(self) -> Any:
        if self.kind == "number":
            number = self._number()
            self._advance()
            return number
        if self.token == "(":
            return tuple(self._several("(", ")", self._spec))
        if self.token == "[":
            return list(self._several("[", "]", self._spec))
        if self.token == "{":
            return self._dict()
        if self.kind == "word":
            return self._named()
        self._fail("a dtype such as f32, a tuple, a list, a dict, 'key', 'None' or a number")

    def _named(self) -> Any:
        if self.token == "None":
            self._advance()
            return None
        if self.token == "key":
            self._advance()
            return Key()
        return self._array()

    def _number(self) -> int | float:
        """Read the token, which stays the one ahead: a bound may yet be refused at its place."""
        try:
            number = float(self.token) if set(self.token) & set(".eE") else int(self.token)
            finite = math.isfinite(number)
        except (OverflowError, ValueError):  # more digits than a float, or than Python itself reads
            finite = False
        if not finite:
            self._fail("a finite number")
        return number

    def _dict(self) -> dict[str, Any]:
        entries: dict[str, Any] = {}

        def entry() -> None:
            if self.kind != "word":
                self._fail("a name")
            if self.token in entries:
                self._fail("a name that does not stand there already")
            name = self._advance()
            self._take(":")
            entries[name] = self._spec()

        self._several("{", "}", entry)
        return entries

    def _several(self, opening: str, closing: str, one: Any) -> list[Any]:
        if self.depth == NESTED:
            self._fail(f"at most {NESTED} brackets inside one another")
        self.depth += 1
        self._take(opening)
        entries = []
        while self.token != closing:
            entries.append(one())
            if self.token != closing:
                self._take(",", f"',' or {closing!r}")
        self._advance()
        self.depth -= 1
        return entries

    def _array(self) -> Array:
        dtype = DTYPES.get(self.token, self.token)
        if dtype not in DTYPES.values():
            self._fail(f"a dtype ({', '.join(DTYPES)})")
        self._advance()
        shape = self._shape()
        return self._bounded(Array(dtype, shape))

    def _shape(self) -> tuple[int, ...]:
        self._take("[", "'[' and a shape")
        sizes: list[int] = []
        while self.token != "]" or sizes:
            if not self.token.isdecimal():
                self._fail("a size" if sizes else "a size or ']'")
            # First the digits: Python reads no more than 4300 of them.
            if len(self.token) > len(str(sys.maxsize)) or int(self.token) > sys.maxsize:
                self._fail("a size that an array can have")
            sizes.append(int(self._advance()))
            if self.token == "]":
                break
            self._take(",", "',' or ']'")
        self._advance()
        return tuple(sizes)

    def _bounded(self, array: Array) -> Array:
        kind = jnp.dtype(array.dtype).kind
        while self.token[:1] in ("<", ">") and self.token:
            if kind in "bc":
                self._fail(f"no bound on a {array.dtype} array")
            relation = self._advance()
            if self.kind != "number":
                self._fail(f"a number after {relation!r}")
            bound = self._number() if kind in "iu" else float(self._number())
            if not array.holds(bound):
                self._fail(f"a bound that a {array.dtype} can be")
            array = array.bounded(relation, bound)
            if not array.has_values():
                self._fail(f"a bound that leaves {array.dtype} a value")
            self._advance()
        return array
