"""Take contestants' times turn by turn, and the machine's rates to hold them against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from peers.torch_process import LAYOUTS, Torch

Call = Callable[[], Any]


# From so many milliseconds on, a call is timed once a round, and in fewer rounds.
SLOW = 500
# Below so many, a round's first call, after another contestant's, is slower than the rest.
BRIEF = 50


class Timing(NamedTuple):
    """Milliseconds of each contestant, round by round; a slow one sits out the last rounds."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median of a contestant."""
        return statistics.median(self.rounds[name])

    def against(self, peer: str, who: str = "jaxbp") -> dict[str, float] | None:
        """How many times faster jaxbp is than the peer (or the faster of its layouts)."""
        names = [name for name in self.rounds if name.startswith(peer)]
        if not names:
            return None
        best = min(names, key=self.median)
        each = [a / b for a, b in zip(self.rounds[best], self.rounds[who], strict=False)]
        low, _, high = statistics.quantiles(each, n=4)
        ratio = self.median(best) / self.median(who)
        return {"peer": best, "ms": self.median(best), "ratio": ratio, "low": low, "high": high}  # type: ignore[dict-item]


class _Turn(NamedTuple):
    """What a contestant does in a round: calls whose times count, after calls that warm up."""

    take: Callable[[int], list[float]]
    warm: int
    counted: int
    rounds: int

    def time(self) -> float:
        return statistics.median(self.take(self.warm + self.counted)[self.warm :])


def measure(
    calls: dict[str, Call],
    torch: Torch | None,
    request: Any,
    rounds: int,
    layouts: Sequence[str] = LAYOUTS,
    least: int = 2,
) -> Timing:
    """Time every contestant in each round, several calls in a row; the median of them counts.

    A slow one is timed in a fifth of the rounds, and in `least` at least.
    """
    ours = {name: _turn(partial(_times, call), rounds, least) for name, call in calls.items()}
    theirs = {
        f"torch {layout}": _turn(partial(torch.time, *request, layout), rounds, least)
        for layout in layouts
        if torch is not None
    }
    times: dict[str, list[float]] = {name: [] for name in (*ours, *theirs)}
    for number in range(rounds):
        # Forwards and backwards: who always follows PyTorch reads a few hundredths slower.
        for name, turn in (*list(ours.items())[:: -1 if number % 2 else 1], *theirs.items()):
            if number < turn.rounds:
                times[name].append(turn.time())
    return Timing(times)


def _turn(take: Callable[[int], list[float]], rounds: int, least: int) -> _Turn:
    (first,) = take(1)
    if first > SLOW:
        return _Turn(take, 0, 1, min(rounds, max(least, rounds // 5)))
    usual = min(take(2))
    if usual > BRIEF:
        return _Turn(take, 0, 1, rounds)
    return _Turn(take, 1, max(1, min(20, int(20 / usual))), rounds)


def _times(call: Call, repeats: int) -> list[float]:
    return [milliseconds(call) for _ in range(repeats)]


def milliseconds(call: Call) -> float:
    """The time of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) * 1e3


def rates() -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s read and written in place, the best of several.

    In place, as the first touch of fresh memory takes many times as long as the copy.
    """
    a = numbers((1536, 1536))
    product = jax.jit(jnp.matmul)
    long = numbers((8 << 20,))
    copy = jax.jit(lambda a: a + 1, donate_argnums=0)
    gemm = min(milliseconds(lambda: product(a, a)) for _ in range(10))
    moved = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        long = jax.block_until_ready(copy(long))
        moved = min(moved, time.perf_counter() - start)
    return 2 * 1536**3 / gemm * 1e3, 2 * long.nbytes / moved


def numbers(shape: tuple[int, ...]) -> jax.Array:
    """Normal numbers, the same ones each time."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
