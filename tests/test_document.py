"""No formula of the document without a function that cites it and a test that names it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORMULAS = [
    *(f"2.{n}" for n in range(1, 13)),
    *(f"3.{n}" for n in range(1, 10)),
    *(f"4.{n}" for n in range(1, 5)),
    *(f"5.{n}" for n in range(1, 7)),
]


def cited(text):
    """The formulas that a text names: (3.2), or (3.6) to (3.8)."""
    found = set(re.findall(r"\((\d\.\d+)\)", text))
    for chapter, first, again, last in re.findall(r"\((\d)\.(\d+)\) to \((\d)\.(\d+)\)", text):
        assert chapter == again, f"a range over chapters: {first} to {last}"
        found |= {f"{chapter}.{n}" for n in range(int(first), int(last) + 1)}
    return found


def functions(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def citing_functions():
    """Formula -> the functions whose docstring has it under `Source:`."""
    table = {}
    for path, node in functions("jaxbp"):
        for source in re.findall(
            r"Source: (.*?)(?:\n\s*\n|$)", ast.get_docstring(node) or "", re.S
        ):
            for formula in cited(source):
                table.setdefault(formula, []).append(f"{path.name}:{node.name}")
    return table


def naming_tests():
    """Formula -> the tests whose docstring names it."""
    table = {}
    for path, node in functions("tests"):
        if node.name.startswith("test_"):
            for formula in cited(ast.get_docstring(node) or ""):
                table.setdefault(formula, []).append(f"{path.name}:{node.name}")
    return table


@pytest.fixture(scope="module")
def citations():
    return citing_functions(), naming_tests()


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_function_cites_it_and_a_test_names_it(formula, citations):
    code, tests = citations
    assert formula in code, f"no function has ({formula}) under Source:"
    assert formula in tests, f"no test names ({formula})"


def test_nothing_else_is_cited(citations):
    code, tests = citations
    assert set(code) | set(tests) <= set(FORMULAS)


def test_these_are_the_documents_formulas():
    document = (ROOT / "docs" / "document.md").read_text()
    assert re.findall(r"^ +\((\d\.\d+)\)", document, re.M) == FORMULAS
