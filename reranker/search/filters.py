"""A request's filter on metadata: read, and applied to all chunks of an index.

A filter gives each field a value, a list of allowed values, or an object of comparisons:
`{"language": "de", "year": {"$gte": 2020}, "tag": ["a", "b"]}`. All of them must hold; `$and`, `$or` and `$not` combine
filters. The operators are MongoDB's, as Pinecone and Chroma have them.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from reranker.errors import InvalidRequestError
from reranker.ranking.scoring import ABSENT, field_of, same
from reranker.types import BoolArray

Scalar: TypeAlias = str | int | float | bool | None
_MAX_TERMS = 1_000
_MAX_DEPTH = 16


def _order(value: object) -> type | None:
    """What can be compared with what: numbers with numbers, texts with texts."""
    if isinstance(value, bool):
        return None
    return float if isinstance(value, int | float) else str if isinstance(value, str) else None


def _comparison(holds: Callable[[Any, Any], bool]) -> Callable[[object, Any], bool]:
    def compare(value: object, wanted: Any) -> bool:
        values = value if isinstance(value, list) else [value]
        return any(_order(one) is not None and _order(one) is _order(wanted) and holds(one, wanted) for one in values)

    return compare


_OPERATORS: Mapping[str, Callable[[object, Any], bool]] = {
    "$eq": same,
    "$ne": lambda value, wanted: not same(value, wanted),
    "$in": lambda value, wanted: any(same(value, one) for one in wanted),
    "$nin": lambda value, wanted: not any(same(value, one) for one in wanted),
    "$gt": _comparison(operator.gt),
    "$gte": _comparison(operator.ge),
    "$lt": _comparison(operator.lt),
    "$lte": _comparison(operator.le),
    "$exists": lambda value, wanted: (value is not ABSENT) == wanted,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition on one field."""

    field: str
    operator: str  # a key of `_OPERATORS`
    value: Any  # of the type that the operator takes


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions that must all hold, one of which must, or which must not all hold."""

    how: str  # "$and", "$or" or "$not"
    parts: tuple[Filter, ...]


Filter: TypeAlias = Term | Combination


def read_filter(given: Mapping[str, Any]) -> Filter | None:
    """Read a request's filter (None: it lets everything through); raises InvalidRequestError, which names the place."""
    read = _read(given, "filter", 0, [_MAX_TERMS])
    return None if isinstance(read, Combination) and not read.parts else read


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
            parts.append(Combination(name, tuple(inner)))
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
    right, wanted = _order(value) is not None, f"{operator} takes a number or a string"
    if operator not in _OPERATORS:
        where, right, wanted = f"{where}.{operator}", False, f"no such operator; known are {', '.join(_OPERATORS)}"
    elif operator in ("$in", "$nin"):
        right = isinstance(value, list) and len(value) <= _MAX_TERMS and all(isinstance(one, Scalar) for one in value)
        wanted = f"must be a list of at most {_MAX_TERMS} strings, numbers, booleans or nulls"
    elif operator == "$exists":
        right, wanted = isinstance(value, bool), "$exists takes true or false"
    elif operator in ("$eq", "$ne"):
        right, wanted = isinstance(value, Scalar), "must be a string, a number, a boolean or null"
    if not right:
        raise InvalidRequestError(where, wanted)
    return Term(name, operator, value)


class RowFilter:
    """Applies filters to all rows of an index; `metadata` reads that of each, in order.

    A field is coded when it is first named: its distinct values, and four bytes a row. A filter then looks at each
    distinct value once.
    """

    def __init__(self, count: int, metadata: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._count, self._metadata = count, metadata
        self._fields: dict[str, tuple[NDArray[np.int32], list[object]]] = {}
        self._lock = threading.Lock()

    def rows(self, where: Filter) -> BoolArray:
        """Say of each row whether it passes: shape (rows,)."""
        if isinstance(where, Term):
            codes, values = self._field(where.field)
            holds = _OPERATORS[where.operator]
            return np.fromiter((holds(value, where.value) for value in values), np.bool_, len(values))[codes]
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
