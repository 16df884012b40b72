"""A finding without its line has to be searched for."""

import pytest
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from deployments.checks.document import Document, read_all, shown

TEXT = """\
name: one
list:
  - a: 1
  - a: 2
    b: on
---
text: |
  b: 1
"""


def test_every_key_and_item_has_its_line() -> None:
    first, second = read_all(TEXT)
    assert first.value == {"name": "one", "list": [{"a": 1}, {"a": 2, "b": True}]}
    assert [first.line(path) for path in [("name",), ("list",), ("list", 0), ("list", 1, "b")]] == [1, 2, 3, 5]
    assert second.line(("text",)) == 7
    assert second.text_line(("text",)) == 8


def test_key_given_twice_is_refused_at_its_line() -> None:
    """Ray takes the last one; the first, perhaps the one that was changed, has no effect."""
    with pytest.raises(DuplicateKeyError) as refused:
        list(read_all("a: 1\nb:\n  c: 1\n  c: 2\n", first_line=10))
    assert refused.value.problem_mark.line + 1 == 13


def test_place_beyond_the_document_gets_the_line_of_what_is_there() -> None:
    """A validator names types that it tried, and keys that are missing."""
    [document] = read_all("a:\n  b: 1\n")
    assert document.line(("a", "dict[str,any]", "b")) == 2
    assert document.line(("a", "missing")) == 1
    assert document.line(("nothing",)) == 1
    assert Document(None).line(("nothing",)) == 1


def test_text_within_a_text_keeps_the_lines_of_the_file() -> None:
    [inner] = read_all("b: 1\nc: 2\n", first_line=8)
    assert inner.line(("c",)) == 9


def test_what_is_not_yaml_says_so() -> None:
    with pytest.raises(MarkedYAMLError):
        list(read_all("a: [1"))


def test_path_is_written_as_people_do() -> None:
    assert shown(("applications", 0, "args", "model")) == "applications[0].args.model"
