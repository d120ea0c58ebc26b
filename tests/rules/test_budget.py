"""How much code the rules are: to grow is a decision, made by raising a number here."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import jaxbp.rules

RULES = Path(jaxbp.rules.__file__).parent

# Lines of code: without blank lines, comments and docstrings.
BUDGET = {
    "activation.py": 183,
    "block.py": 76,
    "conv.py": 193,
    "dense.py": 60,
    "loss.py": 178,
    "pool.py": 228,
    "subsample.py": 122,
}

NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def lines_of_code(source):
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            docstrings |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings)


def test_what_counts_as_code():
    source = (
        '"""One\n\ntwo."""\n\n# three\nx = (\n    1,  # four\n)\n\n\ndef f():\n    """Five."""\n'
    )
    assert lines_of_code(source) == 4
    assert lines_of_code('x = """\n\n"""\n') == 3


def test_every_file_has_a_budget():
    assert {path.name for path in RULES.glob("*.py")} - {"__init__.py"} == BUDGET.keys()


@pytest.mark.parametrize("name", BUDGET)
def test_a_rule_is_as_much_code_as_its_budget(name):
    lines = lines_of_code((RULES / name).read_text())
    assert lines <= BUDGET[name], "more code: if it is worth it, raise the budget"
    assert lines == BUDGET[name], "less code: lower the budget, so that it stays so"
