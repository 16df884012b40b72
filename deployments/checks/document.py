"""A YAML document with the line of everything in it, and what is found wrong at one of its places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML as Reader
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list places from the root of a document to one of its values."""
YAML: TypeAlias = Mapping[str, Any]
"""What was read from a file: every type."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    path: Path
    problem: str
    """What is wrong, without the place."""
    remedy: str
    """What to do, as a sentence."""
    breaks: bool = False
    """The document has not the form that further checks rely on."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document."""

    value: Any
    first_line: int = 1
    """The line, in its file, of the text that it is part of."""

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the innermost part of a path that is there; a validator's path may lead beyond the document."""
        part, line = self.value, self.first_line
        for step in path:
            marks = part.lc.data if isinstance(part, CommentedMap | CommentedSeq) else None
            if marks and step in marks:
                line, part = marks[step][0] + self.first_line, part[step]
        return line

    def text_line(self, path: Path) -> int:
        """The line on which the text of a value begins: below its key, where it is a block (`key: |`)."""
        value = self.value
        for step in path:
            value = value[step]
        return self.line(path) + isinstance(value, LiteralScalarString | FoldedScalarString)


def read_all(text: str, first_line: int = 1) -> Iterator[Document]:
    """Read every document of a stream, as Ray does: YAML 1.1, in which `on` is true.

    Args:
        text: YAML.
        first_line: Line at which the text begins, where it is part of another file.

    Raises:
        ruamel.yaml.error.YAMLError: It is not YAML, or a mapping has a key twice, of which the last would count.
    """
    reader = Reader()
    reader.version = (1, 1)
    try:
        for value in reader.load_all(text):
            yield Document(value, first_line)
    except MarkedYAMLError as error:
        if error.problem_mark is not None:
            error.problem_mark.line += first_line - 1
        raise


def shown(path: Sequence[str | int]) -> str:
    """A path as people write it: `applications[0].args.model.name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def value_of(settings: YAML, key: str, default: float) -> float:
    """A number that is set, or what it is where it is not."""
    value: float | None = settings.get(key)
    return default if value is None else value
