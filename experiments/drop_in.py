"""Does one line, `accelerate`, make networks that others wrote faster, with the same gradients?

Each network runs as it is and accelerated, and where it has a twin in PyTorch, also there, eager in
two layouts and compiled, turn by turn. Its gradients are held against float64 truth, ten steps of
SGD with momentum against each other; a step, its tracing and compilation are timed, and its memory
is read off. The bound is what the operations of a step, as XLA counts them, take at the rate of a
large product: no order of the same sums is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
from command import BadInput, Parser
from others.case import Case
from peers.networks import NETWORKS
from peers.torch_process import LAYOUTS, CannotDo, Torch
from results import refuse_file, write
from timing import Timing, rates
from timing import measure as turn_by_turn

from jaxbp.accelerate import accelerate
from jaxbp.explain import explain

CASES = {
    "flax-mnist": ("with_flax", "mnist"),
    "equinox-mnist": ("with_equinox", "mnist"),
    "haiku-resnet18": ("with_haiku", "resnet18"),
    "nnx-resnet": ("with_flax", "resnet"),
    "flax-unet": ("with_flax", "unet"),
    "equinox-sound": ("with_equinox", "sound"),
    "haiku-volume": ("with_haiku", "volume"),
    "flax-separable": ("with_flax", "separable"),
}
STEPS = 10
LEAST = 5  # rounds, however slow a step is
COMPILED = "compiled "  # a layout of PyTorch's, under torch.compile
# One unit in the last place of the largest entry: plain JAX may be exact by chance.
FLOOR = float(np.finfo(np.float32).eps)


class Measured(NamedTuple):
    """What was measured of one network."""

    name: str
    rules: dict[str, int]  # how often each rule stands in
    left_alone: int
    float64: float  # largest difference of a gradient leaf from plain JAX's, relative
    float32: float  # error against float64 truth over plain JAX's own, all leaves together
    float32_leaf: float  # the same for the worst leaf
    ten_steps64: float  # how far apart parameters are after ten steps, relative
    ten_steps32: float
    plain_ms: float
    fast_ms: float
    bound_ms: float  # all operations of the plain step at the rate of a large matrix product
    speedup: tuple[float, float, float]  # of the medians, between the quartiles of the rounds' own
    trace_ms: tuple[float, float]  # plain, accelerated
    compile_ms: tuple[float, float]
    temporary_bytes: tuple[int, int]
    peak_bytes: tuple[int, int]  # arguments, results and what is temporary
    torch: dict[str, Any] | None  # against PyTorch, the faster layout: peer, ms, ratio, low, high
    torch_compiled: dict[str, Any] | str | None  # against torch.compile, or why it is not there
    rounds: dict[str, list[float]]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*CASES, *NETWORKS],
        metavar="NETWORK",
        help=", ".join([*CASES, *NETWORKS]),
    )
    parser.add_argument("--torch-python", metavar="PATH", help="a Python that has PyTorch")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--rounds", type=command.several, default=15)
    parser.add_argument("--no-time", action="store_true", help="hold the numbers, time nothing")
    parser.add_argument("--no-check", action="store_true", help="time only")
    parser.add_argument("--explain", action="store_true", help="print each network's table")
    parser.add_argument(
        "--json", metavar="FILE", type=command.path, help="write all that was measured"
    )
    parser.add_argument(
        "--markdown", metavar="FILE", type=command.path, help="write the tables of speed and cost"
    )
    return parser.parse_args()


def make(name: str, small: bool = False) -> Case:
    """Return the network, or raise if its framework is not installed."""
    if name in NETWORKS:
        module, function, sizes, cut = NETWORKS[name]
        sizes = cut if small else sizes
    else:
        (module, function), sizes = CASES[name], {}
    try:
        case: Case = getattr(importlib.import_module(f"others.{module}"), function)(**sizes)
    except ImportError as error:
        raise BadInput(f"{name}: {error}; install jaxbp[interop]") from None
    return case


def as_dtype(tree: Any, dtype: Any) -> Any:
    """Return the tree with its floating leaves in this dtype."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def gradients(loss: Callable[..., Any], case: Case, dtype: Any) -> list[np.ndarray]:
    """Return the gradient of every parameter, in float64 numbers."""
    params, state, x = (as_dtype(tree, dtype) for tree in (case.params, case.state, case.x))
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(params, state, x, case.labels)
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]


def make_step(loss: Callable[..., Any]) -> tuple[Any, Any]:
    """Return a step of SGD with momentum, and the optimiser."""
    optimiser = optax.sgd(0.01, momentum=0.9)

    def step(params: Any, state: Any, momentum: Any, x: jax.Array, labels: jax.Array) -> Any:
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, x, labels)
        updates, momentum = optimiser.update(grads, momentum)
        return optax.apply_updates(params, updates), state, momentum, value

    return step, optimiser


