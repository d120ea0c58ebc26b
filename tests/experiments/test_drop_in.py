"""What `drop_in.py` counts, and what it says to bad input."""

import argparse
import sys

import drop_in
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from others.case import Case


def small_network():
    def loss(params, state, x, labels):
        return jnp.mean(lax.conv(x, params, (1, 1), "SAME") ** 2), state

    x = np.ones((1, 2, 8, 8), np.float32)
    return Case(loss, jnp.ones((3, 2, 3, 3)), (), x, np.zeros(1, np.int32))


def test_faster_is_the_ratio_of_the_medians_beside_it(monkeypatch):
    monkeypatch.setattr(drop_in, "make", lambda name: small_network())
    asked = argparse.Namespace(rounds=4, no_time=False, no_check=True, explain=False)
    measured = drop_in.measure("small", asked)
    assert measured.rules == {"conv": 1}
    low, faster, high = measured.speedup
    assert faster == measured.plain_ms / measured.fast_ms
    assert low <= high
    assert f"{faster:.2f}×" in drop_in.row(measured)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "alexnet"), "invalid choice: 'alexnet'"),
        (("--rounds", "1"), "--rounds: expected a whole number of at least 2, got '1'"),
        (("--json", "/proc/nowhere"), "cannot write to --json /proc/nowhere"),
        (("--json", ""), "--json: expected a path, got ''"),
    ],
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, refusal, options, said):
    monkeypatch.setattr(drop_in, "measure", lambda *_: pytest.fail("it measures already"))
    assert said in refusal(drop_in.main, *options)


def test_a_framework_that_is_not_there(monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "others.with_flax", None)
    said = refusal(drop_in.main, "--only", "flax-mnist")
    assert "flax-mnist: " in said
    assert said.endswith("install jaxbp[interop]\n")
