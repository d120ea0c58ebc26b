"""The networks that `drop_in.py` times against PyTorch, with one block a stage."""

import argparse

import drop_in
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers.networks import NETWORKS
from peers.torch_process import CannotDo

from jaxbp.accelerate import accelerate

pytest.importorskip("flax")
pytest.importorskip("equinox")


@pytest.mark.parametrize("name", NETWORKS)
def test_accelerated_gradients_are_plain_jaxs(float64, name):
    case = drop_in.make(name, small=True)
    with jax.numpy_dtype_promotion("standard"):  # the frameworks' own layers mix dtypes
        ours, plain = (
            drop_in.gradients(loss, case, jnp.float64)
            for loss in (accelerate(case.loss), case.loss)
        )
    largest = max(np.abs(leaf).max() for leaf in plain)
    for mine, right in zip(ours, plain, strict=True):
        # The bias of a key before a softmax has no gradient, but for rounding.
        np.testing.assert_allclose(mine, right, rtol=1e-9, atol=1e-12 * largest)
    assert all(np.abs(leaf).max() > 1e-9 * largest for leaf in plain if leaf.ndim > 1)


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
    case = drop_in.make("wavenet", small=True)
    monkeypatch.setattr(drop_in, "make", lambda name: case)
    return sum(leaf.size for leaf in jax.tree.leaves(case.params))


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
