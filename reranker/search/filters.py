"""Which chunks a search may find, by their metadata: the filter of a request, read and applied. Pure.

A filter is an object: each field with the value that it must have, a list of values one of which it must have, or an
object of comparisons: `{"language": "de", "year": {"$gte": 2020}, "tag": ["a", "b"]}`. All of them must hold; `$and`,
`$or` and `$not` combine filters. The operators are those that MongoDB, Pinecone and Chroma have made known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from reranker.errors import InvalidRequestError
from reranker.ranking.scoring import ABSENT, field_of, same

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
        """Whether a value of the field (`ABSENT`: it has none) meets the condition."""
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


def matches(wanted: Filter | None, metadata: Mapping[str, object]) -> bool:
    """Whether a document of this metadata is let through."""
    if wanted is None:
        return True
    if isinstance(wanted, Term):
        return wanted.holds_for(field_of(metadata, wanted.field))
    each = (matches(part, metadata) for part in wanted.parts)
    return any(each) if wanted.how == "$or" else all(each) if wanted.how == "$and" else not all(each)


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
