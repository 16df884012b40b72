"""vLLM's score dialect: pairs one to one or one to many, their scores in the pairs' order. Chosen by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from reranker.dialects import answers
from reranker.dialects.base import Dialect, RankingCall
from reranker.dialects.fields import Item, Items, Options, metadata_of, query_of, texts_of
from reranker.errors import InvalidRequestError, RerankerError
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, Ranking, RankRequest

_SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
_Side = Item | Items | None


class ScoreBody(Options):
    """Pairs to score: `text_1` and `text_2`, or one of vLLM's other names for these."""

    text_1: _Side = None
    """The query, or one for each document."""
    text_2: _Side = None
    """The document or documents."""
    queries: _Side = None
    """Another name for `text_1`."""
    documents: _Side = None
    """Another name for `text_2`."""
    items: _Side = None
    """Another name for `text_2`."""
    data_1: _Side = None
    """Another name for `text_1`."""
    data_2: _Side = None
    """Another name for `text_2`."""
    use_activation: bool | None = None
    """false: log-odds in place of scores in [0, 1], as `raw_scores`."""
    softmax: bool | None = None
    """An older name of `use_activation`."""
    activation: bool | None = None
    """An older name of `use_activation`."""

    @property
    def log_odds(self) -> bool:
        """Whether log-odds are wanted in place of scores."""
        return super().log_odds or False in (self.use_activation, self.softmax, self.activation)


class PairScore(answers.Marks):
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
    queries, documents = _sides(body)
    texts = texts_of(documents[1], documents[0])
    metadata = metadata_of(documents[1])
    terms = body.terms()
    return tuple(
        RankRequest(
            query=query,
            documents=tuple(texts[place] for place in places),
            metadata=tuple(metadata[place] for place in places) if metadata else (),
            **terms,
        )
        for query, places in _places(queries, len(texts)).items()
    )


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> ScoreAnswer:
    """Write the scores in the order of the pairs."""
    queries, documents = _sides(call.body)
    data: list[PairScore] = []
    unscored: list[int] = []
    excluded: list[ExcludedDocument] = []
    for place, ranking in zip(_places(queries, len(documents[1])).values(), rankings, strict=True):
        for ranked in ranking.results:
            score = answers.score_of(ranked, call)
            data.append({"index": place[ranked.index], "object": "score", "score": score, **answers.marks_of(ranked)})
        unscored += [place[index] for index in ranking.unscored]
        excluded += [ExcludedDocument(place[one.index], one.rule) for one in ranking.excluded]
    by_place = sorted(excluded, key=lambda one: one.index)
    return {
        **answers.head_of("list", model, record),
        "data": sorted(data, key=lambda one: one["index"]),
        "usage": answers.usage_of(rankings),
        **answers.omissions_of(Ranking(unscored=tuple(sorted(unscored)), excluded=tuple(by_place))),
    }


def write_error(error: RerankerError) -> answers.ErrorBody:
    """Write an error as vLLM does, with an object under `error`."""
    said = {"message": str(error), "type": error.code, "param": error.field or None, "code": error.status_code}
    return {**answers.error_body(error), "error": said}


def _sides(body: ScoreBody) -> tuple[list[str], tuple[str, list[Item]]]:
    """Give the queries, one for each document or one for all, and the documents with their field's name."""
    for left, right in _SIDES:
        first, second = getattr(body, left), getattr(body, right)
        if first is None or second is None:
            continue
        queries, documents = _listed(first, left), _listed(second, right)
        if len(queries) not in (1, len(documents)):
            problem = f"{len(queries)} of them for {len(documents)} {right}; there must be one, or one for each"
            raise InvalidRequestError(left, problem)
        texts = [
            query_of(item, f"{left}[{number}]" if len(queries) > 1 else left) for number, item in enumerate(queries)
        ]
        return texts, (right, documents)
    raise InvalidRequestError("text_1", "send text_1 and text_2, or queries and documents")


def _listed(side: Item | list[Item], name: str) -> list[Item]:
    listed = side if isinstance(side, list) else [side]
    if not listed:
        raise InvalidRequestError(name, "must not be empty")
    return listed


def _places(queries: Sequence[str], pairs: int) -> dict[str, list[int]]:
    """Give the places of the pairs that each distinct query is in."""
    if len(queries) == 1:
        return {queries[0]: list(range(pairs))}
    places: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        places.setdefault(query, []).append(place)
    return places


_ANSWER = "The capital of China is Beijing."

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
        "one to many": {"text_1": "What is the capital of China?", "text_2": ["Gravity attracts bodies.", _ANSWER]},
        "one to one": {
            "queries": ["What is the capital of China?", "What is gravity?"],
            "documents": [_ANSWER, "Gravity attracts bodies."],
        },
    },
)
