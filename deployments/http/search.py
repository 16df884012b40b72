"""POST /v1/search: find candidates in an index, have them ranked as any other list, and answer with both scores.

Also GET /v1/indexes. The routes exist only where the configuration has an index.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, cast

from fastapi import APIRouter, Request
from pydantic import Field, PositiveInt, StrictStr
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from deployments.http import Backend
from deployments.http.requests import note_call, read_call
from deployments.http.responses import describe, describe_ranking, ranking_response, reply
from reranker.config import RerankerConfig
from reranker.config.search import Stage
from reranker.dialects import answers
from reranker.dialects.base import Dialect, RankingCall
from reranker.dialects.fields import EvidenceOptions, Item, query_of
from reranker.errors import DeadlineExceededError, InvalidRequestError, RerankerError, RetrievalError, UnknownIndexError
from reranker.ranking.threads import SharedCall
from reranker.record import RequestRecord
from reranker.search.documents import Chunk
from reranker.search.filters import read_filter
from reranker.search.first_stages import Candidate, Query, Retrieval
from reranker.types import Ranking, RankRequest, Span

logger = logging.getLogger(__name__)

_DEFAULT_TOP_N = 10
_ATTEMPTS = 3
_MAX_CHARACTERS = 20_000
"""Of a query, for the first stage. A longer one does not fit a prompt, and the reranker says so."""


class SearchBody(EvidenceOptions):
    """A query for an index, and what is wanted of the documents that are found."""

    query: Item
    """What to look for: a string, or an object with a `text`."""
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
    return_documents: bool | Literal["evidence"] | None = None
    """false: leave out texts, titles and metadata; "evidence": of each text only the spans."""

    @property
    def max_results(self) -> int | None:
        return _DEFAULT_TOP_N if self.top_n is None else self.top_n or None


class Place(TypedDict):
    """Which chunk it is."""

    id: Annotated[str, Field(description="Of the document.")]
    chunk: Annotated[int, Field(description="Of it, from 0.")]


class Exclusion(Place):
    """A chunk that a rule or the threshold left out."""

    rule: str


class SearchResult(Place, answers.Marks):
    """One chunk that was found."""

    relevance_score: NotRequired[
        Annotated[float, Field(description="In [0, 1]; log-odds with `raw_scores`; absent with `rerank: false`.")]
    ]
    first_stage_score: float
    first_stage_rank: Annotated[int, Field(description="From 1.")]
    text: NotRequired[str]
    relevant_spans: NotRequired[
        Annotated[list[answers.RelevantSpan], Field(description="Of the chunk's text, when asked for, best first.")]
    ]
    start: NotRequired[Annotated[int, Field(description="Character of the document at which the text begins.")]]
    title: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]


class SearchAnswer(answers.Head):
    """What was found, best first; and the chunks that are not among the results, if there are any."""

    unscored: NotRequired[list[Place]]
    excluded: NotRequired[list[Exclusion]]
    spans_unscored: NotRequired[list[Place]]

    index: str
    version: str
    first_stage: str
    candidates: int
    results: list[SearchResult]
    usage: answers.Usage
    meta: answers.Meta
    timings: answers.Timings


def read(body: SearchBody) -> tuple[RankRequest, ...]:
    """Give the list that will be ranked; its documents are not known yet."""
    read_filter(body.filter or {})  # a wrong filter is refused before anything is searched
    # Where chunks are taken out afterwards, enough must be left.
    top_n = None if body.max_per_document else body.max_results
    return (RankRequest(query_of(body.query, "query"), (), top_n=top_n, **body.terms() | {"complete": False}),)


def write(
    retrieval: Retrieval, call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord
) -> SearchAnswer:
    body: SearchBody = call.body
    [ranking] = rankings
    candidates = retrieval.candidates
    scores: dict[int, Mapping[str, Any]] = {
        one.index: {
            "relevance_score": answers.score_of(one, call),
            **answers.marks_of(one),
            **_evidence(candidates[one.index].chunk, one.spans, call),
        }
        for one in ranking.results
    }
    if body.rerank is False:
        scores = {index: {} for index in range(len(candidates))}
    results, of_document = [], Counter[str]()
    for index, score in scores.items():
        of_document[candidates[index].chunk.id] += 1
        if of_document[candidates[index].chunk.id] <= (body.max_per_document or len(candidates)):
            results.append(_result(candidates[index], index, score, texts=body.return_documents is not False))
    left_out: dict[str, Any] = {}
    if ranking.unscored:
        left_out["unscored"] = [_place(candidates[index]) for index in ranking.unscored]
    if ranking.excluded:
        left_out["excluded"] = [{**_place(candidates[one.index]), "rule": one.rule} for one in ranking.excluded]
    if ranking.spans_unscored:
        left_out["spans_unscored"] = [_place(candidates[index]) for index in ranking.spans_unscored]
    answer = {
        **answers.head_of("search", model, record),
        "index": retrieval.index,
        "version": retrieval.version,
        "first_stage": retrieval.first_stage,
        "candidates": len(candidates),
        "results": results[: body.max_results],
        "usage": answers.usage_of(rankings),
        "meta": answers.meta_of(call, rankings, record),
        # What the stages took is in every answer; `timings: true` adds the shards.
        "timings": answers.timings_of(record, shards=bool(body.timings)),
        **left_out,
    }
    return cast("SearchAnswer", answer)


def _evidence(chunk: Chunk, spans: Sequence[Span], call: RankingCall) -> Mapping[str, Any]:
    """Give what is asked for of the spans, in the chunk's own text: the title stands before it where it is ranked."""
    before = len(chunk.ranked_text) - len(chunk.text)
    own = [one._replace(start=max(0, one.start - before), end=one.end - before) for one in spans if one.end > before]
    found: dict[str, Any] = {}
    if call.body.shows_spans and own:
        found["relevant_spans"] = answers.spans_of(own, call)
    if call.body.shows_evidence:
        found["text"] = answers.evidence_of(chunk.text, own)
    return found


