"""Tell what `accelerate` does to a function: operation by operation, with the user's own lines."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from jaxbp.accelerate import check_callable, enters, is_own_rule
from jaxbp.jaxprs import jaxprs_in, opened, trace
from jaxbp.lowering.choice import TABLE, Row, choose
from jaxbp.recognise import Sum, find

# Whose lines are not the user's.
_FRAMEWORKS = ("jax", "jaxlib", "jaxbp", "flax", "equinox", "haiku", "contextlib", "functools")


class Strategy(NamedTuple):
    """How one of a convolution's sums is taken on a CPU; on other platforms each is XLA's own."""

    sum: str  # "forward", "input gradient" or "kernel gradient"
    name: str  # as `lowering.use` takes it
    why: str  # what it does that suits this sum, or that it is forced by name
    not_faster: tuple[str, ...]  # what could take this sum too, and was found no faster


class Entry(NamedTuple):
    """One operation, or several that one rule stands for."""

    what: str  # the operation in words
    rule: str  # the public name of the rule that replaces it, "slices" for patches, or empty
    reason: str  # why it is left alone, or empty
    source: str  # "file:line" in the user's code
    module: str  # the module it belongs to, as the framework names it, or empty
    inside: str  # the control flow that it stands in, "scan" or "jit step / cond", or empty
    sums: tuple[Strategy, ...] = ()  # those of a convolution that a rule replaces


class Explanation(NamedTuple):
    """What `accelerate` would do to a function for some arguments; `str` of it is a table."""

    entries: tuple[Entry, ...]

    @property
    def replaced(self) -> tuple[Entry, ...]:
        """The operations that a rule replaces."""
        return tuple(e for e in self.entries if e.rule)

    @property
    def left_alone(self) -> tuple[Entry, ...]:
        """The operations of these kinds that stay as they are, each with its reason."""
        return tuple(e for e in self.entries if not e.rule)

    def __str__(self) -> str:
        if not self.entries:
            return "nothing to replace: no convolution and no pooling"
        lines = []
        sums = [s for e in self.replaced for s in e.sums]
        if sums:
            cells = [(e.what, e.rule, _names(e.sums), _where(e)) for e in self.replaced]
            lines += _table(("replaced", "by", "sums on a CPU", "from"), cells)
        elif self.replaced:
            rows = [(e.what, e.rule, _where(e)) for e in self.replaced]
            lines += _table(("replaced", "by", "from"), rows)
        if self.left_alone:
            rows = [(e.what, e.reason, _where(e)) for e in self.left_alone]
            lines += [""] * bool(lines) + _table(("left alone", "because", "from"), rows)
        if sums:
            lines += ["", *_legend(sums)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{len(self.replaced)} replaced, {len(self.left_alone)} left alone>"


def explain(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Print what `accelerate(fn)` would replace for these arguments by which rule, and why not.

    Every convolution and pooling of the traced function is listed with the line of the user's code
    that it came from, and with the strategy of each of its sums on a CPU: forward, input gradient
    and kernel gradient. Everything else (products, activations, normalisation) is never touched.

    Source: (3.5), (4.1), (4.3), (5.5)

    Args:
      fn: what would be given to `accelerate`.
      *args, **kwargs: what it would be called with; only their shapes and dtypes matter, and a
        `jax.ShapeDtypeStruct` does for an array.

    Returns:
      The `Explanation` that was printed: `.entries`, `.replaced`, `.left_alone`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def model(x):
      ...     window = (1, 2, 2, 1)
      ...     y = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
      ...     return jax.lax.reduce_window(y, jnp.inf, jax.lax.min, window, window, "VALID")
      >>> report = explain(model, jnp.ones((1, 4, 4, 3)))
      replaced                 by        from
      2×2 max-pool, stride 2×2 max_pool  ...:3
      <BLANKLINE>
      left alone               because                from
      reduce_window_min        a minimum has no rule  ...:4
      >>> report
      <1 replaced, 1 left alone>

    See also:
      `accelerate`.
    """
    check_callable("explain", fn)
    leaves, tree = jax.tree.flatten((args, kwargs))
    entries: tuple[Entry, ...] = ()

    def look(arrays: dict[int, jax.Array]) -> None:
        nonlocal entries
        args, kwargs = jax.tree.unflatten(
            tree, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        )
        entries = tuple(_entries(opened(trace(fn, *args, **kwargs).jaxpr), (), "", ""))

    jax.eval_shape(
        look, {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)}
    )
    explanation = Explanation(entries)
    print(explanation)
    return explanation


