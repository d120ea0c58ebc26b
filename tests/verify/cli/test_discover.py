"""Discovery: every rule of a package, once, wherever it hides."""

import itertools
import textwrap

import pytest

from jaxbp.verify.cli.discover import Failure, discover
from jaxbp.verify.cli.failure import reason

_names = (f"discovered_{number}" for number in itertools.count())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of the given files and give its (fresh) name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        name = next(_names)
        for path, text in {"__init__": "", **files}.items():
            file = tmp_path / name / f"{path.replace('__in__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text).replace("PACKAGE", name))
        return name

    return write


RULE = """
import jax

@jax.custom_vjp
def rule(x):
    return x

rule.defvjp(lambda x: (x, None), lambda _, dy: (dy,))
"""


def test_a_rule_is_listed_with_its_line(package):
    name = package(deep__in____init__="", deep__in__er=RULE)
    (rule,), failures = discover(name)
    assert rule.target == f"{name}.deep.er:rule"
    assert rule.file.endswith("deep/er.py")
    assert rule.line == 4
    assert rule.remark == ""
    assert failures == []


def test_a_plain_module_will_do(package):
    name = package(one=RULE)
    assert [rule.target for rule in discover(f"{name}.one")[0]] == [f"{name}.one:rule"]


def test_a_rule_under_two_names_is_listed_at_its_own(package):
    name = package(
        __init__="from PACKAGE.z import rule as other, rule", z=RULE, a="from PACKAGE import rule"
    )
    assert [rule.target for rule in discover(name)[0]] == [f"{name}.z:rule"]


def test_rules_from_elsewhere_are_not_listed(package):
    elsewhere = package(home=RULE)
    name = package(here=f"from {elsewhere}.home import rule")
    assert discover(name) == ([], [])


def test_attributes_of_classes_and_wrapped_rules_are_found(package):
    name = package(
        hidden="""
        import functools
        import jax

        class Outer:
            class Inner:
                @staticmethod
                @jax.custom_vjp
                def static(x):
                    return x

            @jax.custom_vjp
            def plain(x):
                return x

        @jax.jit
        @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
        def jitted(x, n):
            return x

        bound = functools.partial(jax.custom_vjp(lambda x, n: x), n=2)
        """
    )
    rules, _ = discover(name)
    assert {rule.target.partition(":")[2] for rule in rules} == {
        "Outer.Inner.static",
        "Outer.plain",
        "jitted",
        "bound",
    }
    assert {rule.remark for rule in rules} == {"no defvjp yet"}


def test_rules_made_inside_functions_are_read_from_the_source(package):
    name = package(
        factory="""
        import functools
        from jax import custom_vjp
        import jax

        def make(n):
            @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
            def rule(m, x):
                return x
            return rule

        class Layer:
            def __call__(self, x):
                return custom_vjp(lambda x: x)(x)

        def uses_none(x):
            return x
        """
    )
    rules, _ = discover(name)
    assert [(rule.target.partition(":")[2], rule.line) for rule in rules] == [
        ("make.<locals>.rule", 7),
        ("Layer.__call__.<locals>", 14),
    ]


def test_modules_that_do_not_import_are_lines_not_crashes(package):
    name = package(
        a="import no_such_module_anywhere",
        b="raise SystemExit(3)",
        c="def f(:",
        d="raise ValueError('two\\nlines')",
        e=RULE,
        __main__="raise RuntimeError('discovery must not run a program')",
    )
    rules, failures = discover(name)
    assert [rule.target for rule in rules] == [f"{name}.e:rule"]
    assert [failure.module for failure in failures] == [f"{name}.{letter}" for letter in "abcd"]
    assert failures[0].reason == ("ModuleNotFoundError: No module named 'no_such_module_anywhere'")
    assert failures[3] == Failure(f"{name}.d", "ValueError: two lines")


def test_a_package_that_is_not_there_raises():
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        discover("no_such_package_anywhere")


def test_reason_is_one_line():
    assert reason(ValueError("a\n  b")) == "ValueError: a b"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