def _place(candidate: Candidate) -> Place:
    return {"id": candidate.chunk.id, "chunk": candidate.chunk.number}


def _result(candidate: Candidate, index: int, score: Mapping[str, Any], *, texts: bool) -> SearchResult:
    chunk = candidate.chunk
    first_stage = {"first_stage_score": candidate.score, "first_stage_rank": index + 1}
    more = {"title": chunk.title, "metadata": chunk.metadata}
    told = {"text": chunk.text, "start": chunk.start} | {name: value for name, value in more.items() if value}
    result: dict[str, Any] = {**_place(candidate), **first_stage, **(told if texts else {}), **score}
    return cast("SearchResult", result)


DIALECT = Dialect(
    name="search",
    summary="Find what answers a query in an index, and rank it.",
    paths=("/v1/search", "/search"),
    shares_paths=False,
    body=SearchBody,
    lists=(),
    read=read,
    answer=SearchAnswer,
    write=partial(write, Retrieval()),  # of no candidates; `Search.find` gives each request its own
    error=answers.error_body,
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


async def call_replica(method: Any, *arguments: object) -> Any:  # Any: a method of a handle, and what it gives
    """Call a search or an embedding deployment; raises RerankerError: Ray's errors end here.

    A call can be made again: a replica that ends takes none along.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await method.remote(*arguments)
        except RayTaskError as error:
            if isinstance(error.cause, RerankerError):
                raise error.cause from None
            logger.warning("a search replica failed: %s", type(error.cause).__name__)
            break
        except (RayError, RayServeException) as error:
            logger.warning("a search replica did not answer: %s", type(error).__name__)
    raise RetrievalError


class SearchClient:
    """Calls the search deployment, `deployments.search.SearchReplica`."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas
        self._described = SharedCall[list[dict[str, Any]]](lambda: call_replica(replicas.describe))  # Any: JSON

    async def search(self, query: Query) -> Retrieval:
        retrieval: Retrieval = await call_replica(self._replicas.search, query)
        return retrieval

    async def describe(self) -> list[dict[str, Any]]:  # Any: JSON
        return await self._described.answer()


class Search:
    """Finds the documents that a request is to have ranked."""

    def __init__(self, indexes: SearchClient, config: RerankerConfig) -> None:
        self.indexes, self._config = indexes, config

    async def find(self, call: RankingCall, record: RequestRecord) -> tuple[RankingCall, Retrieval]:
        """Find candidates, and make them the documents of the request, with the index's settings."""
        body: SearchBody = call.body
        [request] = call.lists
        config = self._config.search
        index = config.indexes.get(body.index or next(iter(config.indexes)))
        if index is None:
            raise UnknownIndexError(tuple(config.indexes))
        if body.candidates is not None and body.candidates > config.max_candidates:
            raise InvalidRequestError("candidates", f"must be at most {config.max_candidates}")
        count = body.candidates or index.candidates or config.candidates
        query = Query(
            request.query[:_MAX_CHARACTERS], count, body.index, body.first_stage, read_filter(body.filter or {})
        )
        timeout_s = self._config.limits.bounded_s(request.timeout_s)
        try:
            async with asyncio.timeout_at(record.began_s + timeout_s):
                retrieval = await self.indexes.search(query)
        except TimeoutError:
            raise DeadlineExceededError(timeout_s) from None
        chunks = [one.chunk for one in retrieval.candidates]
        request = replace(
            request,
            documents=tuple(one.ranked_text for one in chunks),
            metadata=tuple(one.metadata for one in chunks),
            instruction=request.instruction or index.instruction,
            score_threshold=index.score_threshold if request.score_threshold is None else request.score_threshold,
        )
        dialect = replace(call.dialect, write=partial(write, retrieval))
        return replace(call, dialect=dialect, lists=(request,)), retrieval


class IndexList(TypedDict):
    """The indexes, the default first."""

    object: str
    data: list[dict[str, Any]]


def search_router(search: Search) -> APIRouter:
    """Make the routes."""
    router = APIRouter()

    async def answer(request: Request) -> Response:
        backend: Backend = request.app.state.backend
        record: RequestRecord = request.state.record
        call = await read_call(request, DIALECT)
        with record.stage("retrieve"):
            call, retrieval = await search.find(call, record)
        note_call(record, call)
        record.found_bytes = sum(len(text.encode()) for text in call.lists[0].documents)
        rankings: Sequence[Ranking] = [Ranking()]
        if retrieval.candidates and call.body.rerank is not False:
            record.rankings = rankings = await backend.rank(call.lists, request.state.caller, record)
        return ranking_response(request, call, rankings)

    for path in DIALECT.paths:
        router.add_api_route(path, answer, methods=["POST"], **describe_ranking(path, DIALECT))

    @router.get("/v1/indexes", **describe(IndexList, 503))
    async def indexes() -> Response:
        """What there is to search, the default first: versions, sizes, first stages."""
        return reply({"object": "list", "data": await search.indexes.describe()})

    return router
