"""The convolutions' table: its calls, what it counts and what it says of measurements."""

import json
import subprocess
import sys

import convolution_tables
import convolutions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timing
from command import BadInput
from peers.calls import CALLS, PHASES, Call

import jaxbp
from tests.daily import sample
from tests.experiments.conftest import EXPERIMENTS, users_environment
from tests.tolerance import assert_close


def shrunken(call):
    """The call with fewer examples, places, groups and channels, and everything else as it is."""
    groups = min(call.groups, 3)
    most = 64 if call.transposed and len(call.spatial) == 1 else 9
    return call._replace(
        batch=min(call.batch, 2),
        spatial=tuple(
            min(n, max(most - axis, call.dilation * (k - 1) + 1 + call.stride))
            for axis, (n, k) in enumerate(zip(call.spatial, call.kernel, strict=True))
        ),
        groups=groups,
        channels=groups * min(call.fan, 5),
        features=groups * min(call.features // call.groups, 4),
    )


def test_the_list_is_long_and_its_names_are_told_apart():
    assert len(CALLS) >= 40
    assert len({str(call) for call in CALLS}) == len(CALLS)


@pytest.mark.parametrize("call", sample(CALLS, 3), ids=str)
def test_a_call_accelerated_gives_the_numbers_of_lax_in_float64(call):
    call = shrunken(call)
    x, w, dy = convolutions.arguments(call, "gradients")
    plain = convolutions.with_gradients(convolutions.function(call))
    fast = convolutions.with_gradients(jaxbp.accelerate(convolutions.function(call)))
    actual = jax.jit(fast)(x, w, dy)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in (x, w, dy)]
        truth = jax.jit(plain)(*wide)
        magnitude = jax.jit(plain)(*map(jnp.abs, wide))
    terms = {
        "y": call.fan * np.prod(call.kernel),
        "dx": call.features // call.groups * np.prod(call.kernel),
        "dw": call.batch * np.prod(call.spatial if call.transposed else call.output),
    }
    assert actual[0].dtype == call.dtype
    for (name, n), *each in zip(terms.items(), actual, truth, magnitude, strict=True):
        assert_close(each[0], each[1], terms=int(n), magnitude=each[2], what=name)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_calls_output_has_the_sizes_it_says(call):
    x, w = (jax.ShapeDtypeStruct(s, call.dtype) for s in _shapes(call))
    y = jax.eval_shape(convolutions.function(call), x, w).shape
    spatial = y[2:] if call.layout == "channels-first" else y[1:-1]
    assert spatial == call.output


def _shapes(call):
    if call.layout == "channels-first":
        yield call.batch, call.channels, *call.spatial
        yield call.features, call.fan, *call.kernel
    else:
        yield call.batch, *call.spatial, call.channels
        yield *call.kernel, call.fan, call.features


def test_a_transposed_call_is_laxs_own():
    call = Call("transposed", 2, (5, 6), 3, (4, 4), 2, stride=2, padding=1, transposed=True)
    x, w = convolutions.arguments(call, "forward")
    y = convolutions.function(call)(x, w)
    np.testing.assert_array_equal(y, jax.lax.conv_transpose(x, w, (2, 2), "SAME"))


