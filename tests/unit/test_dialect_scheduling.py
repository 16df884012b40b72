"""What a client says of its hurry: how urgent, how long, and whether a part will do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import LimitsConfig
from reranker.dialects.base import TIMEOUT_HEADER, RankingCall
from reranker.dialects.parse import parse
from reranker.errors import InvalidRequestError
from reranker.record import RequestRecord
from reranker.types import EngineScores, RankedDocument, Ranking, RankRequest

RANKING = Ranking(
    results=(RankedDocument(1, 0.9, 2.2),),
    excluded=(),
    prompt_tokens=123,
    truncated_documents=0,
    windowed_documents=0,
)


def _request(header: str | None = None, **fields: Any) -> RankRequest:
    body = {"query": "q", "documents": ["a", "b", "c"]} | fields
    [request] = _ask(body, header).lists
    return request


def _ask(body: dict[str, Any], header: str | None = None) -> RankingCall:
    return parse(
        json.dumps(body).encode(), None, LimitsConfig(), (TIMEOUT_HEADER, header) if header is not None else None
    )


def _answer(ranking: Ranking, record: RequestRecord | None = None) -> Any:
    return _ask({"query": "q", "documents": ["a", "b", "c"]}).write([ranking], "demo", record or RequestRecord("id"))


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, "interactive"),
        ("interactive", "interactive"),
        ("bulk", "bulk"),
        (0, "interactive"),  # Cohere v2: 0 to 999, 0 first; vLLM: lower first, 0 unless said otherwise
        (-5, "interactive"),
        (1, "bulk"),
        (999, "bulk"),
    ],
)
def test_priority_is_a_class_or_a_number(sent: object, meant: str) -> None:
    assert _request(priority=sent).priority == meant


@given(number=st.integers(-(2**63), 2**63 - 1))
def test_higher_number_is_never_more_urgent(number: int) -> None:
    assert _request(priority=number).priority == ("bulk" if number > 0 else "interactive")


def test_absent_wishes_are_the_defaults() -> None:
    nothing = _request(priority=None, timeout_s=None, allow_partial=None)
    assert nothing == _request()
    assert (nothing.priority, nothing.timeout_s, nothing.allow_partial) == ("interactive", None, False)


@pytest.mark.parametrize(
    ("header", "in_body", "meant"),
    [
        (None, None, None),
        (None, 3, 3.0),
        (None, "2.5", 2.5),
        ("1.5", None, 1.5),
        (" 2 ", None, 2.0),
        ("1e3", None, 1_000.0),
        ("1", 3, 1.0),
        ("4", 3, 3.0),
    ],
)
def test_timeout_is_the_shorter_of_header_and_body(header: str | None, in_body: object, meant: float | None) -> None:
    """A proxy sets the header, the program behind it the body; both must hold."""
    assert _request(header, timeout_s=in_body).timeout_s == meant


@pytest.mark.parametrize("header", ["", "0", "-1", "soon", "nan", "inf", "5;6", "1 s"])
def test_bad_timeout_header_is_named_and_not_quoted(header: str) -> None:
    with pytest.raises(InvalidRequestError, match="must be a number of seconds, at least") as caught:
        _request(header)
    assert caught.value.field == TIMEOUT_HEADER == "X-Reranker-Timeout-S"


@pytest.mark.parametrize(("sent", "meant"), [(True, True), ("true", True), (1, True), (False, False), (None, False)])
def test_partial_answers_are_given_to_those_who_ask_for_them(sent: object, meant: bool) -> None:
    assert _request(allow_partial=sent).allow_partial is meant


def test_documents_without_a_score_are_listed_in_the_answer() -> None:
    answer = _answer(replace(RANKING, unscored=(0, 2)))
    assert answer["unscored"] == [{"index": 0}, {"index": 2}]
    assert [result["index"] for result in answer["results"]] == [1]
    whole = _answer(RANKING)
    assert "unscored" not in whole


def test_answer_says_what_it_took() -> None:
    record = RequestRecord()
    for attempts in ([False], [False, False, True], [False, True]):  # whether each is a hedge
        shard = record.shard(1, 10, np.zeros(1, dtype=np.int32))
        for hedge in attempts:
            attempt = shard.send(hedge=hedge)
            attempt.replica = f"replica-{len(attempts) % 2}"
        shard.answered(attempt, EngineScores.nothing(1))
    meta = _answer(RANKING, record)["meta"]
    assert (meta["pairs"], meta["shards"], meta["replicas"], meta["retries"], meta["hedges"]) == (3, 3, 2, 1, 2)
