"""Which fields of a row are its query, its document and its name, and what is wrong with the values. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reranker.offline.rows import Problem, Row


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of fields or columns."""

    query: str = "query"
    document: str = "document"
    id: str = "id"

    def row(
        self,
        number: int,
        keys: tuple[str | None, ...],
        get: Callable[[str], Any],  # Any: JSON
        line: int | None = None,
    ) -> Row:
        """Make a row of its values.

        Args:
            number: Of the row.
            keys: Its names.
            get: The value of a field; None: there is none.
            line: Of the input, for a problem.
        """
        for name, what in ((self.query, "query"), (self.document, "document")):
            value = get(name)
            if value is None:
                return Row(number, keys, problem=Problem(f"missing_{what}", f"there is no `{name}`", line))
            if not isinstance(value, str):
                return Row(number, keys, problem=Problem("wrong_type", f"`{name}` is no text", line))
        query, document = get(self.query), get(self.document)
        if not query.strip():
            return Row(number, keys, problem=Problem("empty_query", f"`{self.query}` is empty", line))
        return Row(number, keys, query, document)
