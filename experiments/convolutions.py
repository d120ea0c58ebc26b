"""The convolutions' table: plain JAX, `accelerate` of the same call, and PyTorch, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import command
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
TWICE = 100  # milliseconds
LEAST = {"plain": 0.95, "torch": 0.6}
PEERS = {"plain": "plain JAX", "torch": "PyTorch"}


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
    plain: dict[str, Any]  # against plain JAX; in each of these: peer, ms, ratio, low, high
    torch: dict[str, Any] | None
    noise: dict[str, Any] | None  # plain JAX against itself
    float32: dict[str, Any] | None  # half precision against accelerate in float32
    compile_seconds: dict[str, float]
    temporary_bytes: dict[str, int]
    operations: float
    bytes: float
    rounds: dict[str, list[float]]


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


def compiled(call: Call, phase: str, rewrite: Callable[[Any], Any] = lambda f: f) -> Compiled:
    """Compile one call, from nothing: what was traced before is forgotten."""
    f = rewrite(function(call))
    args = arguments(call, phase)
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(f if phase == "forward" else with_gradients(f)).lower(*args).compile()
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


def measure_call(call: Call, phase: str, torch: Torch | None, rounds: int) -> Measured:
    """Compile and time one call in one phase."""
    with strategies() as taken:
        fast = compiled(call, phase, jaxbp.accelerate)
    programs = {"jaxbp": fast, "plain": compiled(call, phase)}
    calls = {name: program.call for name, program in programs.items()}
    if milliseconds(calls["plain"]) < TWICE:
        calls["again"] = calls["plain"]
    if call.dtype != "float32":
        single = compiled(call._replace(dtype="float32"), phase, jaxbp.accelerate)
        calls["single"] = single.call
    # PyTorch has no channels-last layout of one spatial axis.
    layouts = LAYOUTS[:1] if len(call.spatial) == 1 else LAYOUTS
    timing = measure(calls, torch, ("call", phase, call), rounds, layouts)
    plain = timing.against("plain")
    assert plain is not None
    return Measured(
        str(call),
        call.kind,
        phase,
        taken,
        timing.median("jaxbp"),
        plain,
        timing.against("torch"),
        timing.against("again", "plain"),
        timing.against("single"),
        {name: program.compile_seconds for name, program in programs.items()},
        {name: program.temporary_bytes for name, program in programs.items()},
        call.operations(phase),
        call.bytes(phase),
        timing.rounds,
    )


class Column(NamedTuple):
    """A column of a Markdown table: its head, its width, and whether it holds numbers."""

    head: str
    width: int
    right: bool = True


def row(columns: Iterable[Column], cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    padded = [
        cell.rjust(c.width) if c.right else cell.ljust(c.width)
        for c, cell in zip(columns, cells, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def head(columns: Sequence[Column]) -> str:
    """The first two lines of a Markdown table."""
    lines = ["-" * (c.width - 1) + (":" if c.right else "-") for c in columns]
    return row(columns, [c.head for c in columns]) + "\n" + row(columns, lines)


TABLE = (
    Column("call", 51, False),
    Column("plain ms", 11),
    Column("accelerate", 11),
    Column("PyTorch", 11),
    Column("× plain", 20),
    Column("× PyTorch", 20),
    Column("compile s", 11),
    Column("temp. MB", 11),
    Column("strategies", 40, False),
)
BOUNDS = (
    Column("call", 51, False),
    Column("phase", 9, False),
    Column("× PyTorch", 9),
    Column("GFLOP", 7),
    Column("MB", 6),
    Column("products ms", 11),
    Column("bytes ms", 8),
    Column("bound by", 8, False),
    Column("accelerate", 10),
    Column("PyTorch", 7),
)
MEANS = (
    Column("phase", 9, False),
    Column("kind", 11, False),
    Column("calls", 5),
    Column("× plain", 8),
    Column("least", 6),
    Column("× PyTorch", 9),
    Column("least", 6),
)


def line(m: Measured) -> str:
    """One call's line of the table."""
    short = {"conv": "y", "conv_input_grad": "dx", "conv_kernel_grad": "dw"}
    return row(
        TABLE,
        (
            m.call,
            _ms(m, "plain"),
            _ms(m, "jaxbp"),
            _ms(m, m.torch["peer"]) if m.torch else "-",
            _ratio(m.plain),
            _ratio(m.torch) if m.torch else "-",
            " / ".join(f"{m.compile_seconds[who]:.2f}" for who in ("plain", "jaxbp")),
            " / ".join(f"{m.temporary_bytes[who] / 1e6:.1f}" for who in ("plain", "jaxbp")),
            ", ".join(f"{short.get(o, o)} {name}" for o, name in m.strategies.items()),
        ),
    )


