"""The convolutions' table: plain JAX, `accelerate` of the same call, and PyTorch, turn by turn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
from command import BadInput
from jax import lax
from peers.calls import CALLS, PHASES, Call
from peers.torch_process import LAYOUTS, Torch
from timing import measure, milliseconds, numbers, rates

import jaxbp
from jaxbp.lowering import choice

# The axes in lax's letters, by the number of spatial axes.
_SPATIAL = {1: "X", 2: "YX", 3: "ZYX"}
# Where plain JAX is faster than this, it is timed against itself too: the noise of the run.
TWICE = 30  # milliseconds


class Compiled(NamedTuple):
    """A compiled call with its arguments."""

    call: Callable[[], Any]
    compile_seconds: float
    temporary_bytes: int


class Measured(NamedTuple):
    """What was measured of one call in one phase."""

    call: str
    kind: str
    phase: str
    strategies: dict[str, str]  # by operation, those that accelerate chose
    ms: float  # accelerate's
    plain: dict[str, Any] | None  # against plain JAX; in each: peer, ms, ratio, low, high
    torch: dict[str, Any] | None
    noise: dict[str, Any] | None  # plain JAX against itself
    float32: dict[str, Any] | None  # half precision against accelerate in float32
    compile_seconds: dict[str, float]
    temporary_bytes: dict[str, int]
    operations: float
    bytes: float
    rounds: dict[str, list[float]]


class Run(NamedTuple):
    """What a run was of, and the machine's rates in it."""

    about: str
    gemm_flops: float
    copy_bytes: float


def chosen(patterns: Sequence[str] | None) -> list[Call]:
    """Return the calls whose names hold one of the patterns, or all."""
    if patterns is None:
        return list(CALLS)
    for pattern in patterns:
        if not any(pattern in str(call) for call in CALLS):
            raise BadInput(
                f"--only-convolutions: no call's name has {pattern!r} in it; "
                f"names are like {str(CALLS[0])!r}"
            )
    return [call for call in CALLS if any(pattern in str(call) for pattern in patterns)]


def function(call: Call) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return lax's convolution of (x, w) that the call describes."""
    s = _SPATIAL[len(call.spatial)]
    letters = (f"N{s}C", f"{s}IO", f"N{s}C")
    if call.layout == "channels-first":
        letters = (f"NC{s}", f"OI{s}", f"NC{s}")
    padding, rank = call.pads, len(call.spatial)
    if call.transposed:  # as lax.conv_transpose asks for it
        padding = tuple(
            call.dilation * (k - 1) - p for k, p in zip(call.kernel, call.pads, strict=True)
        )
    return partial(
        lax.conv_general_dilated,
        window_strides=(1,) * rank if call.transposed else call.strides,
        padding=[(p, p) for p in padding],
        lhs_dilation=call.strides if call.transposed else (1,) * rank,
        rhs_dilation=call.dilations,
        dimension_numbers=letters,
        feature_group_count=call.groups,
    )


def arguments(call: Call, phase: str) -> tuple[jax.Array, ...]:
    """Return x and w, and for gradients dy."""

    def array(channels: int, spatial: tuple[int, ...], *batch: int) -> jax.Array:
        first = call.layout == "channels-first"
        shape = (*batch, channels, *spatial) if first else (*batch, *spatial, channels)
        return numbers(shape).astype(call.dtype)

    x = array(call.channels, call.spatial, call.batch)
    if call.layout == "channels-first":
        w = numbers((call.features, call.fan, *call.kernel))
    else:
        w = numbers((*call.kernel, call.fan, call.features))
    w = w.astype(call.dtype)
    dy = array(call.features, call.output, call.batch)
    return (x, w) if phase == "forward" else (x, w, dy)


