"""What do the checkers of gradients catch?

`check_vjp`, `jax.test_util.check_grads` (orders 1 and 2) and `chex.assert_numerical_grads` are
asked about the same corpus: rules with a mistake that people make, each beside its right twin, and
right rules that look suspicious. The table says how many wrong rules each refused, how many right
ones, whether it named the argument and the mistake, and what it took.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import figures
import jax
import jax.numpy as jnp
from command import BadInput, Parser
from jax.test_util import check_grads
from results import refuse_file, write
from tqdm import tqdm

from jaxbp.verify import check_vjp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the corpus stands in tests/

from tests.verify.corpus import CASES, FAMILIES, Case, Problem
from tests.verify.corpus.marking import mark


class Answer(NamedTuple):
    """What one checker said to one case."""

    case: str
    family: str
    wrong: bool
    checker: str
    seed: int
    refused: bool
    blamed: bool | None
    diagnosed: bool | None
    words: tuple[str, ...]
    seconds: float


Checker = Callable[[Case, Problem, int], tuple[bool, bool | None, bool | None, tuple[str, ...]]]


def ask_check_vjp(
    case: Case, problem: Problem, seed: int
) -> tuple[bool, bool | None, bool | None, tuple[str, ...]]:
    """Ask the checker of this library."""
    report = check_vjp(
        problem.fn, *problem.args, reference=problem.reference, kwargs=problem.kwargs, seed=seed
    )
    marked = mark(case, report.findings)
    words = tuple(f"{f.argument or 'rule'}: {f.diagnosis}" for f in report.findings)
    return *marked, words


def of_floats(problem: Problem) -> tuple[Callable[..., Any], list[Any]]:
    """The function of the float leaves alone, as the numerical checkers want it."""
    leaves, tree = jax.tree.flatten((problem.args, dict(problem.kwargs)))
    is_float = [
        not isinstance(v, (bool, int)) and jnp.issubdtype(jnp.result_type(v), jnp.floating)
        for v in leaves
    ]

    def function(*floats: Any) -> list[Any]:
        given = iter(floats)
        full = [next(given) if f else v for v, f in zip(leaves, is_float, strict=True)]
        args, kwargs = jax.tree.unflatten(tree, full)
        outputs = jax.tree.leaves(problem.fn(*args, **kwargs))
        return [y for y in outputs if jnp.issubdtype(jnp.result_type(y), jnp.floating)]

    return function, [jnp.asarray(v) for v, f in zip(leaves, is_float, strict=True) if f]


def numerical(check: Callable[[Callable[..., Any], list[Any]], None]) -> Checker:
    """Make a checker of one that raises."""

    def ask(
        case: Case, problem: Problem, seed: int
    ) -> tuple[bool, bool | None, bool | None, tuple[str, ...]]:
        function, floats = of_floats(problem)
        try:
            check(function, floats)
        except Exception as error:  # a refusal is an AssertionError, a broken rule raises its own
            return True, None, None, (type(error).__name__,)
        return False, None, None, ()

    return ask


def check_with_chex(function: Callable[..., Any], floats: list[Any]) -> None:
    """Ask chex, which nothing else here needs."""
    import chex

    chex.assert_numerical_grads(function, floats, 1, modes=("rev",))


CHEX = "chex.assert_numerical_grads"
CHECKERS: dict[str, Checker] = {
    "check_vjp": ask_check_vjp,
    "check_grads, order 1": numerical(lambda f, x: check_grads(f, x, 1, modes=("rev",))),
    "check_grads, order 2": numerical(lambda f, x: check_grads(f, x, 2, modes=("rev",))),
    CHEX: numerical(check_with_chex),
}


def ask(name: str, case: Case, seed: int) -> Answer:
    """Put one case to one checker."""
    problem = case.build(seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rules that divide by zero are part of the corpus
        refused, blamed, diagnosed, words = CHECKERS[name](case, problem, seed)
    seconds = time.perf_counter() - began
    return Answer(
        case.name, case.family, case.wrong, name, seed, refused, blamed, diagnosed, words, seconds
    )


class Row(NamedTuple):
    """One line of the table."""

    checker: str
    wrong: int
    caught: int
    right: int
    refused: int
    """Right rules refused at any of the seeds."""
    blamed: int | None
    diagnosed: int | None
    median_seconds: float
    total_seconds: float


def row(checker: str, answers: Sequence[Answer]) -> Row:
    """Count one checker's answers; seeds after the first are only asked about right rules."""
    own = [a for a in answers if a.checker == checker]
    wrong = [a for a in own if a.wrong]
    right = {a.case for a in own if not a.wrong}
    speaks = any(a.blamed is not None for a in own)
    return Row(
        checker,
        len(wrong),
        sum(a.refused for a in wrong),
        len(right),
        len({a.case for a in own if not a.wrong and a.refused}),
        sum(bool(a.blamed) for a in wrong) if speaks else None,
        sum(bool(a.diagnosed) for a in wrong) if speaks else None,
        statistics.median([a.seconds for a in own]) if own else 0.0,
        sum(a.seconds for a in own),
    )


