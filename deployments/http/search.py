"""POST /v1/search: find candidates in an index, have them ranked as any other list, and answer with both scores.

Also GET /v1/indexes. The routes exist only where the configuration has an index.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NotRequired, Protocol, cast

from fastapi import APIRouter, Request
from pydantic import Field, PositiveInt, StrictStr
from ray.exceptions import RayActorError, RayTaskError
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
from reranker.dialects.base import JSON, Dialect, RankingCall
from reranker.dialects.fields import Item, Options, query_of
from reranker.errors import DeadlineExceededError, InvalidRequestError, RerankerError, RetrievalError, UnknownIndexError
from reranker.record import RequestRecord
from reranker.search.filters import Filter, read_filter
from reranker.search.types import Candidate, Query, Retrieval
from reranker.types import Ranking, RankRequest

DEFAULT_TOP_N = 10
_ATTEMPTS = 3
"""A search can be made again: a replica that ends takes none along."""
_MAX_CHARACTERS = 20_000
"""Of a query, for the first stage. A longer one does not fit a prompt, and the reranker says so."""


class SearchBody(Options):
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
    return_documents: bool | None = None
    """false: leave out texts, titles and metadata."""

    @property
    def most(self) -> int | None:
        """How many results to return at most. None: all."""
        return DEFAULT_TOP_N if self.top_n is None else self.top_n or None

    def where(self) -> Filter | None:
        """The filter; raises InvalidRequestError if it is wrong."""
        return None if self.filter is None else read_filter(self.filter)


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
    start: NotRequired[Annotated[int, Field(description="Character of the document at which the text begins.")]]
    title: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]


class LeftOut(TypedDict, total=False):
    """The chunks that are not among the results, if there are any, and why."""

    unscored: list[Place]
    excluded: list[Exclusion]


class SearchAnswer(answers.Head, LeftOut):
    """What was found, best first."""

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
    body.where()  # a wrong filter is refused before anything is searched
    # Where chunks are taken out afterwards, enough must be left.
    top_n = None if body.max_per_document else body.most
    return (RankRequest(query_of(body.query, "query"), (), top_n=top_n, **body.terms()),)


def write(
    found: Retrieval, call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord
) -> SearchAnswer:
    """Write the answer."""
    body: SearchBody = call.body
    [ranking] = rankings
    ranked: list[tuple[int, dict[str, Any]]] = (
        [(index, {}) for index in range(len(found.candidates))]
        if body.rerank is False
        else [
            (one.index, {"relevance_score": answers.score_of(one, call), **answers.marks_of(one)})
            for one in ranking.results
        ]
    )
    chosen, of_document = [], Counter[str]()
    for index, scores in ranked:
        candidate = found.candidates[index]
        of_document[candidate.chunk.id] += 1
        if body.max_per_document is None or of_document[candidate.chunk.id] <= body.max_per_document:
            chosen.append(_result(candidate, index, scores, body))
    return {
        **answers.head_of("search", model, record),
        "index": found.index,
        "version": found.version,
        "first_stage": found.first_stage,
        "candidates": len(found.candidates),
        "results": chosen[: body.most],
        "usage": answers.usage_of(rankings),
        "meta": answers.meta_of(call, rankings, record),
        # What the stages took is in every answer; `timings: true` adds the shards.
        "timings": answers.timings_of(record, shards=bool(body.timings)),
        **_left_out(found, ranking),
    }


def _left_out(found: Retrieval, ranking: Ranking) -> LeftOut:
    left: LeftOut = {}
    if ranking.unscored:
        left["unscored"] = [_place(found.candidates[index]) for index in ranking.unscored]
    if ranking.excluded:
        left["excluded"] = [{**_place(found.candidates[one.index]), "rule": one.rule} for one in ranking.excluded]
    return left


def _place(candidate: Candidate) -> Place:
    return {"id": candidate.chunk.id, "chunk": candidate.chunk.number}


def _result(candidate: Candidate, index: int, scores: Mapping[str, Any], body: SearchBody) -> SearchResult:
    chunk = candidate.chunk
    result: dict[str, Any] = {
        **_place(candidate),
        **scores,
        "first_stage_score": candidate.score,
        "first_stage_rank": index + 1,
    }
    if body.return_documents is not False:
        result |= {"text": chunk.text, "start": chunk.start}
        result |= {"title": chunk.title} if chunk.title else {}
        result |= {"metadata": chunk.metadata} if chunk.metadata else {}
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
    write=partial(write, Retrieval()),  # of nothing found; `Search.find` gives each request its own
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


class Indexes(Protocol):
    """The search deployment; see `deployments.search.SearchReplica`."""

    async def search(self, query: Query) -> Retrieval:
        """Find candidates."""
        ...

    async def describe(self) -> JSON:
        """Describe the indexes, the default first."""
        ...


class SearchClient:
    """Calls the search deployment. Ray's errors end here. See `Indexes`."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        """Call these."""
        self._replicas = replicas

    async def search(self, query: Query) -> Retrieval:
        """See `Indexes`; raises RetrievalError if no replica answers."""
        found: Retrieval = await self._call("search", query)
        return found

    async def describe(self) -> JSON:
        """See `Indexes`; raises RetrievalError if no replica answers."""
        return await self._call("describe")

    async def _call(self, method: str, *arguments: object) -> Any:  # Any: what the method gives
        for left in reversed(range(_ATTEMPTS)):
            try:
                return await getattr(self._replicas, method).remote(*arguments)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, RerankerError) else RetrievalError()) from None
            except (RayActorError, RayServeException):
                if not left:
                    raise RetrievalError from None
        raise AssertionError("unreachable")