def with_gradients(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of x, w, dy that gives y, dx and dw."""

    def value_and_gradients(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
        y, pullback = jax.vjp(f, x, w)
        return y, *pullback(dy)

    return value_and_gradients


def compiled(
    call: Call,
    phase: str,
    options: dict[str, str | bool],
    rewrite: Callable[[Any], Any] = lambda f: f,
) -> Compiled:
    """Compile one call, from nothing: what was traced before is forgotten."""
    f = rewrite(function(call))
    args = arguments(call, phase)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(f if phase == "forward" else with_gradients(f)).lower(*args)
    program = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = 0 if memory is None else memory.temp_size_in_bytes
    return Compiled(partial(program, *args), seconds, temporary)


@contextmanager
def strategies() -> Iterator[dict[str, str]]:
    """Collect which strategy is chosen for each operation that is traced inside."""
    taken: dict[str, str] = {}
    choose = choice.choose

    def noted(operation: str, *case: Any) -> Any:
        row, forced = choose(operation, *case)
        taken[operation] = row.name
        return row, forced

    with mock.patch.object(choice, "choose", noted):
        yield taken


class Options(NamedTuple):
    """How calls are measured."""

    torch: Torch | None
    rounds: int
    compiler: dict[str, str | bool]  # XLA's options, for accelerate and plain JAX alike
    plain: bool = True  # whether plain JAX takes part


def measure_call(call: Call, phase: str, options: Options) -> Measured:
    """Compile and time one call in one phase."""
    with strategies() as taken:
        programs = {"jaxbp": compiled(call, phase, options.compiler, jaxbp.accelerate)}
    calls = {"jaxbp": programs["jaxbp"].call}
    if options.plain:
        programs["plain"] = compiled(call, phase, options.compiler)
        calls["plain"] = programs["plain"].call
        if milliseconds(calls["plain"]) < TWICE:
            calls["again"] = calls["plain"]
    if call.dtype != "float32":
        single = call._replace(dtype="float32")
        calls["single"] = compiled(single, phase, options.compiler, jaxbp.accelerate).call
    # PyTorch has no channels-last layout of one spatial axis.
    layouts = LAYOUTS[:1] if len(call.spatial) == 1 else LAYOUTS
    timing = measure(calls, options.torch, ("call", phase, call), options.rounds, layouts)
    return Measured(
        str(call),
        call.kind,
        phase,
        taken,
        timing.median("jaxbp"),
        timing.against("plain"),
        timing.against("torch"),
        timing.against("again", "plain"),
        timing.against("single"),
        {name: program.compile_seconds for name, program in programs.items()},
        {name: program.temporary_bytes for name, program in programs.items()},
        call.operations(phase),
        call.bytes(phase),
        timing.rounds,
    )


def measured(calls: Sequence[Call], options: Options) -> Iterator[Measured]:
    """Measure the calls forward, then with gradients."""
    for phase in PHASES:
        for call in calls:
            yield measure_call(call, phase, options)


def start(options: Options) -> Run:
    """Measure the machine's rates, before the calls."""
    peer = options.torch.version if options.torch else "left out"
    return Run(f"jax {jax.__version__}, PyTorch {peer}, {options.rounds} rounds", *rates())


def as_json(run: Run, ones: Iterable[Measured]) -> dict[str, Any]:
    """Return a run as what JSON can hold."""
    return run._asdict() | {"calls": [m._asdict() for m in ones]}


def read(paths: Sequence[Path]) -> tuple[Run, list[Measured]]:
    """Return as one run what several wrote with --json: their best rates, each call's last one."""
    runs: list[Run] = []
    ones: dict[tuple[str, str], Measured] = {}
    for path in paths:
        try:
            found = json.loads(path.read_text())["convolutions"]
            runs.append(Run(*(found[field] for field in Run._fields)))
            ones |= {(m["phase"], m["call"]): Measured(**m) for m in found["calls"]}
        except OSError as error:
            raise BadInput(f"cannot read --measured {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"--measured {path} must be what --convolutions --json wrote, but it is not"
            ) from None
    about = "; ".join(dict.fromkeys(run.about for run in runs))
    best = Run(about, max(r.gemm_flops for r in runs), max(r.copy_bytes for r in runs))
    names = [str(call) for call in CALLS]
    order = [(phase, name) for phase in PHASES for name in names]
    return best, [ones[key] for key in order if key in ones]
