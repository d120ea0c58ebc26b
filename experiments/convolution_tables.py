"""The convolutions' tables, in Markdown: a line a call, the means, what bounds the slow ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import command
from convolutions import Measured, Run
from peers.calls import PHASES

PHASE_TITLES = {"forward": "Forward alone", "gradients": "Value and both gradients"}
LEAST = {"plain": 0.95, "torch": 0.6}
PEERS = {"plain": "plain JAX", "torch": "PyTorch"}


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
    who_compiles = [who for who in ("plain", "jaxbp") if who in m.compile_seconds]
    short = {"conv": "y", "conv_input_grad": "dx", "conv_kernel_grad": "dw"}
    return row(
        TABLE,
        (
            m.call,
            _ms(m, "plain"),
            _ms(m, "jaxbp"),
            _ms(m, m.torch["peer"]) if m.torch else "-",
            _ratio(m.plain),
            _ratio(m.torch),
            " / ".join(f"{m.compile_seconds[who]:.2f}" for who in who_compiles),
            " / ".join(f"{m.temporary_bytes[who] / 1e6:.1f}" for who in who_compiles),
            ", ".join(f"{short.get(o, o)} {name}" for o, name in m.strategies.items()),
        ),
    )


def _ms(m: Measured, who: str) -> str:
    if who not in m.rounds:
        return "-"
    rounds, most = len(m.rounds[who]), max(map(len, m.rounds.values()))
    ms = f"{statistics.median(m.rounds[who]):.2f}"
    return ms if rounds == most else f"({rounds}) {ms}"


def _ratio(against: dict[str, Any] | None) -> str:
    if against is None:
        return "-"
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
    both = [m for m in measured if m.plain]
    if both:
        lines.append(_growth("Compile seconds", both, "compile_seconds", 1, 0.1))
        lines.append(_growth("Temporary MB", both, "temporary_bytes", 1e6, 1))
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


def bounds(measured: Sequence[Measured], run: Run) -> str:
    """What bounds each call that is under 1.0× PyTorch."""
    lines = [head(BOUNDS)]
    for m in measured:
        if m.torch is None or m.torch["ratio"] >= 1:
            continue
        products = 1e3 * m.operations / run.gemm_flops
        moved = 1e3 * m.bytes / run.copy_bytes
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


class Text:
    """Text that is printed as it comes and kept for a file."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Print and keep one paragraph or line."""
        command.say(text)
        self.lines.append(text)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def report(run: Run, measured: Iterable[Measured]) -> str:
    """Print a line for each call as it comes, then the means; return what was printed."""
    text = Text()
    text.say(
        f"{run.about}; matrix product {run.gemm_flops / 1e9:.0f} GFLOP/s, copy "
        f"{run.copy_bytes / 1e9:.1f} GB/s.\n"
    )
    text.say(
        "Ratios: how many times faster accelerate is, of medians, between the quartiles of the "
        "rounds' own. Compile time and temporary memory: plain / accelerate. (3) before "
        "milliseconds: in so many rounds only, as one call takes over 500. Strategies: of the sums "
        "conv (y), conv_input_grad (dx), conv_kernel_grad (dw); a transposed convolution's "
        "value is a dx, and its dx a y."
    )
    ones: list[Measured] = []
    for m in measured:
        if not ones or ones[-1].phase != m.phase:
            text.say(f"\n### {PHASE_TITLES[m.phase]}\n\n{head(TABLE)}")
        ones.append(m)
        text.say(line(m))
    text.say(f"\n### Geometric means\n\n{summary(ones)}\n\n{shortfalls(ones)}")
    if any(m.torch is not None and m.torch["ratio"] < 1 for m in ones):
        text.say(
            "\n### What bounds the calls under 1.0× PyTorch\n\n"
            "The operations at the rate of the float32 matrix product, for half precision "
            "too, and the bytes (each array once) at that of the copy. The last two columns: how "
            "many times the larger of these is taken.\n\n" + bounds(ones, run)
        )
    return str(text)
