"""Scripts import the modules beside them; tests of these modules look where the scripts do."""

import os
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))


def users_environment() -> dict[str, str]:
    """The environment of a user who starts a script: no flags and no float64 of the tests."""
    own = ("XLA_FLAGS", "JAX_ENABLE_X64")
    return {name: value for name, value in os.environ.items() if name not in own}
