"""One case drawn, checked and written down, whichever way it was asked for."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbp.verify.case import Case
from jaxbp.verify.check import check_vjp
from jaxbp.verify.cli import spec
from jaxbp.verify.cli.failure import CannotRunError, reason
from jaxbp.verify.cli.files import write_whole
from jaxbp.verify.report import Report


def draw(tree: Any, seed: int) -> Any:
    """Draw the arrays; NumPy or JAX raises where one is too large, of too many axes, too wide."""
    if spec.needs_x64(tree):
        jax.config.update("jax_enable_x64", True)
    return spec.draw(tree, np.random.default_rng(seed))


def check_case(
    case: Case, args: tuple[Any, ...], seed: int, checks: Collection[str] | None
) -> Report:
    """Check one case, whose name the report has."""
    function, kwargs = case.function, case.kwargs
    try:
        jax.eval_shape(lambda: function(*args, **kwargs))
    except Exception as error:
        raise CannotRunError(
            f"{case.name} refuses {_shapes(args, kwargs)}: {reason(error)}"
        ) from None
    try:
        report = check_vjp(
            function, *args, reference=case.reference, kwargs=kwargs, seed=seed, checks=checks
        )
    except Exception as error:
        raise CannotRunError(
            f"{case.name} cannot be checked on {_shapes(args, kwargs)}: {reason(error)}"
        ) from None
    return dataclasses.replace(report, function=case.name)


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    def short(leaf: Any) -> str:
        return leaf.aval.str_short(short_dtypes=True) if isinstance(leaf, jax.Array) else repr(leaf)

    def tree(value: Any) -> str:
        return str(jax.tree.map(lambda leaf: _Bare(short(leaf)), value))

    named = [f"{name}={tree(value)}" for name, value in kwargs.items()]
    return ", ".join([*map(tree, args), *named])


class _Bare(str):
    """A text that prints without quotation marks inside a tuple or a dict."""

    __repr__ = str.__str__


def write_json(path: Path, content: Any) -> None:
    """Write what `--json` asks for."""
    try:
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise CannotRunError(f"--json: cannot write {path}: {error.strerror}") from None
