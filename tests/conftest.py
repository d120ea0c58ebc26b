"""What holds for every test: devices, promotion, seeds and the profile of the property tests."""

import os
import signal
import tempfile

# shard_map needs several devices; the flag counts only before JAX starts its backend.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Most of a test's time goes to compiling: what one worker, or a program that a test starts, has
# compiled serves the others. A directory of this run alone, so no run depends on another.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="jaxbp-tests-")
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": programs.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

# On some CPUs XLA of jax 0.10.1 takes LLVM's preferences (`+prefer-no-gather`) for instructions,
# and complains of each program that it loads from a cache, which runs: openxla/xla#44565.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A suite started behind `&` ignores Ctrl-C, and so would the programs that it tries it on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import numpy as np
import pytest

# The helpers' asserts explain themselves as a test's do.
pytest.register_assert_rewrite("tests.tolerance", "tests.transforms")

jax.config.update("jax_numpy_dtype_promotion", "strict")

# The same examples on every machine and every run: a red build must be red again at home.
hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run and for every test alone or in company."""
    return np.random.default_rng(20240607)


@pytest.fixture
def float64():
    """Float64 for this test, in the float32 leg as well."""
    with jax.enable_x64(True):
        yield
