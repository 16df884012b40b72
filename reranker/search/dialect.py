"""Search: a query in, documents of an index out, ranked. The one dialect whose documents the service finds itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, PositiveInt, StrictStr

from reranker.config import RerankerConfig
from reranker.config.search import Stage
from reranker.dialects.answers import head_of, marks_of, meta_of, score_of, stages_of, timings_of, usage_of
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.envelope import universal
from reranker.dialects.options import Item, Options
from reranker.dialects.texts import query_of
from reranker.errors import InvalidRequestError, UnknownIndexError
from reranker.search.base import Candidate, Retrieved
from reranker.search.filters import Filter, read_filter
from reranker.types import Ranking, RankRequest

PATHS = ("/v1/search", "/search")
DEFAULT_TOP_N = 10


class SearchBody(Options):
    """A query for an index, and what is wanted of what is found."""

    query: Item
    """What is looked for: a string, or an object with a `text`."""
    index: StrictStr | None = None
    """Name of the index; absent: the first that is configured."""
    first_stage: Stage | None = None
    """What finds the candidates: "bm25", "dense", "hybrid" or "milvus"; absent: the index's default."""
    candidates: PositiveInt | None = None
    """How many the first stage is to find; absent: as configured for the index."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent or null: 10; 0: all candidates."""
    max_per_document: PositiveInt | None = None
    """Return at most so many chunks of one document; absent: all."""
    filter: dict[str, Any] | None = None
    """Only documents with this metadata: `{"language": "de", "year": {"$gte": 2020}}`; also lists of values, `$ne`,
    `$in`, `$nin`, `$gt`, `$lt`, `$lte`, `$exists`, and `$and`, `$or`, `$not`."""
    rerank: bool | None = None
    """false: leave the candidates in the order of the first stage, without relevance scores; to compare with."""
    return_documents: bool | None = None
    """false: leave out texts, titles and metadata."""

    @property
    def most(self) -> int | None:
        """How many results there are to be. None: all."""
        return DEFAULT_TOP_N if self.top_n is None else self.top_n or None

    def wanted(self) -> Filter | None:
        """The filter; raises InvalidRequestError where it is wrong."""
        return None if self.filter is None else read_filter(self.filter)


def read(body: SearchBody) -> tuple[RankRequest, ...]:
    """Give the list that will be ranked, without the documents, which are not known yet."""
    body.wanted()  # what is wrong with it is said before anything is searched
    # Where chunks are taken out afterwards, what is left must still be enough.
    top_n = None if body.max_per_document else body.most
    return (RankRequest(query_of(body.query, "query"), (), top_n=top_n, **body.terms()),)


def count_of(asked: Asked, config: RerankerConfig) -> int:
    """How many candidates a request is to have.

    Raises:
        UnknownIndexError: The index is not configured.
        InvalidRequestError: They are more than there may be.
    """
    body: SearchBody = asked.body
    search = config.search
    name = body.index or next(iter(search.indexes))
    if name not in search.indexes:
        raise UnknownIndexError(tuple(search.indexes))
    if body.candidates is not None and body.candidates > search.max_candidates:
        raise InvalidRequestError("candidates", f"must be at most {search.max_candidates}")
    return body.candidates or search.indexes[name].candidates or search.candidates


def found(asked: Asked, retrieved: Retrieved, config: RerankerConfig, left_s: float) -> Asked:
    """Give the request again, with the documents that were found, as the index's settings have them ranked.

    Args:
        asked: The request.
        retrieved: What was found.
        config: Its defaults.
        left_s: Seconds that are left of its time.
    """
    [one] = asked.lists
    index = config.search.indexes[retrieved.index]
    ranked = replace(
        one,
        documents=tuple(candidate.chunk.ranked_text for candidate in retrieved.candidates),
        metadata=tuple(candidate.chunk.metadata for candidate in retrieved.candidates),
        instruction=one.instruction or index.instruction,
        score_threshold=index.score_threshold if one.score_threshold is None else one.score_threshold,
        timeout_s=left_s,
    )
    return replace(asked, lists=(ranked,), retrieved=retrieved)


def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> JSON:
    """Write the answer."""
    body: SearchBody = asked.body
    retrieved = asked.retrieved
    if retrieved is None:
        raise RuntimeError("a search is answered that was not made. This is a bug")
    [ranking] = rankings
    ranks: list[tuple[int, dict[str, Any]]] = (
        [(index, {}) for index in range(len(retrieved.candidates))]
        if body.rerank is False
        else [(one.index, {"relevance_score": score_of(one, asked)} | marks_of(one)) for one in ranking.results]
    )
    results = [_result(retrieved.candidates[index], index, scores, body) for index, scores in _chosen(ranks, asked)]
    where = {"index": retrieved.index, "version": retrieved.version, "first_stage": retrieved.first_stage}
    found_candidates = {"candidates": len(retrieved.candidates)}
    left: dict[str, Any] = {}
    if ranking.unscored:
        left["unscored"] = [_place(retrieved.candidates[index]) for index in ranking.unscored]
    if ranking.excluded:
        left["excluded"] = [_place(retrieved.candidates[one.index]) | {"rule": one.rule} for one in ranking.excluded]
    numbers = {"usage": usage_of(rankings), "meta": meta_of(asked, rankings, served)}
    head = head_of("search", served) | where | found_candidates
    # What the two stages took is a part of every answer; `timings: true` adds the shards.
    timings = {"timings": stages_of(served.timeline)} if served.timeline else {}
    return head | {"results": results} | numbers | left | timings | timings_of(asked, served)


def _chosen(ranks: Sequence[tuple[int, dict[str, Any]]], asked: Asked) -> list[tuple[int, dict[str, Any]]]:
    """What is left when no document has more chunks than it may, cut to what is wanted."""
    body: SearchBody = asked.body
    assert asked.retrieved is not None  # noqa: S101 - looked at before; for the type checker
    seen: dict[str, int] = {}
    chosen = []
    for index, scores in ranks:
        document = asked.retrieved.candidates[index].chunk.id
        seen[document] = seen.get(document, 0) + 1
        if body.max_per_document is None or seen[document] <= body.max_per_document:
            chosen.append((index, scores))
    return chosen[: body.most]


def _place(candidate: Candidate) -> dict[str, Any]:
    return {"id": candidate.chunk.id, "chunk": candidate.chunk.number}


def _result(candidate: Candidate, index: int, scores: Mapping[str, Any], body: SearchBody) -> dict[str, Any]:
    chunk = candidate.chunk
    result = _place(candidate) | dict(scores) | {"first_stage_score": candidate.score, "first_stage_rank": index + 1}
    if body.return_documents is False:
        return result
    result |= {"text": chunk.text, "start": chunk.start}
    if chunk.title:
        result["title"] = chunk.title
    if chunk.metadata:
        result["metadata"] = chunk.metadata
    return result


DIALECT = Dialect(
    name="search",
    body=SearchBody,
    read=read,
    write=write,
    error=universal,
    examples={
        "search": {"query": "What is the capital of China?", "top_n": 3},
        "filter, threshold, first stage": {
            "query": "What is the capital of China?",
            "filter": {"language": ["en", "de"], "year": {"$gte": 2020}},
            "score_threshold": 0.5,
            "first_stage": "bm25",
            "candidates": 50,
        },
    },
)
