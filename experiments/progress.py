"""Watch a training: a bar on a terminal, a line an epoch elsewhere, and a patient Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType, TracebackType

import jax
from command import say
from results import Epoch
from tqdm import tqdm

_REFRESH = 0.2  # seconds between two looks at the loss


class Watch:
    """A context in which Ctrl-C asks the training to stop; a second Ctrl-C stops it at once."""

    def __init__(self, name: str, images: int, epochs: int) -> None:
        self.stopped = False
        self._epochs = epochs
        self._next_look = 0.0
        self._bar = tqdm(
            total=images,
            desc=name,
            unit=" images",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Watch:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        self._bar.close()

    def advance(self, epoch: int, images: int, loss: jax.Array) -> None:
        """Count a batch; look at its loss, which waits for it, only a few times a second."""
        self._bar.update(images)
        if not self._bar.disable and (now := time.monotonic()) >= self._next_look:
            self._bar.set_postfix_str(f"epoch {epoch}/{self._epochs}, loss {float(loss):.4f}")
            self._next_look = now + _REFRESH

    def epoch(self, measured: Epoch) -> None:
        """Say how an epoch went, where no bar says it."""
        if self._bar.disable:
            say(
                f"epoch {measured.epoch}/{self._epochs}  loss {measured.train_loss:.4f}  "
                f"test accuracy {measured.test_accuracy:.2%}  "
                f"{measured.images_per_second:,.0f} images/s"
            )

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
