"""Equinox: its convolutions and poolings by the rules, module by module, under the same vmap.

`Conv`, `Conv1d` to `ConvTranspose3d`, `MaxPool1d` to `AvgPool3d` are subclasses of Equinox's own,
with the same arguments, parameters and results. Equinox is imported when the first is asked for.

JAX batches a rule under `jax.vmap`, which costs more than `jaxbp.accelerate` of the loss that holds
the vmap; see the docstring of `jaxbp.conv`.
"""

from __future__ import annotations

import functools
from typing import Any

from jaxbp.accelerate import accelerate
from jaxbp.interop import require

_KINDS = ("Conv", "ConvTranspose", "MaxPool", "AvgPool")
_NAMES = ("Conv", "ConvTranspose", *(f"{kind}{axes}d" for kind in _KINDS for axes in (1, 2, 3)))


def __getattr__(name: str) -> Any:
    """Make the module's classes when they are asked for."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _subclass(name)


def MaxPool(num_spatial_dims: int, *args: Any, **kwargs: Any) -> Any:
    """Return the max-pool module with so many spatial axes, as `Conv` does for convolutions."""
    return _subclass(f"MaxPool{num_spatial_dims}d")(*args, **kwargs)


def AvgPool(num_spatial_dims: int, *args: Any, **kwargs: Any) -> Any:
    """Return the average-pool module with so many spatial axes, as `Conv` does for convolutions."""
    return _subclass(f"AvgPool{num_spatial_dims}d")(*args, **kwargs)


@functools.cache
def _subclass(name: str) -> type:
    base: Any = getattr(require("equinox").nn, name)
    # Who asks for every `Conv` of this module means its `Conv2d` too, as Equinox has it.
    above = (_subclass(c.__name__) for c in base.__mro__[1:] if c.__name__ in _NAMES)

    class Accelerated(base, *above):  # type: ignore[misc]
        __doc__ = f"`equinox.nn.{name}`, differentiated by the rules."

        def __call__(self, x: Any, *, key: Any = None) -> Any:
            def call(module: Any, x: Any) -> Any:
                return base.__call__(module, x, key=key)

            return accelerate(call)(self, x)

    Accelerated.__name__ = Accelerated.__qualname__ = name
    Accelerated.__module__ = __name__
    return Accelerated