def test_operations_and_bytes_are_counted():
    call = Call("grouped", 2, (8, 8), 6, (3, 3), 4, stride=2, groups=2, dtype="bfloat16")
    terms = 3 * 3 * (6 // 2)
    assert call.operations("forward") == 2 * (2 * 4 * 4 * 4) * terms
    assert call.operations("gradients") == 3 * call.operations("forward")
    assert call.bytes("forward") == 2 * (2 * 8 * 8 * 6 + terms * 4 + 2 * 4 * 4 * 4)
    assert call.bytes("gradients") == 2 * call.bytes("forward")
    back = Call("transposed", 1, (4,), 5, (6,), 3, stride=2, padding=2, transposed=True)
    assert back.operations("forward") == 2 * 4 * 6 * 5 * 3
    assert back.output == (8,)


def test_strategies_are_those_that_were_chosen():
    call = Call("pointwise", 2, (8, 8), 16, (1, 1), 16)
    with convolutions.strategies() as taken:
        convolutions.compiled(call, "gradients", {}, jaxbp.accelerate)
    assert set(taken) == {"conv", "conv_input_grad", "conv_kernel_grad"}
    with convolutions.strategies() as taken, jaxbp.lowering.use("xla"):
        convolutions.compiled(call, "forward", {}, jaxbp.accelerate)
    assert taken == {"conv": "xla"}


def test_a_slow_contestant_takes_fewer_rounds(monkeypatch):
    monkeypatch.setattr(timing, "milliseconds", lambda call: call())
    measured = timing.measure({"jaxbp": lambda: 2.0, "plain": lambda: 800.0}, None, (), 15)
    assert len(measured.rounds["jaxbp"]) == 15
    assert len(measured.rounds["plain"]) == 3
    assert measured.against("plain")["ratio"] == 400


def against(ratio, peer="plain", ms=1.0):
    return {"peer": peer, "ms": ms, "ratio": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio}


def measured(call, phase, plain, torch, **more):
    rounds = {"jaxbp": [1.0] * 5, "plain": [plain] * 2, "torch default": [torch] * 5}
    fields = {
        "call": str(call),
        "kind": call.kind,
        "phase": phase,
        "strategies": {"conv": "xla", "conv_kernel_grad": "columns"},
        "ms": 1.0,
        "plain": against(plain),
        "torch": against(torch, "torch default", torch),
        "noise": None,
        "float32": None,
        "compile_seconds": {"plain": 0.5, "jaxbp": 1.0},
        "temporary_bytes": {"plain": 2_000_000, "jaxbp": 3_000_000},
        "operations": 4e6,
        "bytes": 1e6,
        "rounds": rounds,
    }
    return convolutions.Measured(**(fields | more))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_says_what_was_measured():
    said = cells(convolution_tables.line(measured(CALLS[0], "forward", 8.0, 0.5)))
    assert said[:6] == [str(CALLS[0]), "(2) 8.00", "1.00", "0.50", "8.00 [7.20, 8.80]", said[5]]
    assert said[6:] == ["0.50 / 1.00", "2.0 / 3.0", "y xla, dw columns"]


def test_without_plain_jax_the_tables_leave_it_out():
    call = Call("pointwise", 1, (2, 2), 2, (1, 1), 2)
    alone = convolutions.measure_call(call, "forward", convolutions.Options(None, 2, {}, False))
    assert cells(convolution_tables.line(alone))[1::2][:2] == ["-", "-"]
    assert cells(convolution_tables.summary([alone]).splitlines()[2])[2:] == ["1", *"----"]
    said = convolution_tables.shortfalls([alone])
    assert "Under 0.95× plain JAX: 0 of 0." in said
    assert "Compile" not in said


def test_means_are_geometric_and_leave_half_precision_out():
    ones = [
        measured(CALLS[0], "forward", 2.0, 1.0),
        measured(CALLS[1], "forward", 8.0, 0.25),
        measured(CALLS[-1], "forward", 100.0, 100.0, float32=against(0.5)),
    ]
    lines = [cells(line) for line in convolution_tables.summary(ones).splitlines()]
    assert ["forward", "all float32", "2", "4.00", "2.00", "0.50", "0.25"] in lines


def test_calls_below_what_is_asked_are_named():
    low, high = measured(CALLS[0], "forward", 0.9, 2.0), measured(CALLS[1], "forward", 2.0, 0.5)
    half = measured(CALLS[-1], "gradients", 2.0, 2.0, float32=against(0.5))
    said = convolution_tables.shortfalls([low, high, half])
    assert f"Under 0.95× plain JAX: 1 of 3:\n\n- {CALLS[0]} (forward) 0.900" in said
    assert f"Under 0.6× PyTorch: 1 of 3:\n\n- {CALLS[1]} (forward) 0.500" in said
    assert f"1 of 1:\n\n- {CALLS[-1]} (gradients) 0.50" in said
    assert "Compile seconds, in all: 1.5 plain, 3.0 accelerate; at most 2.00× plain's" in said


def test_bounds_are_the_larger_of_operations_and_bytes():
    ones = [measured(CALLS[0], "forward", 1.0, 0.5), measured(CALLS[1], "forward", 1.0, 2.0)]
    lines = convolution_tables.bounds(ones, convolutions.Run("", 1e10, 1e10)).splitlines()
    assert len(lines) == 3
    assert cells(lines[2])[5:] == ["0.40", "0.10", "products", "2.5×", "1.2×"]


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / "benchmark.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=users_environment(),
    )


def test_a_run_prints_its_table_and_writes_it(tmp_path):
    markdown, found, again = tmp_path / "table.md", tmp_path / "found.json", tmp_path / "again.md"
    name = "1-D 4x4096x1"
    files = ("--markdown", markdown, "--json", found)
    done = benchmark("--only-convolutions", name, "--rounds", 2, *files)
    assert done.returncode == 0, done.stderr
    assert markdown.read_text() in done.stdout
    results = json.loads(found.read_text())
    assert "steps" not in results
    assert [c["phase"] for c in results["convolutions"]["calls"]] == list(PHASES)
    assert all(c["call"].startswith(name) for c in results["convolutions"]["calls"])

    printed = benchmark("--measured", found, "--markdown", again)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == markdown.read_text() == again.read_text()


def test_parts_of_a_run_make_one_table(tmp_path):
    parts = []
    for number, call in enumerate(CALLS[:2]):
        run = convolutions.Run("jax, 5 rounds", 1e9 + number, 1e9 - number)
        ones = [measured(call, phase, 2.0, 2.0) for phase in PHASES]
        parts.append(tmp_path / f"{number}.json")
        parts[-1].write_text(json.dumps({"convolutions": convolutions.as_json(run, ones)}))
    run, ones = convolutions.read(parts)
    assert run == ("jax, 5 rounds", 1e9 + 1, 1e9)
    assert [m.phase for m in ones] == ["forward", "forward", "gradients", "gradients"]
    assert ones[0] == measured(CALLS[0], "forward", 2.0, 2.0)
    parts[0].write_text(
        json.dumps(
            {"convolutions": convolutions.as_json(run, [measured(CALLS[1], "forward", 3.0, 2.0)])}
        )
    )
    _, again = convolutions.read([parts[1], parts[0]])
    assert [m.plain["ratio"] for m in again] == [3.0, 2.0]  # what was measured last counts


@pytest.mark.parametrize("content", [None, "{", "{}", '{"convolutions": {"calls": [1]}}', "[1]"])
def test_a_file_that_holds_no_measurements_is_refused(tmp_path, content):
    path = tmp_path / "part.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=r"--measured .*part\.json"):
        convolutions.read([path])


def test_a_pattern_that_no_name_holds_is_refused():
    assert convolutions.chosen(["stem", "16x16/16"])[0].kind == "patches"
    with pytest.raises(BadInput, match="no call's name has 'attention' in it"):
        convolutions.chosen(["stem", "attention"])
