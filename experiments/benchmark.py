"""Is a training step through hand-written rules faster than autodiff, and than PyTorch?

Every contestant takes its turn in each round of one run: jaxbp and Flax (under jax.grad) in this
process, PyTorch in its own. Ratios are of medians, beside the quartiles of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import command
import convolution_tables
import convolutions
import jax
import jax.numpy as jnp
from command import BadInput, Parser
from jax import lax
from peers import ours
from peers.cases import BATCHES, CLASSES, CONVS, MODELS, POOLS, Conv, Pool
from peers.torch_process import Torch
from results import open_folder, refuse_file, write
from timing import Call, measure, numbers, rates

import jaxbp

Options = dict[str, str | bool]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS)
    )
    parser.add_argument("--ops", action="store_true", help="measure single operations too")
    parser.add_argument("--only-ops", action="store_true", help="measure single operations only")
    parser.add_argument(
        "--convolutions", action="store_true", help="measure the table of single convolutions only"
    )
    parser.add_argument(
        "--only-convolutions",
        nargs="+",
        metavar="PATTERN",
        help="of this table, only calls with one of these in their names",
    )
    parser.add_argument(
        "--no-plain", action="store_true", help="of this table, leave plain JAX out: it is slow"
    )
    parser.add_argument(
        "--measured",
        nargs="+",
        metavar="FILE",
        type=command.path,
        help="measure nothing: print this table of what runs of its parts wrote with --json",
    )
    parser.add_argument("--rounds", type=command.several, default=15)
    parser.add_argument("--torch-python", metavar="PATH", help="a Python that has PyTorch")
    parser.add_argument(
        "--json", metavar="FILE", type=command.path, help="write all that was measured"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=command.path, help="write benchmark.json and .png"
    )
    parser.add_argument(
        "--markdown", metavar="FILE", type=command.path, help="write the convolutions' tables"
    )
    parser.add_argument(
        "--compiler-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an XLA option for jaxbp and Flax alike",
    )
    return parser.parse_args()


class Peers(NamedTuple):
    """The contestants that are there, and why the others are not."""

    flax: Any | None
    torch: Torch | None
    absent: list[str]


@contextmanager
def peers(torch_python: str | None) -> Iterator[Peers]:
    """Start the contestants that are installed."""
    absent: list[str] = []
    flax: Any = None
    torch: Torch | None = None
    try:
        flax = importlib.import_module("peers.with_flax")
    except ImportError as error:
        absent.append(f"Flax: {error}; install jaxbp[bench]")
    if torch_python is None:
        absent.append("PyTorch: no --torch-python PATH was given")
    else:
        torch = Torch(torch_python)
    try:
        yield Peers(flax, torch, absent)
    finally:
        if torch is not None:
            torch.close()


class Step(NamedTuple):
    """A compiled training step."""

    call: Call
    compile_seconds: float
    temporary_bytes: int


def training_step(library: Any, name: str, options: Options) -> Step:
    """Compile a network's step: loss, gradients, SGD with momentum."""
    params, loss = library.loss(name)
    x = numbers(BATCHES[name])
    labels = jnp.arange(BATCHES[name][0]) % CLASSES

    def step(params: Any, momentum: Any, x: jax.Array, labels: jax.Array) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, labels)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        return jax.tree.map(lambda p, m: p - 1e-3 * m, params, momentum), momentum, value

    args = (params, jax.tree.map(jnp.zeros_like, params), x, labels)
    start = time.perf_counter()
    compiled = jax.jit(step).lower(*args).compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    temporary = 0 if memory is None else memory.temp_size_in_bytes
    return Step(lambda: compiled(*args), seconds, temporary)


