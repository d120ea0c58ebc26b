"""Drop-ins for other frameworks, for those who want to see the call that `accelerate` hides.

Each adapter imports its framework when it is used, and not before.
"""

from __future__ import annotations

import importlib
from typing import Any


def require(framework: str, package: str = "") -> Any:
    """Return the framework's module, or say which extra to install."""
    try:
        return importlib.import_module(framework)
    except ModuleNotFoundError as error:
        if error.name not in (framework, framework.partition(".")[0]):
            raise  # it is there, and something that it needs is not
        name = package or framework
        raise ImportError(
            f"{name} is not installed: pip install jaxbp[interop]", name=framework
        ) from None
