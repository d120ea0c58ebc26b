"""The README's Python runs as it stands there, and prints what the README says that it prints."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxbp

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)
SECTIONS = {
    section.partition("\n")[0]: BLOCK.findall(section)
    for section in README.split("\n## ")
    if BLOCK.search(section)
}


def their_loss(params, batch):
    return jnp.mean(lax.conv(batch, params, (1, 1), "SAME") ** 2)


# What a section's reader brings along.
GIVEN = {
    "Somebody else's model": {
        "jax": jax,
        "jaxbp": jaxbp,
        "loss": their_loss,
        "params": jnp.ones((3, 2, 3, 3)),
        "batch": jnp.ones((1, 2, 8, 8)),
    }
}


def tolerance(text):
    """What rounding was measured to do, and the text without it: machines differ in it."""
    numbers = [float(number) for number in re.findall(r"allowed +(\S+)", text)]
    return numbers, re.sub(r"allowed +\S+", "allowed", text)


@pytest.mark.parametrize("section", SECTIONS)
def test_python(section, capsys):
    names = dict(GIVEN.get(section, {}))
    for code, sample in SECTIONS[section]:
        capsys.readouterr()
        exec(code, names)
        printed = capsys.readouterr().out
        assert not re.fullmatch(r"(.+)\1", printed, re.S), "printed twice"
        numbers, rest = tolerance(printed)
        shown, sample = tolerance(sample)
        assert numbers == pytest.approx(shown, rel=0.1, abs=0)
        for part in filter(None, sample.split("…\n")):
            assert part in rest
            rest = rest.partition(part)[2]
