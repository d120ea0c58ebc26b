"""One line of a table of checks: a function and what to call it with."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A function that `jaxbp verify` checks when no other is named.

    A module lists its cases as `CASES`; `jaxbp verify --cases package.module` checks them all.

    Example:
        >>> import jax.numpy as jnp
        >>> CASES = [Case("dot", jnp.dot, ("f32[3,4]", "f32[4]"))]
    """

    name: str
    """What the table calls it."""
    function: Callable[..., Any]
    args: tuple[Any, ...]
    """Arrays, or specs as `jaxbp.verify.cli.spec` reads them."""
    kwargs: Mapping[str, Any] = MappingProxyType({})
    """Static arguments."""
    reference: Callable[..., Any] | None = None
    """What to compare with; None: the plain function inside the rule."""
