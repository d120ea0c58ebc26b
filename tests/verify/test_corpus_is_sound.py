"""The corpus itself: right rules are right, wrong ones wrong where they say and nowhere else.

The truth is autodiff of the plain forward in float64, and one-sided differences on kinks; the
checker that the corpus examines lends its list of words alone. A sample every day, all with
JAXBP_TESTS=whole.
"""

import collections
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify.report.words import WORDS
from tests.daily import WHOLE, sample
from tests.verify.corpus import CASES, RIGHT, WRONG, Case, Problem
from tests.verify.corpus.marking import everyday

wrong_cases = list(WRONG) if WHOLE else everyday(WRONG, each=1)
right_cases = sample(RIGHT, every=6)

# 2^-24 is half an epsilon of float32, the coarsest dtype that a right rule computes in inside
# (float32-inside); no case adds more than a thousand roundings to one another.
FLOAT32_INSIDE = 1e3 * 2.0**-24
# An entry so much smaller than its leaf's largest may be what float64 sums have cancelled to.
CANCELLED = 2.0**-30
STEP = 1e-6
# A one-sided difference over STEP of a function with second derivatives below 20.
SLOPE_ERROR = 20 * STEP
# A right rule may have twice autodiff's own error, and rounds the result once.
ULPS_LOST = 2


class Called:
    """A function of a problem's float leaves alone, in one dtype (None: as they were given)."""

    def __init__(self, problem: Problem, fn: Callable[..., Any], dtype: Any = None) -> None:
        self.fn, self.dtype = fn, dtype
        paths, self.tree = jax.tree_util.tree_flatten_with_path((problem.args, {**problem.kwargs}))
        self.leaves = [leaf for _, leaf in paths]
        self.is_float = [
            not isinstance(leaf, (bool, int))
            and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            for leaf in self.leaves
        ]
        named = [self._name(problem, path) for path, _ in paths]
        self.names = list(itertools.compress(named, self.is_float))

    @staticmethod
    def _name(problem: Problem, path: Any) -> str:
        if path[0].idx == 1:
            return path[1].key + jax.tree_util.keystr(path[2:])
        parameters = list(inspect.signature(problem.fn).parameters)
        return parameters[path[1].idx] + jax.tree_util.keystr(path[2:])

    def floats(self) -> list[Any]:
        kept = itertools.compress(self.leaves, self.is_float)
        return [jnp.asarray(leaf, self.dtype) for leaf in kept]

    def __call__(self, *floats: Any) -> list[Any]:
        given = iter(floats)
        leaves = [next(given) if f else v for v, f in zip(self.leaves, self.is_float, strict=True)]
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        outputs = map(jnp.asarray, jax.tree.leaves(self.fn(*args, **kwargs)))
        return [y for y in outputs if jnp.issubdtype(y.dtype, jnp.floating)]

    def gradients(self, *floats: Any) -> list[Any]:
        """Cotangents of the float leaves, for a fixed random cotangent of the outputs."""
        outputs, pull = jax.vjp(self, *(floats or self.floats()))
        return list(pull(cotangents(outputs)))


def cotangents(outputs: list[Any]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in outputs]


def wide(arrays: Any) -> list[np.ndarray]:
    return [np.asarray(a).astype(np.float64) for a in jax.tree.leaves(arrays)]


def distances(got: Any, want: Any) -> list[float]:
    """How far each leaf is from the other, relative to the size of each of its entries."""
    apart = []
    for g, w in zip(wide(got), wide(want), strict=True):
        size = np.maximum(np.abs(w), np.abs(w).max(initial=0) * CANCELLED)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(g == w, 0.0, np.abs(g - w) / size)
        apart.append(float(np.nan_to_num(ratio, nan=np.inf).max(initial=0)))
    return apart


def differing(got: Any, want: Any) -> list[bool]:
    return [distance > FLOAT32_INSIDE for distance in distances(got, want)]


def in_float64(case: Case) -> tuple[Called, Called]:
    problem = case.build(0)
    return Called(problem, problem.fn, np.float64), Called(problem, problem.plain, np.float64)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def shown(where: str) -> list[Case]:
    found = [case for case in wrong_cases if case.shows == where]
    assert found, where
    return found