def after_steps(loss: Callable[..., Any], case: Case, dtype: Any) -> list[np.ndarray]:
    """Return the parameters after ten steps."""
    params, state, x = (as_dtype(tree, dtype) for tree in (case.params, case.state, case.x))
    step, optimiser = make_step(loss)
    step, momentum = jax.jit(step), optimiser.init(params)
    for _ in range(STEPS):
        params, state, momentum, _ = step(params, state, momentum, x, case.labels)
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]


def distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of a leaf, relative to its largest entry."""
    return max(
        float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float64).tiny))
        for a, b in zip(ours, theirs, strict=True)
    )


def errors(
    ours: list[np.ndarray], plain: list[np.ndarray], truth: list[np.ndarray]
) -> tuple[float, float]:
    """Our error over plain JAX's own: of all leaves together, and of the worst leaf."""

    def size(leaves: list[np.ndarray]) -> float:
        return float(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves)))

    def error(leaves: list[np.ndarray], right: list[np.ndarray]) -> float:
        return size([a - b for a, b in zip(leaves, right, strict=True)])

    def ratio(ours: list[np.ndarray], plain: list[np.ndarray], truth: list[np.ndarray]) -> float:
        # A leaf whose gradient is zero but for rounding, a bias before a batch norm, has no scale.
        floor = FLOOR * max(size(truth), FLOOR * total)
        return error(ours, truth) / max(error(plain, truth), floor)

    total = size(truth)
    worst = max(ratio([a], [b], [c]) for a, b, c in zip(ours, plain, truth, strict=True))
    return ratio(ours, plain, truth), worst


def times(name: str, case: Case, fast: Any, torch: Torch | None, asked: Any) -> dict[str, Any]:
    """Time a step of every contestant, its tracing and its compilation."""
    calls: dict[str, Callable[[], Any]] = {}
    compiled_ms, flops, memory = [], [], []
    for who, loss in (("plain", case.loss), ("jaxbp", fast)):
        step, optimiser = make_step(loss)
        args = (case.params, case.state, optimiser.init(case.params), case.x, case.labels)
        args = jax.tree.map(jnp.asarray, args)
        lowered = jax.jit(step).lower(*args)
        counted = lowered.cost_analysis()
        flops.append(counted["flops"] if counted else float("nan"))
        start = time.perf_counter()
        program = lowered.compile()
        compiled_ms.append(1e3 * (time.perf_counter() - start))
        calls[who] = partial(program, *args)
        memory.append(step_memory(program))
    layouts: tuple[str, ...] = ()
    compiled: Any = None
    if torch is not None and name in NETWORKS:
        refuse_other_twin(name, case, torch)
        layouts = torch_layouts(name, torch)
        if not asked.no_compile:
            try:
                torch.time("network", name, COMPILED + layouts[0], 1)
                layouts = (*layouts, COMPILED + layouts[0])
            except CannotDo as error:
                compiled = str(error)
    timing = turn_by_turn(calls, torch, ("network", name), asked.rounds, layouts, LEAST)
    faster: Any = timing.against("plain")
    eager = Timing({who: ms for who, ms in timing.rounds.items() if COMPILED not in who})
    return {
        "plain_ms": timing.median("plain"),
        "fast_ms": timing.median("jaxbp"),
        "bound_ms": 1e3 * flops[0] / rates()[0],
        "speedup": (faster["low"], faster["ratio"], faster["high"]),
        "trace_ms": trace_times(case, fast),
        "compile_ms": tuple(compiled_ms),
        "temporary_bytes": tuple(temporary for temporary, _ in memory),
        "peak_bytes": tuple(peak for _, peak in memory),
        "torch": eager.against("torch"),
        "torch_compiled": timing.against(f"torch {COMPILED}") or compiled,
        "rounds": timing.rounds,
    }


def step_memory(program: Any) -> tuple[int, int]:
    """Return the bytes that are temporary in a step, and those with its arguments and results."""
    memory = program.memory_analysis()
    if memory is None:
        return 0, 0
    temporary: int = memory.temp_size_in_bytes
    passed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return temporary, temporary + passed - memory.alias_size_in_bytes


def refuse_other_twin(name: str, case: Case, torch: Torch) -> None:
    """Raise if PyTorch's network trains another number of parameters."""
    ours = sum(leaf.size for leaf in jax.tree.leaves(case.params))
    theirs = torch.ask("parameters", name)
    if ours != theirs:
        raise BadInput(f"{name}: {ours} parameters in JAX, {theirs} in PyTorch: not the same")