def roofline(name: str, gemm: float, copy: float) -> dict[str, float]:
    """The least milliseconds of a step: FLOPs over the GEMM rate, or bytes over the copy rate.

    Every convolution and product is taken three times, forward and for both gradients, except that
    the first has no input gradient; each time it reads two arrays and writes the third.
    """
    params, loss = ours.loss(name)
    with jax.disable_jit(False), jaxbp.lowering.use("xla"):
        labels = jnp.zeros(BATCHES[name][0], jnp.int32)
        jaxpr = jax.make_jaxpr(loss)(params, jnp.zeros(BATCHES[name]), labels)
    products = list(_products(jaxpr.jaxpr))
    flops = 3 * sum(f for f, _ in products) - products[0][0]
    moved = 3 * sum(b for _, b in products) - products[0][1]
    bound = max(flops / gemm, moved / copy) * 1e3
    return {"gflop": flops / 1e9, "megabytes": moved / 1e6, "ms": bound}


def _products(jaxpr: Any) -> Iterator[tuple[float, float]]:
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _products(inner)
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            a, b = (v.aval for v in equation.invars)
            (y,) = (v.aval for v in equation.outvars)
            terms = b.size // b.shape[-1]
            yield 2.0 * y.size * terms, 4.0 * (a.size + b.size + y.size)