def table(rows: Sequence[Row]) -> str:
    """The table as Markdown, as the README has it."""
    lines = [
        "| checker | wrong rules caught | right rules refused | right argument named "
        "| mistake named | median s | total s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        named = ["-" if n is None else f"{n} of {r.wrong}" for n in (r.blamed, r.diagnosed)]
        lines.append(
            f"| {r.checker} | {r.caught} of {r.wrong} | {r.refused} of {r.right} | {named[0]} "
            f"| {named[1]} | {r.median_seconds:.2f} | {r.total_seconds:.0f} |"
        )
    return "\n".join(lines)


def mistakes(answers: Sequence[Answer]) -> list[str]:
    """One line for each case in which `check_vjp` was not wholly right."""
    lines = []
    for a in answers:
        if a.checker == "check_vjp":
            said = ", ".join(a.words) or "nothing"
            if not a.wrong and a.refused:
                lines.append(f"refused a right rule  {a.case} (seed {a.seed}): {said}")
            elif a.wrong and not a.refused:
                lines.append(f"missed a wrong rule   {a.case}")
            elif a.wrong and not a.blamed:
                lines.append(f"blamed another        {a.case}: {said}")
            elif a.wrong and not a.diagnosed:
                lines.append(f"another diagnosis     {a.case}: {said}")
    return lines


def picture(answers: Sequence[Answer]) -> bytes:
    """Draw by family which share of the wrong rules, and of the right ones, each refused."""
    names = list(dict.fromkeys(a.checker for a in answers))
    families = list(dict.fromkeys(a.family for a in answers))
    colours = (figures.BLUE, figures.ORANGE, "#e9a06b", figures.MUTED)
    with figures.style():
        figure = figures.blank(10, 0.55 * len(families) + 1.6)
        for axes, wrong in zip(figure.subplots(1, 2, sharey=True), (True, False), strict=True):
            for k, name in enumerate(names):
                shares = []
                for family in families:
                    asked: dict[str, bool] = {}
                    for a in answers:
                        if (a.checker, a.family, a.wrong) == (name, family, wrong):
                            asked[a.case] = asked.get(a.case, False) or a.refused
                    shares.append(100 * sum(asked.values()) / len(asked) if asked else 0.0)
                places = [
                    i + (k - (len(names) - 1) / 2) * 0.8 / len(names) for i in range(len(families))
                ]
                axes.barh(places, shares, 0.72 / len(names), color=colours[k % 4], label=name)
            axes.set_title("Wrong rules caught" if wrong else "Right rules refused")
            axes.set_xlabel("% of the rules")
            axes.set_xlim(0, 100)
            axes.set_yticks(range(len(families)), families)
            axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(names)
        )
        return figures.png(figure)


def chosen(families: Iterable[str], pattern: str, every: int) -> list[Case]:
    """The cases asked for."""
    wanted = set(families)
    found = [
        case
        for case in CASES
        if (not wanted or case.family in wanted) and fnmatch.fnmatch(case.name, pattern)
    ][::every]
    if not found:
        raise BadInput(f"no case is called {pattern!r}: try --list")
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        description="Examine checkers of gradients on a corpus of wrong and right rules."
    )
    parser.add_argument("--family", action="append", choices=[f.name for f in FAMILIES], default=[])
    parser.add_argument("--cases", default="*", metavar="PATTERN", help="such as 'max-pool-*'")
    parser.add_argument(
        "--every", type=command.positive_int, default=1, help="every n-th case only"
    )
    parser.add_argument("--checker", action="append", choices=list(CHECKERS), default=[])
    parser.add_argument(
        "--seeds", type=command.positive_int, default=1, help="for right rules (default: 1)"
    )
    parser.add_argument("--json", type=command.path, metavar="FILE", help="every answer")
    parser.add_argument("--out", type=command.path, metavar="PNG", help="a picture by family")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    return parser.parse_args()


def examine(cases: Sequence[Case], checkers: Sequence[str], seeds: int) -> list[Answer]:
    """Ask every checker about every case; Ctrl-C ends it with what there is."""
    questions = ((c, s) for c in cases for s in range(1 if c.wrong else seeds))
    count = sum(1 if c.wrong else seeds for c in cases)
    answers: list[Answer] = []
    with tqdm(total=count, unit="case", disable=not sys.stderr.isatty(), leave=False) as bar:
        try:
            for case, seed in questions:
                bar.set_postfix_str(case.name)
                answers += [ask(name, case, seed) for name in checkers]
                bar.update()
        except KeyboardInterrupt:
            command.say(f"interrupted after {bar.n} of {count}: the table is of these only")
    return answers


def main() -> int:
    """Examine, print the table, keep the answers."""
    args = parse()
    cases = chosen(args.family, args.cases, args.every)
    if args.list:
        for case in cases:
            command.say(
                f"{'wrong' if case.wrong else 'right'}  {case.family:14} {case.name}: {case.why}"
            )
        return 0
    refuse_file("--json", args.json)
    refuse_file("--out", args.out)
    checkers = args.checker or list(CHECKERS)
    if CHEX in checkers and importlib.util.find_spec("chex") is None:
        raise BadInput(f"{CHEX}: chex is not installed; install jaxbp[test]")
    answers = examine(cases, checkers, args.seeds)
    rows = [row(name, answers) for name in checkers]
    command.say(table(rows))
    if lines := mistakes(answers):
        command.say("\nWhere check_vjp was not wholly right:\n" + "\n".join(lines))
    if args.json is not None:
        kept = {
            "jax": jax.__version__,
            "seeds": args.seeds,
            "table": [r._asdict() for r in rows],
            "answers": [a._asdict() for a in answers],
        }
        write(args.json, (json.dumps(kept, indent=1) + "\n").encode())
    if args.out is not None and answers:
        write(args.out, picture(answers))
    return 0


if __name__ == "__main__":
    command.run(main)
