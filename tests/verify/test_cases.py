"""The library's own table of cases: whole, and each case fit to be checked."""

import importlib
import pkgutil

import jax
import numpy as np
import pytest

import jaxbp.rules
from jaxbp.cases import CASES
from jaxbp.verify import check_vjp
from jaxbp.verify.cli import spec


def _arguments(case):
    return tuple(spec.draw(spec.parse(text), np.random.default_rng(0)) for text in case.args)


def test_every_rule_has_a_case():
    rules = set()
    for module in pkgutil.iter_modules(jaxbp.rules.__path__):
        names = vars(importlib.import_module(f"jaxbp.rules.{module.name}"))
        rules |= {name.removesuffix("_bwd") for name in names if name.endswith("_bwd")}
    assert rules - {case.function.__name__ for case in CASES} == set()


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_can_be_called_and_its_reference_too(case):
    args = _arguments(case)
    ours = jax.eval_shape(lambda: case.function(*args, **case.kwargs))
    if case.reference is not None:
        theirs = jax.eval_shape(lambda: case.reference(*args, **case.kwargs))
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_one_case_whole():
    (case,) = [case for case in CASES if case.name == "sigmoid"]
    report = check_vjp(case.function, *_arguments(case), reference=case.reference)
    assert report.ok, str(report)
