"""A request's filter on metadata: read, and applied to one document or to all chunks of an index.

A filter gives each field a value, a list of allowed values, or an object of comparisons:
`{"language": "de", "year": {"$gte": 2020}, "tag": ["a", "b"]}`. All of them must hold; `$and`, `$or` and `$not` combine
filters. The operators are MongoDB's, as Pinecone and Chroma have them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from reranker.errors import InvalidRequestError
from reranker.ranking.scoring import ABSENT, field_of, same
from reranker.types import BoolArray

Scalar: TypeAlias = str | int | float | bool | None
_MAX_TERMS = 1_000
_MAX_DEPTH = 16


def _same_in(found: object, wanted: Any) -> bool:  # Any: a list, by the reading below
    return any(same(found, one) for one in wanted)


def _compare(found: object, wanted: Any, holds: Callable[[Any, Any], bool]) -> bool:
    values = found if isinstance(found, list) else [found]
    return any(_kind(value) is not None and _kind(value) is _kind(wanted) and holds(value, wanted) for value in values)


def _kind(value: object) -> type | None:
    """What can be compared with what: numbers with numbers, texts with texts."""
    if isinstance(value, bool):
        return None
    return float if isinstance(value, int | float) else str if isinstance(value, str) else None


Operator: TypeAlias = Literal["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists"]
_OPERATORS: Mapping[str, Callable[[object, Any], bool]] = {
    "$eq": same,
    "$ne": lambda found, wanted: not same(found, wanted),
    "$in": _same_in,
    "$nin": lambda found, wanted: not _same_in(found, wanted),
    "$gt": lambda found, wanted: _compare(found, wanted, lambda a, b: bool(a > b)),
    "$gte": lambda found, wanted: _compare(found, wanted, lambda a, b: bool(a >= b)),
    "$lt": lambda found, wanted: _compare(found, wanted, lambda a, b: bool(a < b)),
    "$lte": lambda found, wanted: _compare(found, wanted, lambda a, b: bool(a <= b)),
    "$exists": lambda found, wanted: (found is not ABSENT) == wanted,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition on one field."""

    field: str
    operator: Operator
    value: Any  # of the type that the operator takes

    def holds_for(self, found: object) -> bool:
        """Whether a value of the field meets the condition. `ABSENT`: the document has no such field."""
        return _OPERATORS[self.operator](found, self.value)


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions that must all hold, one of which must, or which must not all hold."""

    how: Literal["$and", "$or", "$not"]
    parts: tuple[Filter, ...]


Filter: TypeAlias = Term | Combination


def read_filter(given: Mapping[str, Any], where: str = "filter") -> Filter | None:
    """Read a request's filter. None: it lets everything through.

    Raises:
        InvalidRequestError: Names the place that is wrong.
    """
    budget = [_MAX_TERMS]
    read = _read(given, where, 0, budget)
    return None if isinstance(read, Combination) and not read.parts else read


def matches(where: Filter | None, metadata: Mapping[str, object]) -> bool:
    """Whether a document with this metadata passes a filter."""
    if where is None:
        return True
    if isinstance(where, Term):
        return where.holds_for(field_of(metadata, where.field))
    each = (matches(part, metadata) for part in where.parts)
    return any(each) if where.how == "$or" else all(each) if where.how == "$and" else not all(each)


class RowFilter:
    """Applies filters to all rows of an index.

    A field is coded when it is first named: its distinct values, and four bytes a row. A filter then looks at each
    distinct value once.
    """

    def __init__(self, rows: int, metadata: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Code no field yet.

        Args:
            rows: How many there are.
            metadata: Reads the metadata of all rows, in order.
        """
        self._count, self._metadata = rows, metadata
        self._fields: dict[str, tuple[NDArray[np.int32], list[object]]] = {}
        self._lock = threading.Lock()

    def rows(self, where: Filter) -> BoolArray:
        """Say of each row whether it passes: shape (rows,)."""
        if isinstance(where, Term):
            codes, values = self._field(where.field)
            return np.fromiter((where.holds_for(value) for value in values), np.bool_, len(values))[codes]
        combine = np.logical_or if where.how == "$or" else np.logical_and
        rows = np.full(self._count, where.how != "$or")
        for part in where.parts:
            rows = combine(rows, self.rows(part))
        return ~rows if where.how == "$not" else rows

    def _field(self, name: str) -> tuple[NDArray[np.int32], list[object]]:
        with self._lock:  # coding reads all rows, so two threads must not do it twice
            if name not in self._fields:
                codes: dict[bytes, int] = {}
                values: list[object] = []
                column = np.empty(self._count, dtype=np.int32)
                for row, metadata in enumerate(self._metadata()):
                    value = field_of(metadata, name)
                    key = b"" if value is ABSENT else orjson.dumps(value)
                    column[row] = codes.setdefault(key, len(values))
                    if column[row] == len(values):
                        values.append(value)
                self._fields[name] = column, values
            return self._fields[name]


def _read(given: Any, where: str, depth: int, budget: list[int]) -> Filter:
    if not isinstance(given, Mapping):
        raise InvalidRequestError(where, "must be an object of fields and the values they must have")
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(where, f"is nested more than {_MAX_DEPTH} deep")
    parts: list[Filter] = []
    for name, condition in given.items():
        place = f"{where}.{name}"
        if name in ("$and", "$or"):
            if not isinstance(condition, list) or not condition:
                raise InvalidRequestError(place, "must be a list of filters, and not empty")
            inner = [_read(one, f"{place}[{i}]", depth + 1, budget) for i, one in enumerate(condition)]
            parts.append(Combination("$or" if name == "$or" else "$and", tuple(inner)))
        elif name == "$not":
            parts.append(Combination("$not", (_read(condition, place, depth + 1, budget),)))
        elif name.startswith("$"):
            raise InvalidRequestError(place, "no such operator here; known are $and, $or and $not")
        elif isinstance(condition, Mapping):
            parts += [_term(name, operator, value, place) for operator, value in condition.items()]
        else:
            parts.append(_term(name, "$in" if isinstance(condition, list) else "$eq", condition, place))
    budget[0] -= len(parts)
    if budget[0] < 0:
        raise InvalidRequestError(where, f"has more than {_MAX_TERMS} conditions")
    return parts[0] if len(parts) == 1 else Combination("$and", tuple(parts))


def _term(name: str, operator: str, value: object, where: str) -> Term:
    known = next((one for one in _OPERATORS if one == operator), None)
    if known is None:
        raise InvalidRequestError(f"{where}.{operator}", f"no such operator; known are {', '.join(_OPERATORS)}")
    if operator in ("$in", "$nin"):
        if not isinstance(value, list) or not all(isinstance(one, Scalar) for one in value):
            raise InvalidRequestError(where, "must be a list of strings, numbers, booleans or nulls")
        if len(value) > _MAX_TERMS:
            raise InvalidRequestError(where, f"has more than {_MAX_TERMS} values")
    elif operator == "$exists":
        if not isinstance(value, bool):
            raise InvalidRequestError(where, "$exists takes true or false")
    elif operator in ("$gt", "$gte", "$lt", "$lte"):
        if _kind(value) is None:
            raise InvalidRequestError(where, f"{operator} takes a number or a string")
    elif not isinstance(value, Scalar):
        raise InvalidRequestError(where, "must be a string, a number, a boolean or null")
    return Term(name, known, value)  # type: ignore[arg-type]  # one of the operators, as was just looked up
