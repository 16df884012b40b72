"""vLLM's score dialect: pairs one to one or one to many, their scores in the pairs' order. Chosen by its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Item, Items, Options, metadata_of, query_of, texts_of
from reranker.errors import InvalidRequestError, RerankerError
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, Ranking, RankRequest

_SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
_Side = Item | Items | None


class ScoreBody(Options):
    """Pairs to score: `text_1` and `text_2`, or vLLM's other names: `queries` and `documents` or `items`; `data_*`."""

    text_1: _Side = None
    """The query, or one for each document."""
    text_2: _Side = None
    """The document or documents."""
    queries: _Side = None
    documents: _Side = None
    items: _Side = None
    data_1: _Side = None
    data_2: _Side = None
    use_activation: bool | None = None
    """false: log-odds in place of scores in [0, 1], as `raw_scores`. `softmax` and `activation` are its older names."""
    softmax: bool | None = None
    activation: bool | None = None

    @property
    def log_odds(self) -> bool:
        return super().log_odds or False in (self.use_activation, self.softmax, self.activation)


class PairScore(TypedDict):
    """The score of one pair."""

    index: Annotated[int, Field(description="Position of the pair.")]
    object: str
    score: answers.Score


class ScoreAnswer(answers.Head, answers.Omissions):
    """The scores, in the order of the pairs."""

    data: list[PairScore]
    usage: answers.Usage


def read(body: ScoreBody) -> tuple[RankRequest, ...]:
    """Give a list for each distinct query: its pairs share their prompt's head that way."""
    where, documents, of_query = _pairs(body)
    texts = texts_of(documents, where)
    metadata = metadata_of(documents)
    terms = body.terms()
    return tuple(
        RankRequest(
            query=query,
            documents=tuple(texts[place] for place in places),
            metadata=tuple(metadata[place] for place in places) if metadata else (),
            **terms,
        )
        for query, places in of_query.items()
    )


def scores_of(call: RankingCall, rankings: Sequence[Ranking]) -> tuple[list[PairScore], answers.Omissions]:
    """The scores in the order of the pairs, and what there is to say of the others."""
    data: list[PairScore] = []
    unscored, excluded, results = [], [], []
    for place, ranking in zip(_pairs(call.body)[2].values(), rankings, strict=True):
        for ranked in ranking.results:
            score = answers.score_of(ranked, call)
            data.append({"index": place[ranked.index], "object": "score", "score": score})
            results.append(replace(ranked, index=place[ranked.index]))
        unscored += [place[index] for index in ranking.unscored]
        excluded += [ExcludedDocument(place[one.index], one.rule) for one in ranking.excluded]
    left_out = answers.omissions_of(sorted(unscored), sorted(excluded, key=lambda one: one.index), results)
    return sorted(data, key=lambda one: one["index"]), left_out


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> ScoreAnswer:
    data, left_out = scores_of(call, rankings)
    return {
        **answers.head_of("list", model, record),
        "data": data,
        "usage": answers.usage_of(rankings),
        **left_out,
    }


def write_error(error: RerankerError) -> answers.ErrorBody:
    """Write an error as vLLM does, with an object under `error`."""
    said = {"message": str(error), "type": error.code, "param": error.field or None, "code": error.status_code}
    return {**answers.error_body(error), "error": said}


def _pairs(body: ScoreBody) -> tuple[str, list[Item], dict[str, list[int]]]:
    """The documents' field, the document of each pair, and the places of the pairs that each distinct query is in."""
    for left, right in _SIDES:
        first, second = getattr(body, left), getattr(body, right)
        if first is None or second is None:
            continue
        queries, documents = (one if isinstance(one, list) else [one] for one in (first, second))
        for name, listed in ((left, queries), (right, documents)):
            if not listed:
                raise InvalidRequestError(name, "must not be empty")
        if len(queries) not in (1, len(documents)):
            problem = f"{len(queries)} of them for {len(documents)} {right}; there must be one, or one for each"
            raise InvalidRequestError(left, problem)
        if len(queries) == 1:
            return right, documents, {query_of(queries[0], left): list(range(len(documents)))}
        places: dict[str, list[int]] = {}
        for place, item in enumerate(queries):
            places.setdefault(query_of(item, f"{left}[{place}]"), []).append(place)
        return right, documents, places
    raise InvalidRequestError("text_1", "send text_1 and text_2, or queries and documents")


DIALECT = Dialect(
    name="score",
    summary="Score pairs, in their order (vLLM).",
    paths=("/score", "/v1/score"),
    shares_paths=False,
    body=ScoreBody,
    lists=tuple(name for side in _SIDES for name in side),
    read=read,
    answer=ScoreAnswer,
    write=write,
    error=write_error,
    examples={
        "one to many": {"text_1": QUESTION, "text_2": TEXTS},
        "one to one": {"queries": ["What is gravity?", QUESTION], "documents": TEXTS[:2]},
    },
)
