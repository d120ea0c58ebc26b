"""Find every `jax.custom_vjp` of a package."""

import ast
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import jax

from jaxbp.verify.cli.failure import reason


class Rule(NamedTuple):
    """A `custom_vjp` that was found."""

    target: str
    """`module:name`, as `jaxbp verify` takes it; the name may lead through classes."""
    file: str
    """Where the primal stands, from the current directory on; empty where Python does not know."""
    line: int
    remark: str = ""
    """What stands in the way of checking it: no `defvjp`, or no name to call it by."""


class Failure(NamedTuple):
    """A module that could not be imported."""

    module: str
    reason: str


def discover(package: str) -> tuple[list[Rule], list[Failure]]:
    """Import a package with all its submodules and list the rules in it.

    A rule is listed once, at its own name where it has one; what is only imported from elsewhere
    is not listed. Attributes of classes count, and what `jit`, `partial`, `staticmethod` and other
    wrappers hide. A rule made inside a function is read from the source.

    Args:
        package: the dotted name of a package or module.

    Returns:
        The rules, in the order of their files and lines, and the submodules that could not be
        imported.

    Raises:
        Exception: whatever importing the package itself raises.

    Example:
        >>> rules, failures = discover("jaxbp.verify.cli.spec")
        >>> rules, failures
        ([], [])
    """
    failures: list[Failure] = []
    found: dict[int, tuple[Any, str]] = {}
    nameless: list[Rule] = []
    for module in _modules(package, failures):
        nameless += _made_in_functions(module)
        for name, rule in _rules(module):
            target = _home(rule) or f"{module.__name__}:{name}"
            if target.startswith((f"{package}:", f"{package}.")):
                found.setdefault(id(rule), (rule, target))
    named = [Rule(target, *_source(rule), _remark(rule)) for rule, target in found.values()]
    return sorted(named + nameless, key=lambda rule: (rule.file, rule.line)), failures


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


def _source(rule: Any) -> tuple[str, int]:
    plain = inspect.unwrap(rule)
    while isinstance(plain, functools.partial):
        plain = plain.func
    code = getattr(plain, "__code__", None)
    return ("", 0) if code is None else (_from_here(code.co_filename), code.co_firstlineno)


def _from_here(file: str) -> str:
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _remark(rule: Any) -> str:
    whole = getattr(rule, "fwd", None) is not None and getattr(rule, "bwd", None) is not None
    return "" if whole else "no defvjp yet"


def _made_in_functions(module: ModuleType) -> Iterator[Rule]:
    """Find where functions of a module make rules, which only a call brings into being."""
    try:
        source, file = inspect.getsource(module), inspect.getsourcefile(module) or ""
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):  # no source: a compiled or an empty module
        return

    def search(node: ast.AST, path: str, in_function: bool) -> Iterator[Rule]:
        if in_function and _makes_rule(node):
            name = f"{module.__name__}:{path.removesuffix('.')}"
            yield Rule(name, _from_here(file), node.lineno, "made inside a function")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                made = ast.copy_location(ast.Call(decorator, [], []), decorator)
                yield from search(made, f"{path}{node.name}", in_function)
            for statement in node.body:
                yield from search(statement, f"{path}{node.name}.<locals>.", True)
        else:
            inner = f"{path}{node.name}." if isinstance(node, ast.ClassDef) else path
            for child in ast.iter_child_nodes(node):
                yield from search(child, inner, in_function)

    yield from search(tree, "", False)


def _makes_rule(node: ast.AST) -> TypeGuard[ast.Call]:
    """Say whether it is `custom_vjp(...)` or `partial(custom_vjp, ...)`."""
    if not isinstance(node, ast.Call):
        return False
    if _last_name(node.func) == "partial" and node.args:
        return _last_name(node.args[0]) == "custom_vjp"
    return _last_name(node.func) == "custom_vjp"


def _last_name(node: ast.AST) -> str:
    return getattr(node, "id", "") or getattr(node, "attr", "")