def torch_layouts(name: str, torch: Torch) -> tuple[str, ...]:
    """Return the layouts that PyTorch has for the network, the faster first."""
    there = []
    for layout in LAYOUTS:
        with contextlib.suppress(CannotDo):  # signals have one layout
            there.append((statistics.median(torch.time("network", name, layout, 3)), layout))
    if not there:
        torch.time("network", name, LAYOUTS[0], 1)  # says why
    return tuple(layout for _, layout in sorted(there))


def trace_times(case: Case, fast: Any) -> tuple[float, float]:
    """Return the CPU time that tracing a step takes, plain and accelerated: medians of five turns.

    Where they would take more than five seconds, of fewer.

    The first turn fills JAX's caches, for both. Garbage is collected between the turns and not in
    them, as `timeit` has it: a full collection takes as long as a network's tracing.
    """
    taken: list[list[float]] = [[], []]
    began = time.process_time()
    for turn in range(6):
        if turn > 1 and time.process_time() - began > 5:
            break
        for which, loss in enumerate((case.loss, fast)):
            step, optimiser = make_step(lambda *args, loss=loss: loss(*args))  # a new one: no cache
            momentum = jax.eval_shape(optimiser.init, case.params)
            gc.collect()
            gc.disable()
            start = time.process_time()
            jax.jit(step).trace(case.params, case.state, momentum, case.x, case.labels)
            if turn:
                taken[which].append(1e3 * (time.process_time() - start))
            gc.enable()
    return statistics.median(taken[0]), statistics.median(taken[1])


def measure(name: str, arguments: argparse.Namespace, torch: Torch | None = None) -> Measured:
    """Hold one network's numbers against plain JAX's, and time it."""
    case = make(name)
    fast = accelerate(case.loss)
    with contextlib.redirect_stdout(io.StringIO()):
        report = explain(case.loss, case.params, case.state, case.x, case.labels)
    if arguments.explain:
        command.say(f"\n{name}\n{report}\n")
    rules = [entry.rule for entry in report.replaced]
    nan = float("nan")
    if arguments.no_check:
        float64, float32, leaf, ten64, ten32 = (nan,) * 5
    else:
        with jax.enable_x64(True):
            truth, ours = (gradients(f, case, jnp.float64) for f in (case.loss, fast))
            float64 = distance(ours, truth)
            ten64 = distance(*(after_steps(f, case, jnp.float64) for f in (fast, case.loss)))
        plain, ours = (gradients(f, case, jnp.float32) for f in (case.loss, fast))
        float32, leaf = errors(ours, plain, truth)
        ten32 = distance(*(after_steps(f, case, jnp.float32) for f in (fast, case.loss)))
    timed: dict[str, Any] = {
        "plain_ms": nan,
        "fast_ms": nan,
        "bound_ms": nan,
        "speedup": (nan,) * 3,
        "trace_ms": (nan, nan),
        "compile_ms": (nan, nan),
        "temporary_bytes": (0, 0),
        "peak_bytes": (0, 0),
        "torch": None,
        "torch_compiled": None,
        "rounds": {},
    }
    if not arguments.no_time:
        timed = times(name, case, fast, torch, arguments)
    return Measured(
        name,
        {rule: rules.count(rule) for rule in sorted(set(rules))},
        len(report.left_alone),
        float64,
        float32,
        leaf,
        ten64,
        ten32,
        **timed,
    )


HEADER = (
    f"{'network':19} {'float64':>8} {'float32':>8} {'leaf':>6} {'10 steps':>9} {'(f32)':>8} "
    f"{'plain ms':>9} {'fast ms':>8} {'bound':>7} {'faster':>7} {'quartiles':>12} "
    f"{'PyTorch ms':>10} {'faster':>7} {'quartiles':>12} {'compiled':>9} {'tracing':>8} "
    f"{'compile':>8} {'peak':>6}  rules"
)


def row(m: Measured) -> str:
    """One network's line of the table."""
    rules = ", ".join(f"{count} {rule}" for rule, count in m.rules.items())
    low, middle, high = m.speedup
    torch = f"{'-':>10} {'-':>7} {'-':>12}"
    if m.torch is not None:
        quartiles = f"{m.torch['low']:.2f}–{m.torch['high']:.2f}"  # noqa: RUF001
        torch = f"{m.torch['ms']:10.2f} {m.torch['ratio']:6.2f}× {quartiles:>12}"
    compiled = f"{m.torch_compiled['ms']:.2f}" if isinstance(m.torch_compiled, dict) else "-"
    return (
        f"{m.name:19} {m.float64:8.1e} {m.float32:7.2f}× {m.float32_leaf:5.2f}× "
        f"{m.ten_steps64:9.1e} {m.ten_steps32:8.1e} {m.plain_ms:9.2f} {m.fast_ms:8.2f} "
        f"{m.bound_ms:7.2f} {middle:6.2f}× {f'{low:.2f}–{high:.2f}':>12} "  # noqa: RUF001
        f"{torch} {compiled:>9} "
        f"{quotient(m.trace_ms):7.2f}× {quotient(m.compile_ms):7.2f}× "
        f"{quotient(m.peak_bytes):5.2f}×  {rules}"
    )


