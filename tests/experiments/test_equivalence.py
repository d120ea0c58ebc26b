"""The comparison of two trainings: that the real ones agree, and that it would see if not."""

import re
import sys

import command
import equivalence
import jax
import numpy as np
import pytest
import sensitivities

from tests.experiments.test_train import run


def test_rules_train_as_autodiff_does(tmp_path):
    status, out, err = run("--steps", 25, "--out", tmp_path, script="equivalence.py")
    assert (status, err) == (0, "")
    assert float(re.search(r"difference of the losses: (\S+)", out)[1]) <= 1e-10
    first, last = map(float, re.search(r"loss (\S+) to (\S+)", out).groups())
    assert last < first / 2  # it trained
    assert (tmp_path / "equivalence.png").read_bytes()[-8:-4] == b"IEND"


@pytest.mark.parametrize(
    ("off", "status"), [(0, 0), (0.9e-10, 0), (1.1e-10, 1), (-1.1e-10, 1), (np.nan, 1)]
)
def test_tolerance(tmp_path, monkeypatch, capsys, off, status):
    def losses(model, options, steps):
        result = np.linspace(2, 1, steps)
        if options.rules == "manual":
            result[3] *= 1 + off
        return result

    monkeypatch.setattr(equivalence, "losses", losses)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["equivalence.py", "--steps", "9", "--out", str(tmp_path)])
    assert equivalence.main() == status
    out = capsys.readouterr().out
    assert ("ABOVE" in out) == bool(status)
    if off:
        assert "at step 4" in out


@pytest.mark.parametrize("script", [equivalence, sensitivities])
def test_an_empty_folder_name_is_one_line_and_status_2(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "--out="])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(SystemExit) as leave:
        command.run(script.main)
    assert leave.value.code == 2
    err = capsys.readouterr().err
    assert "--out: expected a path, got ''" in err
    assert err.count("\n") == 1