def _entries(jaxpr: Jaxpr, inside: tuple[str, ...], module: str, around: str) -> Iterator[Entry]:
    """Yield the operations of a jaxpr; what has no line of its own has that of what is around."""
    findings = {finding.equations[-1]: finding for finding in find(jaxpr)}
    for place, equation in enumerate(jaxpr.eqns):
        here = _join(module, str(equation.source_info.name_stack))
        if place in findings:
            finding = findings[place]
            first = jaxpr.eqns[finding.equations[0]]
            yield Entry(
                finding.what,
                finding.rule.name if finding.rule else "",
                finding.reason,
                _source(first) or around,
                _join(module, str(first.source_info.name_stack)),
                " / ".join(inside),
                tuple(map(_strategy, finding.sums(equation))),
            )
        elif is_own_rule(equation):
            yield Entry(
                _name(equation).strip("_"),
                "",
                "it is a rule of jaxbp already",
                _source(equation) or around,
                here,
                " / ".join(inside),
            )
        else:
            line = _source(equation) or around
            for _, inner in jaxprs_in(equation):
                for entry in _entries(opened(inner), (*inside, _name(equation)), here, line):
                    if not enters(equation):
                        why = f"{equation.primitive.name} may be transposed, which a rule cannot be"
                        entry = entry._replace(rule="", reason=why, sums=())
                    yield entry


def _strategy(one: Sum) -> Strategy:
    row, forced = choose(one.operation, *one.case)
    if forced:
        return Strategy(one.name, row.name, "forced by lowering.use", ())
    rows = TABLE[one.operation]
    asked = rows[: rows.index(row)]
    not_faster = tuple(other.name for other in asked if other.can(*one.case))
    return Strategy(one.name, row.name, _purpose(row), not_faster)


def _purpose(row: Row) -> str:
    """What a strategy does: the first line of its file."""
    module = inspect.getmodule(getattr(row.run, "func", row.run))
    return (inspect.getdoc(module) or "").partition("\n")[0].rstrip(".")


def _names(sums: Sequence[Strategy]) -> str:
    """The three sums' strategies, or one name that is all of theirs."""
    names = [s.name for s in sums]
    return " · ".join(names if len(set(names)) > 1 else names[:1])


def _legend(sums: Sequence[Strategy]) -> list[str]:
    """Why each strategy is taken: what it does, and what it was preferred to."""
    others: dict[tuple[str, str], dict[str, None]] = {}
    for one in sums:
        others.setdefault((one.name, one.why), {}).update(dict.fromkeys(one.not_faster))
    rows = [(*taken, ", ".join(rest)) for taken, rest in sorted(others.items())]
    return [
        "sums: forward · input gradient · kernel gradient, or one name for all",
        *_table(("strategy", "why", "no faster there"), rows),
    ]


def _name(equation: JaxprEqn) -> str:
    kind = equation.primitive.name
    for _, inner in jaxprs_in(equation):
        if kind.startswith("custom_"):
            return str(opened(inner).debug_info.func_src_info).split(" at ")[0]
    name = equation.params.get("name")
    return f"{kind} {name}" if isinstance(name, str) else kind


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _where(entry: Entry) -> str:
    inside = f"in {entry.inside}" if entry.inside else ""
    return ", ".join(part for part in (entry.source, entry.module, inside) if part)


def _source(equation: JaxprEqn) -> str:
    """Return "file:line" of the innermost frame that is the user's."""
    traceback = equation.source_info.traceback
    frames: Iterable[Any] = () if traceback is None else traceback.frames
    for frame in frames:
        if not frame.file_name.startswith(_foreign()):
            return f"{_short(frame.file_name)}:{frame.line_num}"
    return ""


@functools.cache
def _foreign() -> tuple[str, ...]:
    places = []
    for name in _FRAMEWORKS:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        # A package's folder, but a lone module's file.
        folders = spec.submodule_search_locations
        places += [os.path.join(f, "") for f in folders] if folders else [spec.origin]
    return (*places, "<frozen")


def _short(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
