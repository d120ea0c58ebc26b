"""Train a network on a data set: one compiled step, and a plain loop around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from augment import Sampler, sampler
from command import BadInput
from data import Dataset, Examples, standardise, to_side
from models import Model, predictions
from optimisers import optimizer, schedule
from progress import Watch
from results import Epoch

import jaxbp

MOST_STEPS = 2**31 - 1  # optax counts in an int32


class Options(NamedTuple):
    """How to train; a model's recipe gives the first six."""

    optimizer: str
    lr: float
    schedule: str
    epochs: int
    batch: int
    weight_decay: float
    momentum: float = 0.9
    steps: int | None = None  # at most so many in all
    shift: int | None = None  # pixels; None: a twelfth of the image's side
    flip: bool = False
    seed: int = 0
    dtype: str = "float32"
    rules: str = "manual"


class State(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any


class Measures(NamedTuple):
    """What a step measures over its batch."""

    loss: jax.Array
    correct: jax.Array


class Scores(NamedTuple):
    """How a network does on examples that it did not learn from."""

    losses: np.ndarray  # [N]
    predicted: np.ndarray  # int[N]
    accuracy: float


class After(NamedTuple):
    """What there is after an epoch."""

    epoch: Epoch
    params: Any  # good until the next epoch begins, which is computed in their memory
    scores: Scores  # on the test images


Step = Callable[[State, Any, Any], tuple[State, Measures]]
Score = Callable[[Any, Examples], Scores]


class Run(NamedTuple):
    """All that a training needs."""

    network: Any
    data: Dataset  # as the network sees it
    options: Options
    rate: optax.Schedule
    step: Step
    score: Score
    state: State


def prepare(model: Model, data: Dataset, options: Options) -> Run:
    """Bring data, network and update rule together."""
    count = len(data.train.labels)
    if options.batch > count:
        raise BadInput(
            f"--batch {options.batch} is larger than {data.name}'s {count} training images: "
            f"choose at most {count}"
        )
    data = standardise(to_side(data, model.side) if model.side else data, options.dtype)
    shape = data.train.images.shape[1:]
    if min(shape[:2]) < model.least:
        raise BadInput(
            f"images of {shape[0]}×{shape[1]} are too small for this model's pooling, which needs "
            f"{model.least}×{model.least}: choose another --model"
        )
    if options.shift is None:
        options = options._replace(shift=round(min(shape[:2]) / 12))
    elif options.shift >= min(shape[:2]):
        raise BadInput(
            f"--shift {options.shift} moves images of {shape[0]}×{shape[1]} out of sight: "
            f"choose at most {min(shape[:2]) - 1}"
        )
    steps = min(options.steps or MOST_STEPS, options.epochs * (count // options.batch), MOST_STEPS)
    rate = schedule(options.schedule, options.lr, steps)
    update = optimizer(options.optimizer, rate, options.momentum, options.weight_decay)
    network = model.build(len(data.classes))
    params = network.init(jax.random.key(options.seed), (options.batch, *shape))
    return Run(
        network,
        data,
        options,
        rate,
        make_step(network, model, update, options.rules),
        make_score(network, model),
        State(params, update.init(params)),
    )


def make_step(network: Any, model: Model, update: optax.GradientTransformation, rules: str) -> Step:
    """Return the compiled step: a mean over the batch, its gradients, an update.

    `rules` chooses whose gradients: "manual" takes the rules of jaxbp, "autodiff" takes the same
    forward and lets `jax.grad` differentiate it.
    """

    def mean_loss(params: Any, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = network.apply(params, x)
        correct = jnp.sum(predictions(outputs) == labels)
        return jnp.mean(model.loss(outputs, labels)), correct

    objective = mean_loss if rules == "manual" else jaxbp.plain(mean_loss)

    def step(state: State, x: jax.Array, labels: jax.Array) -> tuple[State, Measures]:
        (loss, correct), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params, x, labels
        )
        updates, moments = update.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), moments), Measures(loss, correct)

    # The old weights make room for the new ones. A whole epoch in one `scan` would be no faster:
    # inside loops XLA's CPU compiler leaves convolutions slow that it rewrites outside.
    return jax.jit(step, donate_argnums=0)


def make_score(network: Any, model: Model, batch: int = 256) -> Score:
    """Return the function that judges weights by examples, `batch` of them at a time."""

    @jax.jit
    def forward(params: Any, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = network.apply(params, x)
        return model.loss(outputs, labels), predictions(outputs)

    def score(params: Any, examples: Examples) -> Scores:
        count = len(examples.labels)
        # Filled up with the first example, so that one compiled shape serves every batch.
        order = np.concatenate([np.arange(count), np.zeros(-count % batch, int)])
        parts = [
            jax.device_get(forward(params, examples.images[chosen], examples.labels[chosen]))
            for chosen in order.reshape(-1, batch)
        ]
        losses, predicted = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
        return Scores(losses, predicted, float(np.mean(predicted == examples.labels)))

    return score


def batches(
    draw: Sampler, labels: np.ndarray, batch: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the examples in a new order, in batches; the rest, too few for a batch, is left out."""
    order = rng.permutation(len(labels))
    for start in range(0, len(order) - batch + 1, batch):
        chosen = order[start : start + batch]
        yield draw(chosen, rng), labels[chosen]


def fit(run: Run, watch: Watch) -> Iterator[After]:
    """Train, and yield after every epoch what there is."""
    state, options = run.state, run.options
    rng = np.random.default_rng(options.seed)
    draw = sampler(run.data.train.images, options.shift or 0, options.flip)
    taken = 0
    for number in range(1, options.epochs + 1):
        began = time.perf_counter()
        measured: list[Measures] = []
        for x, labels in batches(draw, run.data.train.labels, options.batch, rng):
            state, measures = run.step(state, x, labels)
            measured.append(measures)
            watch.advance(number, options.batch, measures.loss)
            if watch.stopped or taken + len(measured) == options.steps:
                break
        losses = np.array([float(m.loss) for m in measured])  # waits for the last step
        seconds = time.perf_counter() - began
        _check_finite(losses, taken, options.lr)
        taken += len(measured)
        seen = len(measured) * options.batch
        scores = run.score(state.params, run.data.test)
        epoch = Epoch(
            epoch=number,
            step=taken,
            learning_rate=float(run.rate(taken - 1)),
            train_loss=float(losses.mean()),
            train_accuracy=sum(int(m.correct) for m in measured) / seen,
            test_loss=float(scores.losses.mean(dtype=np.float64)),
            test_accuracy=scores.accuracy,
            seconds=seconds,
            images_per_second=seen / seconds,
            complete=len(measured) == len(run.data.train.labels) // options.batch,
        )
        watch.epoch(epoch)
        yield After(epoch, state.params, scores)
        if watch.stopped or taken == options.steps:
            return


def _check_finite(losses: np.ndarray, taken: int, lr: float) -> None:
    if not np.isfinite(losses).all():
        first = int(np.argmin(np.isfinite(losses)))
        raise BadInput(
            f"the loss became {losses[first]} at step {taken + first + 1}: "
            f"the learning rate {lr:g} is too large for this model, choose a smaller --lr"
        )