def operations(options: Options) -> Iterator[tuple[str, Any, dict[str, Call]]]:
    """Each operation by kind and shape: through jaxbp, and through lax under autodiff."""

    def pair(mine: Any, lax_one: Any, *args: Any) -> dict[str, Call]:
        compiled = [
            jax.jit(f).lower(*args).compile(compiler_options=options or None)
            for f in (mine, lax_one)
        ]
        first, second = (partial(c, *args) for c in compiled)
        return {"jaxbp": first, "lax": second}

    for s in CONVS:
        x = numbers((s.batch, s.side, s.side, s.channels))
        w = numbers((s.kernel, s.kernel, s.channels, s.features))

        def mine(x: Any, w: Any, s: Conv = s) -> jax.Array:
            return jaxbp.conv(x, w, stride=s.stride)

        def plain(x: Any, w: Any, s: Conv = s) -> jax.Array:
            return lax.conv_general_dilated(
                x, w, (s.stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        dy = numbers(jax.eval_shape(plain, x, w).shape)

        yield "conv", s, pair(mine, plain, x, w)
        for kind, argument in (("conv_input_grad", 0), ("conv_kernel_grad", 1)):
            yield kind, s, pair(_gradient(mine, argument), _gradient(plain, argument), x, w, dy)
    for p in POOLS:
        x = numbers((p.batch, p.side, p.side, p.channels))
        size, stride = (1, p.window, p.window, 1), (1, p.stride, p.stride, 1)

        def max_pool(x: Any, size: Any = size, stride: Any = stride) -> jax.Array:
            return lax.reduce_window(x, -jnp.inf, lax.max, size, stride, "VALID")

        def avg_pool(x: Any, size: Any = size, stride: Any = stride) -> jax.Array:
            total = lax.reduce_window(x, 0.0, lax.add, size, stride, "VALID")
            return total / (size[1] * size[2])

        dy = numbers(jax.eval_shape(max_pool, x).shape)
        how: dict[str, Any] = {"stride": p.stride}

        def with_winner(x: Any, p: Pool = p, how: Any = how) -> Any:
            return jax.vjp(lambda x: jaxbp.max_pool(x, p.window, **how), x)

        _, pullback = jax.jit(with_winner)(x)
        yield (
            "max_pool",
            p,
            pair(lambda x, p=p, how=how: jaxbp.max_pool(x, p.window, **how), max_pool, x),
        )
        # What a training step runs: lax keeps the input instead, and looks for the winner again.
        yield "max_pool_winner", p, pair(with_winner, max_pool, x)
        mine_grad = jax.jit(lambda pullback, dy: pullback(dy)[0])
        theirs = jax.jit(lambda x, dy, f=max_pool: jax.vjp(f, x)[1](dy)[0])
        yield (
            "max_pool_grad",
            p,
            {
                "jaxbp": partial(mine_grad, pullback, dy),
                "lax": partial(theirs, x, dy),
            },
        )
        yield (
            "avg_pool",
            p,
            pair(lambda x, p=p, how=how: jaxbp.avg_pool(x, p.window, **how), avg_pool, x),
        )
        yield (
            "avg_pool_grad",
            p,
            pair(
                lambda x, dy, p=p, how=how: jax.vjp(
                    lambda x: jaxbp.avg_pool(x, p.window, **how), x
                )[1](dy)[0],
                lambda x, dy, f=avg_pool: jax.vjp(f, x)[1](dy)[0],
                x,
                dy,
            ),
        )


def _gradient(f: Any, argument: int) -> Any:
    return lambda x, w, dy: jax.vjp(f, x, w)[1](dy)[argument]


def run_steps(args: argparse.Namespace, there: Peers, options: Options) -> list[Any]:
    """Measure the training steps and print a line for each."""
    gemm, copy = rates()
    command.say(f"matrix product {gemm / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s")
    command.say(
        f"{'step':9}{'jaxbp ms':>9}  {'against Flax + jax.grad':34}{'against PyTorch':38}", end=""
    )
    command.say(f"{'roofline':>9}{'compile s':>16}{'temporary MB':>18}")
    results = []
    for name in args.only or MODELS:
        steps = {"jaxbp": training_step(ours, name, options)}
        if there.flax is not None:
            steps["flax"] = training_step(there.flax, name, options)
        calls = {who: step.call for who, step in steps.items()}
        timing = measure(calls, there.torch, ("step", name), args.rounds)
        bound = roofline(name, gemm, copy)
        result: dict[str, Any] = {
            "model": name,
            "ms": timing.median("jaxbp"),
            "against_flax": timing.against("flax"),
            "against_torch": timing.against("torch"),
            "roofline": bound | {"times": timing.median("jaxbp") / bound["ms"]},
            "compile_seconds": {who: step.compile_seconds for who, step in steps.items()},
            "temporary_bytes": {who: step.temporary_bytes for who, step in steps.items()},
            "rounds": timing.rounds,
        }
        results.append(result)
        compiled = " / ".join(f"{s.compile_seconds:.2f}" for s in steps.values())
        temporary = " / ".join(f"{s.temporary_bytes / 1e6:.1f}" for s in steps.values())
        command.say(
            f"{name:9}{result['ms']:9.2f}  {_ratio(result['against_flax']):34}"
            f"{_ratio(result['against_torch']):38}{result['roofline']['times']:8.2f}×"
            f"{compiled:>16}{temporary:>18}"
        )
    return [{"gemm_flops": gemm, "copy_bytes": copy}, *results]


def run_operations(args: argparse.Namespace, there: Peers, options: Options) -> list[Any]:
    """Measure single operations, print a line for each and the geometric means."""
    command.say(
        f"{'operation':18}{'shape':28}{'jaxbp ms':>9}  {'against lax':34}{'against PyTorch':38}"
    )
    results: list[Any] = []
    for kind, shape, calls in operations(options):
        timing = measure(calls, there.torch, ("op", kind, shape), args.rounds)
        result = {
            "operation": kind,
            "shape": str(shape),
            "ms": timing.median("jaxbp"),
            "against_lax": timing.against("lax"),
            "against_torch": timing.against("torch"),
        }
        results.append(result)
        command.say(
            f"{kind:18}{result['shape']:28}{result['ms']:9.3f}  "
            f"{_ratio(result['against_lax']):34}{_ratio(result['against_torch']):38}"
        )
    for kind in dict.fromkeys(r["operation"] for r in results):
        for peer in ("against_lax", "against_torch"):
            ratios = [r[peer]["ratio"] for r in results if r["operation"] == kind and r[peer]]
            if ratios:
                mean = statistics.geometric_mean(ratios)
                means = f"geometric mean {mean:.2f}×, least {min(ratios):.2f}×"
                command.say(f"{kind} {peer.replace('_', ' ')}: {means}")
    return results


def _ratio(against: Any) -> str:
    if against is None:
        return "-"
    layout = against["peer"].partition(" ")[2]
    spread = f"[{against['low']:.2f}, {against['high']:.2f}]"
    return f"{against['ratio']:.2f}× {spread} {against['ms']:.2f} ms {layout}"


def plot(results: dict[str, Any]) -> bytes:
    """Draw how many times faster a step is than each peer's."""
    import figures  # matplotlib, which nothing else here needs

    with figures.style():
        figure = figures.blank(7, 3.5)
        axes = figure.subplots()
        draw_ratios(axes, results["steps"][1:], (figures.BLUE, figures.ORANGE))
        axes.axhline(1, color=figures.INK, linewidth=0.8)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("times faster (higher is better)")
        axes.set_title(f"A step through jaxbp, {results['cores']} cores, jax {results['jax']}")
        return figures.png(figure)


def draw_ratios(axes: Any, steps: list[Any], colours: Sequence[str]) -> None:
    """Draw each step's bars about its tick, one a peer that was there."""
    peers = {"against_flax": "Flax + jax.grad", "against_torch": "PyTorch"}
    drawn = [key for key in peers if any(step[key] for step in steps)]
    for number, (key, colour) in enumerate(zip(drawn, colours, strict=False)):
        offset = 0.4 * (number - (len(drawn) - 1) / 2)
        ratios = [(i + offset, step[key]) for i, step in enumerate(steps) if step[key]]
        heights = [a["ratio"] for _, a in ratios]
        errors = [
            [max(0, a["ratio"] - a["low"]) for _, a in ratios],
            [max(0, a["high"] - a["ratio"]) for _, a in ratios],
        ]
        axes.bar(
            [place for place, _ in ratios], heights, 0.38,
            color=colour, yerr=errors, capsize=3, label=f"than {peers[key]}",
        )  # fmt: skip
    axes.set_xticks(range(len(steps)), [step["model"] for step in steps])
    if drawn:
        axes.legend()


def main() -> int:
    """Measure, print, write."""
    args = parse()
    options: Options = {}
    for option in args.compiler_option:
        name, equals, value = option.partition("=")
        if not equals:
            raise BadInput(f"--compiler-option must be NAME=VALUE, got {option!r}")
        options[name] = value
    try:
        jax.jit(jnp.negative).lower(0.0).compile(compiler_options=options or None)
    except Exception as error:  # in XLA's words: only it knows its options
        raise BadInput(f"--compiler-option: {str(error).splitlines()[0]}") from None
    convolved = args.convolutions or args.only_convolutions is not None
    calls = convolutions.chosen(args.only_convolutions) if convolved else []
    refuse_file("--json", args.json)
    refuse_file("--markdown", args.markdown)
    if args.measured is not None:
        text = convolution_tables.report(*convolutions.read(args.measured))
        if args.markdown is not None:
            write(args.markdown, text.encode())
        return 0
    if args.out is not None:
        open_folder(args.out)
    with peers(args.torch_python) as there:
        results: dict[str, Any] = {
            "jax": jax.__version__,
            "torch": there.torch.version if there.torch else None,
            "cores": len(os.sched_getaffinity(0)),
            "platform": jax.default_backend(),
            "compiler_options": options,
            "absent": there.absent,
        }
        for line in there.absent:
            command.say(f"left out: {line}")
        command.say(f"jax {jax.__version__}, PyTorch {results['torch']}, {results['cores']} cores")
        if convolved:
            how = convolutions.Options(there.torch, args.rounds, options, not args.no_plain)
            run, ones = convolutions.start(how), []

            def kept() -> Iterator[convolutions.Measured]:
                """Write each call when it has been measured: a run may be ended before its end."""
                for one in convolutions.measured(calls, how):
                    ones.append(one)
                    results["convolutions"] = convolutions.as_json(run, ones)
                    if args.json is not None:
                        write(args.json, json.dumps(results, indent=1).encode())
                    yield one

            text = convolution_tables.report(run, kept())
            if args.markdown is not None:
                write(args.markdown, text.encode())
        if not (args.only_ops or convolved):
            results["steps"] = run_steps(args, there, options)
        if args.ops or args.only_ops:
            results["operations"] = run_operations(args, there, options)
    measured = json.dumps(results, indent=1).encode()
    if args.json is not None:
        write(args.json, measured)
    if args.out is not None:
        write(args.out / "benchmark.json", measured)
        if "steps" in results:
            write(args.out / "benchmark.png", plot(results))
    return 0


if __name__ == "__main__":
    command.run(main)
