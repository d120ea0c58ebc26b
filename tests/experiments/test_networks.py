"""The networks that `drop_in.py` times against PyTorch, with one block a stage."""

import argparse

import drop_in
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from others.case import Case
from peers.networks import NETWORKS
from peers.torch_process import CannotDo

from jaxbp.accelerate import accelerate

pytest.importorskip("flax")
pytest.importorskip("equinox")


# Compiled in half the time; the sums are the same.
QUICKLY = {"xla_backend_optimization_level": 0}


def gradients(loss, case):
    params, state, x = (
        drop_in.as_dtype(tree, jnp.float64) for tree in (case.params, case.state, case.x)
    )
    compiled = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICKLY)
    return jax.tree.leaves(compiled(params, state, x, case.labels)[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_accelerated_gradients_are_plain_jaxs(float64, name):
    with jax.numpy_dtype_promotion("standard"):  # float32 parameters are drawn in float64 mode
        case = drop_in.make(name, small=True)
        ours, plain = (gradients(loss, case) for loss in (accelerate(case.loss), case.loss))
    largest = max(np.abs(leaf).max() for leaf in plain)
    assert largest > 1e-3
    for mine, right in zip(ours, plain, strict=True):
        # The bias of a key before a softmax has no gradient, but for rounding.
        np.testing.assert_allclose(mine, right, rtol=1e-9, atol=1e-12 * largest)


class Twin:
    """A PyTorch process that has one answer for each kind of request."""

    def __init__(self, parameters, compiles=True):
        self.parameters, self.compiles, self.asked = parameters, compiles, []

    def ask(self, kind, name):
        assert kind == "parameters"
        return self.parameters

    def time(self, kind, name, layout, repeats):
        self.asked.append(layout)
        if layout == "channels-last":
            raise CannotDo("signals have no such format")
        if not self.compiles and "compiled" in layout:
            raise CannotDo("no compiler")
        return [600.0] * repeats


@pytest.fixture
def wavenet(monkeypatch):
    """A network of nine parameters in WaveNet's place; the number of them."""

    def loss(params, state, x, labels):
        return jnp.mean(lax.conv(x, params, (1, 1), "SAME") ** 2), state

    x = np.ones((1, 1, 8, 8), np.float32)
    case = Case(loss, jnp.ones((1, 1, 3, 3)), (), x, np.zeros(1, np.int32))
    monkeypatch.setattr(drop_in, "make", lambda name: case)
    monkeypatch.setattr(drop_in, "rates", lambda: (1e9, 1e9))
    return 9


def asked(**changed):
    options = {"rounds": 2, "no_time": False, "no_check": True, "explain": False}
    return argparse.Namespace(**options, no_compile=False, **changed)


@pytest.mark.parametrize("compiles", [True, False])
def test_pytorch_stands_in_the_table(wavenet, compiles):
    twin = Twin(wavenet, compiles)
    measured = drop_in.measure("wavenet", asked(), twin)
    assert measured.torch["peer"] == "torch default"
    assert measured.torch["ratio"] == 600 / measured.fast_ms
    assert f"| 600 (default) | {'600' if compiles else 'does not compile'} |" in drop_in.markdown(
        [measured]
    )
    if not compiles:
        assert measured.torch_compiled == "no compiler"
    assert "times PyTorch's speed" in drop_in.summary([measured])[1]


def test_a_twin_of_another_size_is_refused(wavenet):
    with pytest.raises(
        drop_in.BadInput, match=f"wavenet: {wavenet} parameters in JAX, {wavenet + 1} in PyTorch"
    ):
        drop_in.measure("wavenet", asked(), Twin(wavenet + 1))
