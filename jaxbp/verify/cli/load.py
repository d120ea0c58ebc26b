"""What the command line names: a module, a function in it."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from jaxbp.verify.cli.failure import CannotRunError, reason, where


def load_function(target: str) -> Callable[..., Any]:
    """The function that `MODULE:FUNCTION` names."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise CannotRunError(f"expected MODULE:FUNCTION, got {target!r}")
    value: Any = load_module(module_name)
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise CannotRunError(f"{target}: no {path!r} in {module_name}") from None
        except Exception as error:  # a module may import what it names when it is asked for it
            raise CannotRunError(
                f"{target}: cannot take {path!r} from {module_name}: {reason(error)}"
            ) from None
    if not callable(value):
        raise CannotRunError(f"{target}: expected a function, got {type(value).__name__}")
    return value


def load_module(name: str) -> ModuleType:
    """Import a module, whatever that raises."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise CannotRunError(f"cannot import {name}: {where(error)}{reason(error)}") from None
