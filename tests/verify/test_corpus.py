"""The checker, examined on the corpus: a sample every day, all of it with JAXBP_TESTS=whole.

`experiments/checker_exam.py` examines it on the whole corpus, beside the checkers of others.
"""

import pytest

from jaxbp.verify import check_vjp
from jaxbp.verify.report import Report
from tests.daily import WHOLE, sample
from tests.verify.corpus import RIGHT, WRONG, Case
from tests.verify.corpus.marking import ONLY_THERE, everyday, mark

SEEDS = range(1, 20 if WHOLE else 2)  # and seed 0, which is checked more thoroughly
AT_A_POINT = ("structure", "gradient", "finite-differences", "kinks", "linear", "nan")
CHEAP = AT_A_POINT if WHOLE else ("gradient", "kinks")
DIAGNOSED = 0.95

# Mistakes for which no word is found, or another one than the corpus has.
UNDIAGNOSED = (
    "close-numbers-expanded", "experts-unweighted", "gelu-tanh-derivative",
    "group-norm-one-group", "low-rank-of-the-input", "moving-average-decay", "scatter-add-hole",
    "segment-softmax-neighbour",
)  # fmt: skip

# The right rules that have most often misled a checker.
MISLEADING = (
    "relu", "abs", "max-pool-ties-first", "max-pool-ties-split", "max-tied", "logits-1e4",
    "clip-on-bound", "steep-step", "fast-periodic", "log-near-zero", "constant-offset",
    "sum-of-1e5", "layer-bfloat16", "dense-float16", "float32-inside", "dense-no-rows",
    "zero-inputs", "standardise-offset", "norm-at-zero", "ill-scaled-leaves",
    "dropout-explicit-key", "implicit-root", "unused-argument", "close-numbers",
    "softplus-saturated",
)  # fmt: skip

# Of these, a kink, a tie and half precision are checked in full every day.
IN_FULL = ("relu", "max-pool-ties-split", "layer-bfloat16")

wrong_cases = list(WRONG) if WHOLE else everyday(WRONG, each=1)
suspicious = sample((case for case in RIGHT if case.family == "suspicious"), every=3)
right_cases = [case for case in RIGHT if WHOLE or case in suspicious or case.name in MISLEADING]
twins = {case.twin for case in wrong_cases}
right_twins = [case for case in RIGHT if case.name in twins and case not in right_cases]


def report(case: Case, seed: int, checks: tuple[str, ...] | None) -> Report:
    problem = case.build(seed)
    return check_vjp(
        problem.fn,
        *problem.args,
        reference=problem.reference,
        kwargs=problem.kwargs,
        seed=seed,
        checks=checks,
    )


@pytest.mark.parametrize("case", wrong_cases, ids=repr)
def test_wrong_rule_is_refuted_blamed_on_the_right_argument_and_diagnosed(case: Case):
    found = report(case, 0, None if WHOLE or case.shows in ONLY_THERE else AT_A_POINT)
    marked = mark(case, found.findings)
    assert marked.refused, case.why
    assert marked.blamed, f"{case.arguments} expected\n{found}"
    if case.name not in UNDIAGNOSED:
        assert marked.diagnosed, f"{case.diagnosis} expected\n{found}"


def test_hardly_any_mistake_is_without_a_diagnosis():
    assert set(UNDIAGNOSED) <= {case.name for case in WRONG}
    assert len(UNDIAGNOSED) <= (1 - DIAGNOSED) * len(WRONG)


def test_unknown_counts_as_no_diagnosis():
    assert not [case for case in WRONG if "unknown" in case.diagnosis]


@pytest.mark.parametrize("case", right_cases, ids=repr)
def test_right_rule_is_never_refuted(case: Case):
    first = report(case, 0, None if WHOLE or case.name in IN_FULL else AT_A_POINT)
    assert first.ok, str(first)
    for seed in SEEDS:
        again = report(case, seed, CHEAP)
        assert again.ok, f"seed {seed}\n{again}"


@pytest.mark.parametrize("case", right_twins, ids=repr)
def test_right_twin_is_not_refuted(case: Case):
    found = report(case, 0, AT_A_POINT)
    assert found.ok, str(found)


def test_the_misleading_rules_are_in_the_corpus():
    assert set(MISLEADING) <= {case.name for case in RIGHT}