def _ms(m: Measured, who: str) -> str:
    rounds, most = len(m.rounds[who]), max(map(len, m.rounds.values()))
    ms = f"{statistics.median(m.rounds[who]):.2f}"
    return ms if rounds == most else f"({rounds}) {ms}"


def _ratio(against: dict[str, Any]) -> str:
    low, ratio, high = (_times(against[key]) for key in ("low", "ratio", "high"))
    return f"{ratio} [{low}, {high}]"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def summary(measured: Sequence[Measured]) -> str:
    """The geometric means and least ratios, overall and by kind."""
    lines = [head(MEANS)]
    kinds = dict.fromkeys(m.kind for m in measured)
    for phase in PHASES:
        of_phase = [m for m in measured if m.phase == phase]
        single = [m for m in of_phase if m.float32 is None]
        groups = {"all float32": single} if single else {}
        groups |= {kind: [m for m in of_phase if m.kind == kind] for kind in kinds}
        for kind, ones in groups.items():
            lines.append(row(MEANS, (phase, kind, str(len(ones)), *_means(ones))))
    return "\n".join(lines)


def _means(measured: Sequence[Measured]) -> Iterator[str]:
    for peer in PEERS:
        ratios = [against["ratio"] for m in measured if (against := getattr(m, peer))]
        yield _times(statistics.geometric_mean(ratios)) if ratios else "-"
        yield _times(min(ratios)) if ratios else "-"


def shortfalls(measured: Sequence[Measured]) -> str:
    """Name the calls below the least ratios, and half precision slower than float32."""
    lines = []
    for peer, least in LEAST.items():
        ratios = {f"{m.call} ({m.phase})": r for m in measured if (r := getattr(m, peer))}
        below = [f"{name} {r['ratio']:.3f}" for name, r in ratios.items() if r["ratio"] < least]
        lines.append(_list(f"Under {least}× {PEERS[peer]}: {len(below)} of {len(ratios)}", below))
    half = [m for m in measured if m.float32 is not None]
    if half:
        slower = [
            f"{m.call} ({m.phase}) {_ratio(m.float32)}"
            for m in half
            if m.float32 is not None and m.float32["ratio"] < 1
        ]
        said = f"Half precision slower than float32 of the same call: {len(slower)} of {len(half)}"
        lines.append(_list(said, slower))
    lines += [
        _growth("Compile seconds", measured, "compile_seconds", 1, 0.1),
        _growth("Temporary MB", measured, "temporary_bytes", 1e6, 1),
    ]
    noise = [m.noise for m in measured if m.noise is not None]
    if noise:
        medians = sorted(n["ratio"] for n in noise)
        lines.append(
            f"Noise: plain JAX against itself, medians of {len(noise)} calls, reads "
            f"{medians[0]:.2f} to {medians[-1]:.2f}; in the mean, half of a call's rounds lie "
            f"between {statistics.fmean(n['low'] for n in noise):.2f} and "
            f"{statistics.fmean(n['high'] for n in noise):.2f}."
        )
    return "\n\n".join(lines)


