"""Which dialect a request is in: by its path where that says it, else by its body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reranker.config import LimitsConfig
from reranker.dialects import infinity, rerank, score, tei, voyage
from reranker.dialects.base import Asked, Dialect
from reranker.dialects.envelope import TIMEOUT_HEADER
from reranker.dialects.options import Seconds, validate
from reranker.dialects.structure import Structure
from reranker.dialects.unsupported import ignored_fields
from reranker.errors import InvalidRequestError, RequestTooLargeError

DIALECTS: tuple[Dialect, ...] = (rerank.DIALECT, infinity.DIALECT, voyage.DIALECT, tei.DIALECT, score.DIALECT)
PATHS: Mapping[str, Dialect | None] = {
    "/v1/rerank": None,  # the body says which
    "/v2/rerank": None,
    "/rerank": None,
    "/v1/v1/rerank": None,  # from users who give Cohere's client a base URL that ends in /v1
    "/v1/v2/rerank": None,
    "/score": score.DIALECT,
    "/v1/score": score.DIALECT,
    # LiteLLM asks Infinity and Voyage as it asks vLLM and Cohere, and wants other answers.
    "/infinity/rerank": infinity.DIALECT,
    "/voyage/v1/rerank": voyage.DIALECT,
}
_SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
_LISTS = ("documents", "texts", "text_1", "text_2", "queries", "items", "data_1", "data_2", "rank_fields")


def by_body(fields: Mapping[str, Any]) -> Dialect:
    """Say which dialect a body is in, where its path does not."""
    if "texts" in fields:
        return tei.DIALECT
    if "top_k" in fields:  # even null: Voyage's client sends it so when it is not set
        return voyage.DIALECT
    return infinity.DIALECT if "raw_scores" in fields else rerank.DIALECT


def parse(body: bytes, dialect: Dialect | None, limits: LimitsConfig, timeout_header: str | None = None) -> Asked:
    """Read a request's body.

    Args:
        body: As it came; not compressed.
        dialect: As its path says; None: its fields say.
        limits: How much it may hold.
        timeout_header: What the client's X-Reranker-Timeout-S says.

    Raises:
        InvalidRequestError: No JSON object, or a wrong field, which is named. Never quotes a value.
        RequestTooLargeError: More documents, or more JSON, than one request may have.
    """
    fields = Structure(limits.max_nesting, limits.max_json_values).load(body)
    if not isinstance(fields, dict):
        raise InvalidRequestError("", "the body must be a JSON object")
    for name in _LISTS:
        listed = fields.get(name)
        if isinstance(listed, list) and len(listed) > limits.max_documents:
            raise RequestTooLargeError(name, len(listed), limits.max_documents, "entries")
    dialect = dialect or by_body(fields)
    validated = validate(dialect.body, fields)
    timeout_s = _timeout_s(validated.timeout_s, timeout_header)
    lists = tuple(replace(one, timeout_s=timeout_s) for one in dialect.read(validated))
    return Asked(dialect, validated, lists, ignored_fields(fields))


def _timeout_s(in_body: float | None, header: str | None) -> float | None:
    if header is None:
        return in_body
    try:
        in_header = _SECONDS.validate_strings(header)
    except ValidationError:
        raise InvalidRequestError(TIMEOUT_HEADER, "must be a number of seconds, at least 0.001") from None
    return in_header if in_body is None else min(in_header, in_body)