class Search:
    """Searches, with what the service is configured to have."""

    def __init__(self, indexes: Indexes, config: RerankerConfig) -> None:
        """Search these indexes.

        Args:
            indexes: The search deployment.
            config: The service's configuration.
        """
        self._indexes, self._config = indexes, config

    async def find(self, call: RankingCall, record: RequestRecord) -> tuple[RankingCall, Retrieval]:
        """Find candidates, and make them the documents of the request, with the index's settings.

        Args:
            call: The request.
            record: Of the request. Its beginning starts the clock.

        Raises:
            UnknownIndexError: The index is not configured.
            InvalidRequestError: There is no such first stage, or more candidates are asked for than there may be.
            IndexUnavailableError: The index cannot be read.
            RetrievalError: What finds candidates did not answer.
            DeadlineExceededError: Time was up before they were found.
        """
        body: SearchBody = call.body
        [request] = call.lists
        timeout_s = self._config.limits.bounded_s(request.timeout_s)
        text = request.query[:_MAX_CHARACTERS]
        query = Query(text, self._count(body), body.index, body.first_stage, body.where())
        try:
            async with asyncio.timeout_at(record.began_s + timeout_s):
                found = await self._indexes.search(query)
        except TimeoutError:
            raise DeadlineExceededError(timeout_s) from None
        index = self._config.search.indexes[found.index]
        request = replace(
            request,
            documents=tuple(one.chunk.ranked_text for one in found.candidates),
            metadata=tuple(one.chunk.metadata for one in found.candidates),
            instruction=request.instruction or index.instruction,
            score_threshold=index.score_threshold if request.score_threshold is None else request.score_threshold,
        )
        dialect = replace(call.dialect, write=partial(write, found))
        return replace(call, dialect=dialect, lists=(request,)), found

    async def describe(self) -> JSON:
        """See `Indexes`."""
        return await self._indexes.describe()

    def _count(self, body: SearchBody) -> int:
        """How many candidates a request is to have."""
        search = self._config.search
        name = body.index or next(iter(search.indexes))
        if name not in search.indexes:
            raise UnknownIndexError(tuple(search.indexes))
        if body.candidates is not None and body.candidates > search.max_candidates:
            raise InvalidRequestError("candidates", f"must be at most {search.max_candidates}")
        return body.candidates or search.indexes[name].candidates or search.candidates


class IndexList(TypedDict):
    """The indexes, the default first."""

    object: str
    data: list[dict[str, Any]]


def search_router(search: Search) -> APIRouter:
    """Make the routes.

    Args:
        search: Finds the documents.
    """
    router = APIRouter()

    async def answer(request: Request) -> Response:
        backend: Backend = request.app.state.backend
        record: RequestRecord = request.state.record
        call = await read_call(request, DIALECT)
        with record.stage("retrieve"):
            call, found = await search.find(call, record)
        note_call(record, call)
        record.found_bytes = found.text_bytes
        rankings: Sequence[Ranking] = [Ranking()]
        if found.candidates and call.body.rerank is not False:
            record.rankings = rankings = await backend.rank(call.lists, request.state.caller, record)
        return ranking_response(request, call, rankings)

    for path in DIALECT.paths:
        router.add_api_route(path, answer, methods=["POST"], **describe_ranking(path, DIALECT))

    @router.get("/v1/indexes", **describe(IndexList, 503))
    async def indexes() -> Response:
        """What there is to search, the default first: versions, sizes, first stages."""
        return reply({"object": "list", "data": await search.describe()})

    return router