def test_names_are_unique_and_words_are_those_of_the_checker():
    counts = collections.Counter(case.name for case in CASES)
    assert [name for name, count in counts.items() if count > 1] == []
    assert {word for case in WRONG for word in case.diagnosis} <= set(WORDS)
    assert all(case.diagnosis and case.why and case.twin in counts for case in WRONG)
    assert len(WRONG) >= 60
    tested = set(TESTED)
    assert {case.shows for case in WRONG} == tested


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", right_cases, ids=repr)
def test_right_rule_is_right(case: Case):
    rule, plain = in_float64(case)
    floats = rule.floats()
    assert not any(differing(jax.jit(rule)(*floats), jax.jit(plain)(*floats)))
    if case.build(0).reference is None and not equal_gradients(rule, plain):
        assert breaks_the_slopes(rule, plain) is False
    elif case.build(0).reference is not None:
        assert equal_gradients(rule, plain)


def compiled_gradients(called: Called) -> list[Any]:
    """Compiled whole: one operation after the other takes ten programs in place of one."""
    return jax.jit(called.gradients)()


def equal_gradients(rule: Called, plain: Called) -> bool:
    try:
        return not any(differing(*map(compiled_gradients, (rule, plain))))
    except ValueError as error:
        if "while_loop" not in str(error):  # which autodiff does not reverse
            raise
        return False


def breaks_the_slopes(rule: Called, plain: Called) -> bool:
    """Whether some entry's gradient leaves the one-sided slopes in some direction."""
    floats = rule.floats()
    outputs, pull = jax.vjp(rule, *floats)
    rng = np.random.default_rng(1)
    random = [[rng.normal(size=x.shape) for x in floats] for _ in range(4)]
    together = [[np.ones(x.shape) for x in floats]]
    for direction in random + together:
        above, below = (
            plain(*[x + sign * STEP * d for x, d in zip(floats, direction, strict=True)])
            for sign in (1, -1)
        )
        for k, y in enumerate(outputs):
            for place in np.ndindex(y.shape):
                weights = [np.zeros(z.shape) for z in outputs]
                weights[k][place] = 1
                row = pull([jnp.asarray(w) for w in weights])
                slope = sum(float((g * d).sum()) for g, d in zip(row, direction, strict=True))
                sides = sorted(
                    [(above[k] - y)[place].item() / STEP, (y - below[k])[place].item() / STEP]
                )
                if not sides[0] - SLOPE_ERROR <= slope <= sides[1] + SLOPE_ERROR:
                    return True
    return False


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("gradient"), ids=repr)
def test_wrong_gradient_is_wrong_in_the_arguments_named(case: Case):
    rule, plain = in_float64(case)
    differ = differing(*map(compiled_gradients, (rule, plain)))
    wrong = itertools.compress(rule.names, differ)
    assert sorted(wrong) == sorted(case.arguments)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("kink"), ids=repr)
def test_wrong_at_a_kink_leaves_the_slopes_or_the_reference(case: Case):
    rule, plain = in_float64(case)
    if case.build(0).reference is None:
        assert breaks_the_slopes(rule, plain)
    else:
        assert any(differing(rule.gradients(), plain.gradients()))


@pytest.mark.parametrize("case", shown("structure"), ids=repr)
def test_wrong_structure_is_not_that_of_the_arguments(case: Case):
    problem = case.build(0)
    output, residuals = problem.fn.fwd(*problem.args)
    answer = problem.fn.bwd(residuals, jax.tree.map(jnp.ones_like, output))
    assert not fits(answer, problem.args)


def fits(answer: Any, args: Any) -> bool:
    """Whether every cotangent has its argument's tree, shape and dtype."""

    def same(argument: Any, cotangent: Any) -> bool:
        if not jnp.issubdtype(argument.dtype, jnp.floating):
            return cotangent is None or cotangent.dtype == jax.dtypes.float0
        shape, dtype = getattr(cotangent, "shape", None), getattr(cotangent, "dtype", None)
        return (shape, dtype) == (argument.shape, argument.dtype)

    try:
        return all(jax.tree.leaves(jax.tree.map(same, args, answer)))
    except ValueError:
        return False


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("second-order"), ids=repr)
def test_wrong_at_second_order_only(case: Case):
    rule, plain = in_float64(case)
    assert not any(differing(rule.gradients(), plain.gradients()))
    wrong = [
        name
        for k, name in enumerate(rule.names)
        if any(differing(second_gradients(rule, k), second_gradients(plain, k)))
    ]
    assert sorted(wrong) == sorted(case.arguments)


def second_gradients(called: Called, k: int) -> list[Any]:
    """The gradient of a random projection of leaf k's gradient, by leaves and by cotangents."""
    outputs = called(*called.floats())

    def pulled(floats: list[Any], weights: list[Any]) -> Any:
        return jax.vjp(called, *floats)[1](weights)[k]

    gradient, pull = jax.vjp(pulled, called.floats(), cotangents(outputs))
    return jax.tree.leaves(pull(cotangents([gradient])[0]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("jit"), ids=repr)
def test_wrong_under_jit_only(case: Case):
    rule, plain = in_float64(case)
    want = plain(*plain.floats()), plain.gradients()
    assert not any(differing((rule(*rule.floats()), rule.gradients()), want))
    try:
        got = jax.jit(rule)(*rule.floats()), jax.jit(rule.gradients)(*rule.floats())
    except jax.errors.JAXTypeError:
        return
    assert any(differing(got, want))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("state"), ids=repr)