def quotient(plain_and_fast: tuple[float, float]) -> float:
    """How many times plain JAX's the accelerated step's is."""
    plain, fast = plain_and_fast
    return fast / plain if plain else float("nan")


def summary(measured: list[Measured]) -> list[str]:
    """The geometric means of the ratios, and the worst of them."""
    lines = []
    for what, ratios, worst in (
        ("times plain JAX's speed", {m.name: m.speedup[1] for m in measured}, min),
        ("times PyTorch's speed", {m.name: m.torch["ratio"] for m in measured if m.torch}, min),
        (
            "times torch.compile's speed",
            {
                m.name: m.torch_compiled["ratio"]
                for m in measured
                if isinstance(m.torch_compiled, dict)
            },
            min,
        ),
        ("times plain JAX's compile time", {m.name: quotient(m.compile_ms) for m in measured}, max),
        ("times plain JAX's peak memory", {m.name: quotient(m.peak_bytes) for m in measured}, max),
    ):
        ratios = {name: ratio for name, ratio in ratios.items() if ratio == ratio}
        if ratios:
            name = worst(ratios, key=lambda name: ratios[name])
            lines.append(
                f"{what}: geometric mean {statistics.geometric_mean(ratios.values()):.2f}, "
                f"{'least' if worst is min else 'most'} {ratios[name]:.2f} ({name})"
            )
    return lines


def markdown(measured: list[Measured]) -> str:
    """The tables of speed, and of compile time and memory, to put into the documentation."""
    lines = [
        "| network | plain ms | accelerate ms | PyTorch ms | torch.compile ms | against plain "
        "| against PyTorch |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        low, ratio, high = m.speedup
        eager, against_eager, compiled = "", "", ""
        if m.torch is not None:
            eager = f"{m.torch['ms']:.0f} ({m.torch['peer'].removeprefix('torch ')})"
            against_eager = _ratio(m.torch["low"], m.torch["ratio"], m.torch["high"])
        if isinstance(m.torch_compiled, dict):
            compiled = f"{m.torch_compiled['ms']:.0f}"
        elif m.torch_compiled:
            compiled = "does not compile"
        lines.append(
            f"| {m.name} | {m.plain_ms:.0f} | {m.fast_ms:.0f} | {eager} | {compiled} "
            f"| {_ratio(low, ratio, high)} | {against_eager} |"
        )
    lines += [
        "",
        "| network | compile s, plain | accelerate | ratio | peak MB, plain | accelerate | ratio "
        "| temporary MB, plain | accelerate | trace ms, plain | accelerate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        compile_s = [ms / 1e3 for ms in m.compile_ms]
        peak, temporary = ([b / 1e6 for b in both] for both in (m.peak_bytes, m.temporary_bytes))
        lines.append(
            f"| {m.name} | {compile_s[0]:.1f} | {compile_s[1]:.1f} | {quotient(m.compile_ms):.2f} "
            f"| {peak[0]:.0f} | {peak[1]:.0f} | {quotient(m.peak_bytes):.2f} "
            f"| {temporary[0]:.0f} | {temporary[1]:.0f} "
            f"| {m.trace_ms[0]:.0f} | {m.trace_ms[1]:.0f} |"
        )
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(measured)), ""])


def _ratio(low: float, ratio: float, high: float) -> str:
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    """Measure every network and print the table."""
    arguments = parse()
    refuse_file("--json", arguments.json)
    refuse_file("--markdown", arguments.markdown)
    measured = []
    with contextlib.ExitStack() as stack:
        torch = None
        if arguments.torch_python is not None:
            torch = stack.enter_context(contextlib.closing(Torch(arguments.torch_python)))
        version = f"PyTorch {torch.version}" if torch else "no --torch-python PATH: no PyTorch"
        command.say(f"jax {jax.__version__}, {version}, {jax.devices()[0].device_kind}\n{HEADER}")
        for name in arguments.only or [*CASES, *NETWORKS]:
            measured.append(measure(name, arguments, torch))
            command.say(row(measured[-1]))
            if isinstance(measured[-1].torch_compiled, str):
                command.say(f"{name}: no torch.compile: {measured[-1].torch_compiled}")
    for line in summary(measured):
        command.say(line)
    if arguments.json is not None:
        found = {
            "jax": jax.__version__,
            "torch": torch.version if torch else None,
            "networks": [m._asdict() for m in measured],
        }
        write(arguments.json, (json.dumps(found, indent=2) + "\n").encode())
    if arguments.markdown is not None:
        write(arguments.markdown, markdown(measured).encode())
    return 0


if __name__ == "__main__":
    command.run(main)
