"""Do the hand-written rules train as autodiff does?

The same network learns twice from the same start and the same images in the same order: once
through the rules, once through `jax.grad` of the same forward. Both losses are drawn, and how far
they are apart at every step. Exit status 1 if that is ever more than the tolerance.
"""

from __future__ import annotations

import argparse
from itertools import islice

import command
import figures
import jax
import numpy as np
from augment import sampler
from command import REFUTED, Parser
from data import digits
from models import MODELS
from results import open_folder, write
from training import Options, batches, prepare

TOLERANCE = {"float64": 1e-10, "float32": 1e-2}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Compare a training by rules with a training by autodiff.")
    parser.add_argument("--model", choices=list(MODELS), default="lenet")
    parser.add_argument("--steps", type=command.positive_int, default=200)
    parser.add_argument("--seed", type=command.natural, default=0)
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="float64")
    parser.add_argument(
        "--tolerance", type=command.positive_float, help="relative (default: 1e-10 in float64)"
    )
    parser.add_argument(
        "--out", type=command.path, default="out", metavar="DIR", help="where equivalence.png goes"
    )
    return parser.parse_args()


def losses(model: str, options: Options, steps: int) -> np.ndarray:
    """Return the loss at each step of a training on digits."""
    run = prepare(MODELS[model], digits(), options)
    rng = np.random.default_rng(options.seed)
    draw = sampler(run.data.train.images, run.options.shift or 0)
    labels = run.data.train.labels
    epochs = iter(lambda: batches(draw, labels, options.batch, rng), None)
    state, result = run.state, []
    for x, t in islice((batch for epoch in epochs for batch in epoch), steps):
        state, measures = run.step(state, x, t)
        result.append(float(measures.loss))
    return np.array(result)


def main() -> int:
    """Train both ways, compare, draw."""
    args = parse()
    jax.config.update("jax_enable_x64", args.dtype == "float64")
    folder = open_folder(args.out)
    recipe = MODELS[args.model].recipe
    epochs = -(-args.steps * recipe.batch // len(digits().train.labels)) + 1
    options = Options(
        **recipe._replace(epochs=epochs)._asdict(),
        steps=args.steps,
        seed=args.seed,
        dtype=args.dtype,
    )
    manual, autodiff = (
        losses(args.model, options._replace(rules=rules), args.steps)
        for rules in ("manual", "autodiff")
    )
    apart = np.abs(manual - autodiff) / np.abs(autodiff)
    worst, tolerance = int(np.argmax(apart)), args.tolerance or TOLERANCE[args.dtype]
    equal = bool(apart[worst] <= tolerance)  # and not NaN
    write(
        folder / "equivalence.png",
        figures.equivalence(
            manual, autodiff, apart, tolerance, f"{args.model} on digits in {args.dtype}"
        ),
    )
    command.say(
        f"{args.model} on digits, {args.steps} steps in {args.dtype}, seed {args.seed}: "
        f"loss {manual[0]:.6f} to {manual[-1]:.6f}\n"
        f"largest relative difference of the losses: {apart[worst]:.2e} at step {worst + 1} "
        f"({'within' if equal else 'ABOVE'} {tolerance:.0e})\n"
        f"drawn in {folder / 'equivalence.png'}"
    )
    return 0 if equal else REFUTED


if __name__ == "__main__":
    command.run(main)
