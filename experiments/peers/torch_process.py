"""PyTorch in a Python of its own, asked for its times line by line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from command import BadInput

LAYOUTS = ("default", "channels-last")


class CannotDo(BadInput):
    """PyTorch raised an exception: `torch.compile` where there is no compiler, say."""


class Torch:
    """A Python of its own that times PyTorch when asked."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).parent / "with_torch.py"
        threads = str(len(os.sched_getaffinity(0)))
        # Idle threads must not spin while the others are measured.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": threads}
        try:
            self.process = subprocess.Popen(
                [python, str(script), threads],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise BadInput(f"--torch-python {python} does not run: {error}") from None
        try:
            (self.version,) = self._answer()
        except BadInput:
            self.close()
            raise

    def time(self, *request: Any) -> list[float]:
        """Return the milliseconds of each repeat of a step or an operation."""
        times: list[float] = self.ask(*request)
        return times

    def ask(self, *request: Any) -> Any:
        """Return the answer to a request; raise `CannotDo` where PyTorch raised an exception."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if isinstance(answer, dict):
            raise CannotDo(f"PyTorch, asked for {request}: {answer['error']}")
        return answer

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            last = (self.process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise BadInput(f"the PyTorch process ended: {last}")
        try:
            return json.loads(line)
        except ValueError:
            raise BadInput(
                f"--torch-python must be a Python, but what it runs says {line!r}"
            ) from None

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
