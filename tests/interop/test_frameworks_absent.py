"""Without a framework its adapter can be imported, and says which extra to install when used."""

import subprocess
import sys

import pytest

USES = {
    "flax": "import jaxbp.interop.flax as a; a.max_pool(jnp.ones((1, 2, 2, 1)), (2, 2))",
    "flax.nnx": "import jaxbp.interop.flax as a; a.accelerate(lambda x: x)",
    "equinox": "import jaxbp.interop.equinox as a; a.Conv2d",
    "dm-haiku": "import jaxbp.interop.haiku as a; a.max_pool(jnp.ones((1, 2, 1)), 2, 2, 'VALID')",
}


@pytest.mark.parametrize("framework", USES)
def test_absent(framework):
    module = framework.removeprefix("dm-").partition(".")[0]
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    program = f"""
import sys
sys.modules[{module!r}] = None
import jax.numpy as jnp
try:
    {USES[framework]}
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    name = framework.partition(".")[0]
    assert done.stdout == f"{name} is not installed: pip install jaxbp[interop]\n"