def _growth(what: str, measured: Sequence[Measured], field: str, unit: float, least: float) -> str:
    """Say what accelerate takes in all against plain JAX, and where it takes most."""
    pairs = [
        (m, getattr(m, field)["plain"] / unit, getattr(m, field)["jaxbp"] / unit) for m in measured
    ]
    plain, fast = sum(p for _, p, _ in pairs), sum(f for _, _, f in pairs)
    # Beside next to nothing everything is many times as much.
    times, worst = max(((f / max(p, least), m) for m, p, f in pairs), key=lambda pair: pair[0])
    return (
        f"{what}, in all: {plain:.1f} plain, {fast:.1f} accelerate; "
        f"at most {times:.2f}× plain's ({worst.call}, {worst.phase}; "
        f"what takes less than {least} counts as {least})."
    )


def _list(said: str, items: Sequence[str]) -> str:
    return said + ("." if not items else ":\n\n" + "\n".join(f"- {item}" for item in items))


def bounds(measured: Sequence[Measured], gemm: float, copy: float) -> str:
    """What bounds each call that is under 1.0× PyTorch."""
    lines = [head(BOUNDS)]
    for m in measured:
        if m.torch is None or m.torch["ratio"] >= 1:
            continue
        products, moved = 1e3 * m.operations / gemm, 1e3 * m.bytes / copy
        bound = max(products, moved)
        lines.append(
            row(
                BOUNDS,
                (
                    m.call,
                    m.phase,
                    _times(m.torch["ratio"]),
                    f"{m.operations / 1e9:.2f}",
                    f"{m.bytes / 1e6:.1f}",
                    f"{products:.2f}",
                    f"{moved:.2f}",
                    "products" if products > moved else "bytes",
                    f"{m.ms / bound:.1f}×",
                    f"{m.torch['ms'] / bound:.1f}×",
                ),
            )
        )
    return "\n".join(lines)


class Report:
    """Text that is printed as it comes and kept for a file."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Print and keep one paragraph or line."""
        command.say(text)
        self.lines.append(text)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def run(calls: Sequence[Call], torch: Torch | None, rounds: int) -> tuple[dict[str, Any], Report]:
    """Measure the calls, print the tables, and return what was measured and what was printed."""
    report = Report()
    gemm, copy = rates()
    report.say(
        f"jax {jax.__version__}, PyTorch {torch.version if torch else 'left out'}, "
        f"{rounds} rounds; matrix product {gemm / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s.\n"
    )
    report.say(
        "Ratios: how many times faster accelerate is, of medians, between the quartiles of the "
        "rounds' own. Compile time and temporary memory: plain / accelerate. (3) before "
        "milliseconds: in so many rounds only, as one call takes over 500. Strategies: of the sums "
        "conv (y), conv_input_grad (dx), conv_kernel_grad (dw); a transposed convolution's "
        "value is a dx, and its dx a y."
    )
    measured: list[Measured] = []
    for phase in PHASES:
        title = {"forward": "Forward alone", "gradients": "Value and both gradients"}[phase]
        report.say(f"\n### {title}\n\n{head(TABLE)}")
        for call in calls:
            measured.append(measure_call(call, phase, torch, rounds))
            report.say(line(measured[-1]))
    report.say(f"\n### Geometric means\n\n{summary(measured)}\n\n{shortfalls(measured)}")
    if any(m.torch is not None and m.torch["ratio"] < 1 for m in measured):
        report.say(
            "\n### What bounds the calls under 1.0× PyTorch\n\n"
            "The operations at the rate of the matrix product, and the bytes (each array once) at "
            "that of the copy. The last two columns: how many times the larger of these is taken."
            "\n\n" + bounds(measured, gemm, copy)
        )
    found = {"gemm_flops": gemm, "copy_bytes": copy, "calls": [m._asdict() for m in measured]}
    return found, report
