"""A YAML document with the line of everything in it, and what is found wrong at one of its places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml import YAML as Reader
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list places from the root of a document to one of its values."""
YAML: TypeAlias = Mapping[str, Any]
"""What was read from a file: every type."""
Row: TypeAlias = tuple[str, str, str]
"""What a rule says: a place (`deployments.0.name`), what is wrong there, and what to do, as a sentence."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    path: Path
    problem: str
    remedy: str


def below(path: Path, rows: Iterable[Row]) -> Iterator[Finding]:
    """Make findings of what rules say of the value at a path."""
    for place, problem, remedy in rows:
        steps = [int(step) if step.isdigit() else step for step in place.split(".")]
        yield Finding((*path, *steps), problem, remedy)


@dataclass(frozen=True, slots=True)
class Document:
    """One of a YAML stream."""

    value: Any
    first_line: int = 1
    """The line, in its file, of the text that it is part of."""

    def line(self, path: Path) -> int:
        """The line of the innermost part of a path that is there; a validator's path may lead beyond the document."""
        return self._find(path)[0]

    def text_line(self, path: Path) -> int:
        """The line on which the text of a value begins: below its key, where it is a block (`key: |`)."""
        line, value = self._find(path)
        return line + isinstance(value, LiteralScalarString | FoldedScalarString)

    def _find(self, path: Path) -> tuple[int, Any]:
        line, part = self.first_line, self.value
        for step in path:
            marks = part.lc.data if isinstance(part, CommentedMap | CommentedSeq) else None
            if marks and step in marks:
                line, part = marks[step][0] + self.first_line, part[step]
        return line, part


def read_all(text: str, first_line: int = 1) -> Iterator[Document]:
    """Read every document of a stream, as Ray does: YAML 1.1, in which `on` is true.

    `first_line` is the line at which the text begins, where it is part of another file. Raises ruamel.yaml's errors;
    one is a mapping that has a key twice, of which the last would count.
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


def shown(path: Path) -> str:
    """A path as people write it: `applications[0].args.model.name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
