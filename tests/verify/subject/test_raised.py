"""What an exception says in one line."""

from jaxbp.verify.subject.raised import LONGEST, first_line, named


def test_the_first_line_and_the_kind():
    assert named(TypeError("\n  not here\nbut there\n")) == "TypeError: not here"
    assert named(KeyError()) == "KeyError: "


def test_what_is_long_is_cut():
    said = first_line(ValueError("word " * 1000))
    assert len(said) <= LONGEST
    assert said.endswith(" …")
