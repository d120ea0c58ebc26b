"""Does one line, `accelerate`, make networks that others wrote faster, with the same gradients?

Each network runs as it is and accelerated, turn by turn. Its gradients are held against float64
truth, ten steps of SGD with momentum against each other, and a step and its tracing are timed. The
bound is what the operations of a step, as XLA counts them, take at the rate of a large product: no
order of the same sums is faster.
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
from results import refuse_file, write
from timing import Timing, rates

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


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=CASES, metavar="NETWORK", help=", ".join(CASES)
    )
    parser.add_argument("--rounds", type=command.several, default=15)
    parser.add_argument("--no-time", action="store_true", help="hold the numbers, time nothing")
    parser.add_argument("--no-check", action="store_true", help="time only")
    parser.add_argument("--explain", action="store_true", help="print each network's table")
    parser.add_argument(
        "--json", metavar="FILE", type=command.path, help="write all that was measured"
    )
    return parser.parse_args()


def make(name: str) -> Case:
    """Return the network, or raise if its framework is not installed."""
    module, function = CASES[name]
    try:
        case: Case = getattr(importlib.import_module(f"others.{module}"), function)()
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


def times(case: Case, fast: Any, rounds: int) -> dict[str, Any]:
    """Time a step, its tracing and its compilation, turn by turn."""
    calls: list[Callable[[], Any]] = []
    compiled_ms, flops = [], []
    for loss in (case.loss, fast):
        step, optimiser = make_step(loss)
        args = (case.params, case.state, optimiser.init(case.params), case.x, case.labels)
        args = jax.tree.map(jnp.asarray, args)
        lowered = jax.jit(step).lower(*args)
        counted = lowered.cost_analysis()
        flops.append(counted["flops"] if counted else float("nan"))
        start = time.perf_counter()
        program = lowered.compile()
        compiled_ms.append(1e3 * (time.perf_counter() - start))
        calls.append(partial(program, *args))
    taken: list[list[float]] = [[], []]
    for turn in range(rounds + 2):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            jax.block_until_ready(calls[which]())
            seconds = time.perf_counter() - start
            if turn >= 2:  # the first two warm up
                taken[which].append(1e3 * seconds)
    timing = Timing({"plain": taken[0], "jaxbp": taken[1]})
    faster: Any = timing.against("plain")
    return {
        "plain_ms": timing.median("plain"),
        "fast_ms": timing.median("jaxbp"),
        "bound_ms": 1e3 * flops[0] / rates()[0],
        "speedup": (faster["low"], faster["ratio"], faster["high"]),
        "trace_ms": trace_times(case, fast),
        "compile_ms": tuple(compiled_ms),
    }


def trace_times(case: Case, fast: Any) -> tuple[float, float]:
    """Return the CPU time that tracing a step takes, plain and accelerated: medians of five turns.

    The first turn fills JAX's caches, for both. Garbage is collected between the turns and not in
    them, as `timeit` has it: a full collection takes as long as a network's tracing.
    """
    taken: list[list[float]] = [[], []]
    for turn in range(6):
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


def measure(name: str, arguments: argparse.Namespace) -> Measured:
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
    }
    if not arguments.no_time:
        timed = times(case, fast, arguments.rounds)
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
    f"{'network':15} {'float64':>8} {'float32':>8} {'leaf':>6} {'10 steps':>9} {'(f32)':>8} "
    f"{'plain ms':>9} {'fast ms':>8} {'bound':>7} {'faster':>7} {'quartiles':>12} {'tracing':>8} "
    f"{'compile':>8}  rules"
)


def row(m: Measured) -> str:
    """One network's line of the table."""
    rules = ", ".join(f"{count} {rule}" for rule, count in m.rules.items())
    low, middle, high = m.speedup
    return (
        f"{m.name:15} {m.float64:8.1e} {m.float32:7.2f}× {m.float32_leaf:5.2f}× "
        f"{m.ten_steps64:9.1e} {m.ten_steps32:8.1e} {m.plain_ms:9.2f} {m.fast_ms:8.2f} "
        f"{m.bound_ms:7.2f} {middle:6.2f}× {f'{low:.2f}–{high:.2f}':>12} "  # noqa: RUF001
        f"{m.trace_ms[1] / m.trace_ms[0]:7.2f}× {m.compile_ms[1] / m.compile_ms[0]:7.2f}×  {rules}"
    )


def main() -> int:
    """Measure every network and print the table."""
    arguments = parse()
    refuse_file("--json", arguments.json)
    measured = []
    command.say(f"jax {jax.__version__}, {jax.devices()[0].device_kind}\n{HEADER}")
    for name in arguments.only or CASES:
        measured.append(measure(name, arguments))
        command.say(row(measured[-1]))
    if arguments.json is not None:
        found = {"jax": jax.__version__, "networks": [m._asdict() for m in measured]}
        write(arguments.json, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    command.run(main)