def test_state_changes_the_gradient(case: Case):
    rule, plain = in_float64(case)
    inputs = [rule.floats(), [2 * x for x in rule.floats()]] * 2
    answers = [(rule.gradients(*x), plain.gradients(*x)) for x in inputs]
    assert any(any(differing(got, want)) for got, want in answers)


@pytest.mark.parametrize("case", shown("state-value"), ids=repr)
def test_state_changes_the_value(case: Case):
    problem = case.build(0)
    rule = Called(problem, problem.fn)
    assert any(differing(rule(*rule.floats()), rule(*rule.floats())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("interleaved"), ids=repr)
def test_state_is_overwritten_by_a_call_in_between(case: Case):
    rule, plain = in_float64(case)
    outputs, pull = jax.vjp(rule, *rule.floats())
    rule.gradients(*[2 * x for x in rule.floats()])
    assert any(differing(pull(cotangents(outputs)), plain.gradients()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("vmap"), ids=repr)
def test_wrong_under_vmap_only(case: Case):
    rule, plain = in_float64(case)
    floats = rule.floats()
    got, want = ((called(*floats), called.gradients()) for called in (rule, plain))
    assert not any(differing(got, want))
    wrong = False
    for axes in itertools.product((None, 0), repeat=len(floats)):
        if any(axis == 0 for axis in axes):
            several = [
                x if axis is None else jnp.stack([x, 2 * x, x - 1])
                for x, axis in zip(floats, axes, strict=True)
            ]
            got, want = (mapped(called, axes, several) for called in (rule, plain))
            wrong = wrong or got is None or any(differing(got, want))
    assert wrong


def mapped(called: Called, axes: tuple[Any, ...], floats: list[Any]) -> Any:
    """Values and gradients under vmap; None where it is refused."""

    def both(*x: Any) -> Any:
        outputs, pull = jax.vjp(called, *x)
        size = 1 + sum(leaf.sum() for leaf in x)  # each example has a cotangent of its own
        return outputs, pull([size * w for w in cotangents(outputs)])

    try:
        return jax.vmap(both, axes)(*floats)
    except (ValueError, TypeError):
        return None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("fwd-value"), ids=repr)
def test_fwd_has_another_value(case: Case):
    rule, _ = in_float64(case)
    assert any(differing(jax.vjp(rule, *rule.floats())[0], rule(*rule.floats())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", shown("value"), ids=repr)
def test_value_is_not_the_references(case: Case):
    rule, plain = in_float64(case)
    assert any(differing(rule(*rule.floats()), plain(*plain.floats())))


@pytest.mark.parametrize("case", shown("nan"), ids=repr)
def test_nan_for_a_finite_input_and_value(case: Case):
    problem = case.build(0)
    rule = Called(problem, problem.fn)
    assert all(np.isfinite(a).all() for a in wide([rule.floats(), rule(*rule.floats())]))
    finite = [np.isfinite(a).all() for a in wide(rule.gradients())]
    assert sorted(itertools.compress(rule.names, np.logical_not(finite))) == sorted(case.arguments)


@pytest.mark.parametrize("case", shown("precision"), ids=repr)
def test_digits_are_lost_in_the_given_dtype_only(case: Case):
    problem = case.build(0)
    rule, plain = Called(problem, problem.fn), Called(problem, problem.plain)
    with jax.enable_x64(True):
        exact_rule, exact = in_float64(case)
        truth = wide(exact.gradients())
        assert not any(differing(exact_rule.gradients(), truth))
    got, usual = rule.gradients(), plain.gradients()
    k = rule.names.index(case.arguments[0])
    unit = float(jnp.finfo(got[k].dtype).eps) * np.abs(truth[k]).max()
    errors = [np.abs(np.nan_to_num(wide(g)[k], nan=np.inf) - truth[k]).max() for g in (got, usual)]
    assert errors[0] > max(ULPS_LOST * unit, 2 * errors[1])


TESTED = (
    "gradient",
    "kink",
    "structure",
    "second-order",
    "jit",
    "state",
    "state-value",
    "interleaved",
    "vmap",
    "fwd-value",
    "value",
    "nan",
    "precision",
)
