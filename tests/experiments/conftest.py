"""Scripts import the modules beside them; tests of these modules look where the scripts do."""

import os
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))


def users_environment() -> dict[str, str]:
    """The environment of a user who starts a script: no flags and no float64 of the tests."""
    own = ("XLA_FLAGS", "JAX_ENABLE_X64")
    return {name: value for name, value in os.environ.items() if name not in own}


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run a script's main with these words, and return what it says: one line, with status 2."""
    import command  # the script's own way to start, on the path from here on

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        with pytest.raises(SystemExit) as leave:
            command.run(main)
        assert leave.value.code == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        return err

    return run
