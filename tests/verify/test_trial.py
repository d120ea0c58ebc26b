"""What a check compiles serves the next one, unless something has changed."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp, trial
from tests.verify.rules import normal, rule

QUICK = ("gradient",)


def sine(bwd):
    return rule(jnp.sin, bwd)


def right(residuals, dy):
    return (dy * jnp.cos(residuals[0]),)


def wrong(residuals, dy):
    return (2 * dy * jnp.cos(residuals[0]),)


def kept(fn):
    return [t for t in trial._TRIALS.values() if t.subject.fn is fn]


def test_a_loop_over_seeds_compiles_once():
    fn = sine(right)
    trials = []
    for seed in range(3):
        assert check_vjp(fn, normal(4, seed=seed), seed=seed, checks=QUICK).ok
        trials += kept(fn)
    assert len(trials) == 3
    assert trials[0] is trials[1] is trials[2]


def test_a_refuted_reference_is_refuted_again():
    fn, x = sine(right), normal(4)
    for seed in (0, 0, 1):
        report = check_vjp(fn, x, reference=doubled_sine, seed=seed, checks=QUICK)
        assert [f.check for f in report.findings] == ["value"]


def doubled_sine(x):
    return 2 * jnp.sin(x)


def test_a_rule_defined_again_is_judged_anew():
    fn, x = sine(wrong), normal(4)
    assert not check_vjp(fn, x).ok
    fn.defvjp(lambda x: (jnp.sin(x), (x,)), right)
    assert check_vjp(fn, x).ok
    fn.defvjp(lambda x: (jnp.sin(x), (x,)), wrong)
    assert not check_vjp(fn, x).ok


@pytest.mark.parametrize("make", [float, lambda v: jnp.full(4, v)])
def test_what_a_rule_calls_may_change(make):
    factor = [make(1.0)]
    fn = sine(lambda residuals, dy: (factor[0] * dy * jnp.cos(residuals[0]),))
    assert check_vjp(fn, normal(4), checks=QUICK).ok
    factor[0] = make(2.0)
    assert not check_vjp(fn, normal(4), checks=QUICK).ok


def test_static_arguments_that_are_equal_and_differ():
    fn = jax.custom_vjp(lambda x, n: x * (1 if n is True else 3), nondiff_argnums=(1,))
    fn.defvjp(lambda x, n: (fn(x, n), None), lambda n, _, dy: (dy * (1 if n is True else 4),))
    assert check_vjp(fn, normal(4), True, checks=QUICK).ok
    assert not check_vjp(fn, normal(4), 1, checks=QUICK).ok
