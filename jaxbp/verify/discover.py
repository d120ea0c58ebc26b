"""Find every `jax.custom_vjp` of a package."""

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax


class Rule(NamedTuple):
    """A `custom_vjp` that was found."""

    target: str
    """`module:name`, as `jaxbp verify` takes it; the name may lead through classes."""
    source: str
    """`file:line` of the primal; empty where Python does not know."""
    complete: bool
    """Whether `defvjp` has been called."""


class Failure(NamedTuple):
    """A module that could not be imported."""

    module: str
    reason: str


def discover(package: str) -> tuple[list[Rule], list[Failure]]:
    """Import a package with all its submodules and list the rules in it.

    A rule is listed once, at its own name where it has one; what is only imported from elsewhere
    is not listed. Attributes of classes count, and what `jit`, `partial`, `staticmethod` and other
    wrappers hide. A rule made inside a function has no name to be found by.

    Args:
        package: the dotted name of a package or module.

    Returns:
        The rules, in the order in which they are met, and the submodules that could not be
        imported.

    Raises:
        Exception: whatever importing the package itself raises.

    Example:
        >>> rules, failures = discover("jaxbp.verify")
        >>> rules, failures
        ([], [])
    """
    failures: list[Failure] = []
    found: dict[int, tuple[Any, str]] = {}
    for module in _modules(package, failures):
        for name, rule in _rules(module):
            target = _home(rule) or f"{module.__name__}:{name}"
            if target.startswith((f"{package}:", f"{package}.")):
                found.setdefault(id(rule), (rule, target))
    rules = [Rule(target, _source(rule), _is_complete(rule)) for rule, target in found.values()]
    return rules, failures


def _modules(package: str, failures: list[Failure]) -> Iterator[ModuleType]:
    module = importlib.import_module(package)
    yield module
    for entry in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if entry.name == "__main__":  # to import it is to run it
            continue
        name = f"{package}.{entry.name}"
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            failures.append(Failure(name, reason(error)))
        else:
            yield from _modules(name, failures)


def reason(error: BaseException) -> str:
    """Give an exception as one line.

    Example:
        >>> reason(ValueError("no\\nmore"))
        'ValueError: no more'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _rules(module: ModuleType) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()

    def search(owner: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in list(vars(owner).items()):
            if inspect.isclass(value):
                if value.__module__ == module.__name__ and id(value) not in seen:
                    seen.add(id(value))
                    yield from search(value, f"{prefix}{name}.")
            elif (rule := _unwrap(value)) is not None:
                yield prefix + name, rule

    yield from search(module, "")


def _unwrap(value: Any) -> Any:
    """Give the rule that a value is, or wraps, or None."""
    for _ in range(16):  # more wrappers than anybody writes, and a circle ends
        if isinstance(value, jax.custom_vjp) or hasattr(type(value), "defvjp"):
            return value
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, functools.partial | functools.partialmethod):
            value = value.func
        else:
            value = inspect.getattr_static(value, "__wrapped__", None)
        if value is None:
            return None
    return None


def _home(rule: Any) -> str | None:
    """Give `module:name` where the rule's own name leads to it."""
    module, path = getattr(rule, "__module__", ""), getattr(rule, "__qualname__", "")
    value: Any = sys.modules.get(module)
    for name in path.split("."):
        value = getattr(value, name, None)
    return f"{module}:{path}" if _unwrap(value) is rule else None


def _source(rule: Any) -> str:
    plain = inspect.unwrap(rule)
    while isinstance(plain, functools.partial):
        plain = plain.func
    code = getattr(plain, "__code__", None)
    if code is None:
        return ""
    path = Path(code.co_filename)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{code.co_firstlineno}"


def _is_complete(rule: Any) -> bool:
    return getattr(rule, "fwd", None) is not None and getattr(rule, "bwd", None) is not None
