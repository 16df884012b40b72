"""Read YAML and remember the line of everything in it, so that a finding can be shown where it is.

Refuses what the YAML library takes without a word: a key that is given twice, of which only the last would count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list places from the root of a document to one of its values."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key that a mapping has twice."""

    path: Path
    line: int
    first_line: int


@dataclass(frozen=True, slots=True)
class Marked:
    """One YAML document."""

    value: Any
    """What the YAML library makes of it (hence the Any)."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Line, from 1, of every key and list item."""
    texts: dict[Path, int] = field(default_factory=dict)
    """Line on which the text of each block scalar (`key: |`) begins."""
    repeated: tuple[Repeated, ...] = ()

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the innermost part of a path that is there; a validator's path may lead beyond the document."""
        return self.lines.get(self.known(path), 1)

    def known(self, path: Sequence[str | int]) -> Path:
        """A path without what is not in the document, such as the names of the types a value was tried as."""
        found: Path = ()
        for step in path:
            if (longer := (*found, step)) in self.lines:
                found = longer
        return found


def read_all(text: str, first_line: int = 1) -> Iterator[Marked]:
    """Read every document of a stream.

    Args:
        text: YAML.
        first_line: Line of its own at which the text begins, where it is part of another file.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            marked = Marked(None, {(): first_line})
            repeated = list(_walk(node, (), marked, first_line))
            yield Marked(loader.construct_document(node), marked.lines, marked.texts, tuple(repeated))
    finally:
        loader.dispose()


def _walk(node: yaml.Node | None, path: Path, marked: Marked, first_line: int) -> Iterator[Repeated]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*path, key.value), key.start_mark.line + first_line
            if inner in marked.lines:
                yield Repeated(inner, line, marked.lines[inner])
            marked.lines[inner] = line
            yield from _walk(value, inner, marked, first_line)
    elif isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            marked.lines[*path, place] = item.start_mark.line + first_line
            yield from _walk(item, (*path, place), marked, first_line)
    elif isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        marked.texts[path] = node.start_mark.line + 1 + first_line


def shown(path: Sequence[str | int]) -> str:
    """A path as people write it: `applications[0].args.model.name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
