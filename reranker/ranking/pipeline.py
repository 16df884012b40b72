"""One request, top to bottom: look up, render, plan, scatter, merge, rules. Knows neither Ray nor HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from reranker.cache.entry import pack, unpack
from reranker.cache.key import ListTerms
from reranker.cache.lookup import Lookup
from reranker.cache.score_cache import ScoreCache
from reranker.config import LongDocumentsConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidRequestError, NotReadyError
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.ranking import scoring
from reranker.ranking.admission import Permit, PermitPart
from reranker.ranking.planning import most_shards, plan, portions
from reranker.ranking.scatter import Scatter
from reranker.record import Timeline
from reranker.types import Ranking, RankRequest, RenderedList

_INLINE_CHARACTERS = 4_000
"""So little text is tokenized where it is: it takes a millisecond, and another thread half of one more."""


async def rerank(
    request: RankRequest,
    permit: Permit | PermitPart,
    renderer: PromptRenderer,
    scatter: Scatter,
    config: RerankerConfig,
    lookup: Lookup | None = None,
    timeline: Timeline | None = None,
) -> Ranking:
    """Score every document of a list, or none; with `allow_partial`, those that time suffices for.

    Args:
        request: Query and documents.
        permit: Leave to occupy the service with the list.
        renderer: Makes the prompts.
        scatter: Sends shards to the replicas.
        config: Limits.
        lookup: What is known of the list, and what others are having scored. None: nothing.
        timeline: Where to note what happens. None: nowhere.

    Raises:
        InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
        QueryTooLongError: The query leaves no room for a document.
        RequestTooLargeError: The list has more tokens than are ever let in.
        NotReadyError: There is no replica.
        DeadlineExceededError: Time was up; with `allow_partial`, before the first document was scored.
        InvalidScoreError: The model gave a logit that is not a number.
        ServiceError: A shard could not be scored; the others are cancelled.
    """
    lookup = lookup or _nothing_known(request)
    timeline = timeline or Timeline()
    timeout_s = config.limits.bounded_s(request.timeout_s)
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    run = _Run(request, lookup, permit, renderer, scatter, config, timeline, deadline_s)
    try:
        await run.score_what_is_missing()
        if run.models - {lookup.model} and (distrusted := lookup.distrust()):
            await run.score(distrusted)  # the model was changed meanwhile: no list mixes the scores of two
    except ExceptionGroup as failures:  # several portions may fail; the client hears of the first
        if isinstance(failures.exceptions[0], TimeoutError):
            raise DeadlineExceededError(timeout_s) from None
        raise failures.exceptions[0] from None
    with timeline.stage("merge"):
        return _ranking(run, request, config, timeout_s)


@asynccontextmanager
async def look_up(
    request: RankRequest,
    cache: ScoreCache | None,
    renderer: PromptRenderer,
    config: RerankerConfig,
    model: str | None,
    caller: str = "",
    timeline: Timeline | None = None,
) -> AsyncIterator[Lookup]:
    """Find what is known of a list; for as long as the block lasts, other lists wait for what it has scored.

    Args:
        request: The list.
        cache: None: nothing is known.
        renderer: Makes the list's prompts.
        config: Defaults of what the request does not say.
        model: Digest of what the engines hold. None: not known, or not the same, so nothing is looked up.
        caller: Whose request this is, where scores are kept apart.
        timeline: Where to note how long that took. None: nowhere.

    Raises:
        InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
    """
    if cache is None or model is None or request.cache == "off":
        yield _nothing_known(request)
        return
    terms = ListTerms(
        model=model,
        prompts=renderer.fingerprint,
        namespace=caller if config.cache.namespace == "api_key" else "",
        instruction=_instruction(request, renderer, config),
        query=request.query,
        cutting=cutting_policy(request, config.long_documents),
        adapter=adapter_of(request, config),
    )
    weight = config.priorities.of(request.priority).weight
    async with AsyncExitStack() as found:
        with (timeline or Timeline()).stage("cache"):
            looked_up = cache.look_up(terms, request.documents, request.cache, weight)
            lookup = await found.enter_async_context(looked_up)
        yield lookup


def share_to_score(request: RankRequest, lookup: Lookup) -> float:
    """How much of a list's text its engines have to see, in [0, 1]."""
    characters = sum(map(len, request.documents)) + 1
    return min(1.0, sum(len(request.documents[lookup.documents[place]]) + 1 for place in lookup.to_score) / characters)


def adapter_of(request: RankRequest, config: RerankerConfig) -> str:
    """Name of the adapter that a request asks for; empty: the model itself, whatever the client calls it."""
    return request.model if request.model and request.model in config.engine.lora_adapters else ""


def _nothing_known(request: RankRequest) -> Lookup:
    return Lookup([document.encode("utf-8", "surrogatepass") for document in request.documents])


class _Run:
    """Has the documents of one list scored, as far as they are not known."""

    def __init__(
        self,
        request: RankRequest,
        lookup: Lookup,
        permit: Permit | PermitPart,
        renderer: PromptRenderer,
        scatter: Scatter,
        config: RerankerConfig,
        timeline: Timeline,
        deadline_s: float,
    ) -> None:
        self.lookup = lookup
        self.pairs = self.shards = self.retries = self.hedges = 0
        self.replicas: set[str] = set()
        self.models: set[str] = set()
        self._request, self._permit, self._renderer = request, permit, renderer
        self._scatter, self._config, self._timeline = scatter, config, timeline
        self._instruction = _instruction(request, renderer, config)
        self._deadline_s = deadline_s
        self._work_tokens = 0

    async def score_what_is_missing(self) -> None:
        """Score what nobody else has scored, and wait for what others are having scored."""
        async with asyncio.TaskGroup() as group:
            if self.lookup.to_score:
                await self._send(group, self.lookup.to_score)
            self._permit.resize(self._work_tokens)
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    while given_up := await self._others():
                        await self._send(group, given_up)
            except TimeoutError:
                if not self._request.allow_partial:
                    raise
                self.lookup.take_what_there_is()

    async def _others(self) -> list[int]:
        if not self.lookup.waits:
            return []
        with self._timeline.stage("coalesce"):
            return await self.lookup.others()

    async def score(self, places: Sequence[int]) -> None:
        """Score these places of the lookup."""
        async with asyncio.TaskGroup() as group:
            await self._send(group, places)

    async def _send(self, group: asyncio.TaskGroup, places: Sequence[int]) -> None:
        """Render portion by portion, and send each off while the next is rendered, as far as time allows."""
        cutting = cutting_policy(self._request, self._config.long_documents)
        adapter = adapter_of(self._request, self._config)
        left = list(places)
        for texts in portions([self._request.documents[self.lookup.documents[place]] for place in places]):
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    with self._timeline.stage("tokenize"):
                        rendered = (await self._render(texts, cutting)).for_adapter(adapter)
            except TimeoutError:
                if self._request.allow_partial:
                    return
                raise
            prompts = rendered.prompts
            self._work_tokens += prompts.work_tokens - (len(prompts.head) if self._work_tokens else 0)  # the head once
            self._permit.grow(self._work_tokens)
            portion, left = left[: len(texts)], left[len(texts) :]
            survey = self._scatter.fleet.survey(most_shards(prompts.pair_tokens, self._config.planning))
            if not survey.names:
                raise NotReadyError
            shards = [np.asarray(one) for one in plan(prompts.pair_tokens, survey.loads, self._config.planning)]
            group.create_task(self._score(portion, rendered, shards, survey.names))

    async def _render(self, texts: Sequence[str], cutting: CuttingPolicy) -> RenderedList:
        arguments = self._request.query, texts, self._instruction, cutting
        if len(self._request.query) + sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self._renderer.render(*arguments)
        return await asyncio.to_thread(self._renderer.render, *arguments)  # releases the interpreter's lock

    async def _score(
        self, places: Sequence[int], rendered: RenderedList, shards: Sequence[NDArray[np.intp]], among: Sequence[str]
    ) -> None:
        """Have one portion scored."""
        prompts = rendered.prompts
        self.pairs += len(prompts)
        self.shards += len(shards)
        documents = np.asarray([self.lookup.documents[place] for place in places], dtype=np.int32)
        document_of_pair = documents[rendered.document_of_pair]
        parts = [prompts.select(indices.tolist()) for indices in shards]
        gathered = await self._scatter.gather(
            parts,
            weight=self._config.priorities.of(self._request.priority).weight,
            deadline_s=self._deadline_s,
            allow_partial=self._request.allow_partial,
            among=among,
            records=[
                self._timeline.shard(len(part), part.work_tokens, document_of_pair[indices])
                for part, indices in zip(parts, shards, strict=True)
            ],
        )
        self.retries += gathered.retries
        self.hedges += gathered.hedges
        answered = [(indices, answer) for indices, answer in zip(shards, gathered.answers, strict=True) if answer]
        with self._timeline.stage("merge"):
            scores = scoring.merge([(indices, answer.scores) for indices, answer in answered], len(prompts))
            scoring.require_finite(scores, document_of_pair)
            models = frozenset(answer.model for _, answer in answered)
            self.replicas.update(answer.replica for _, answer in answered)
            self.models |= models
            self.lookup.keep(places, pack(rendered, scores), models)


def _ranking(run: _Run, request: RankRequest, config: RerankerConfig, timeout_s: float) -> Ranking:
    """Make one answer of the documents' scores."""
    lookup = run.lookup
    known = unpack([lookup.entries[place] for place in lookup.places])
    if not known.scored.any():
        raise DeadlineExceededError(timeout_s)
    aggregate = request.aggregate or config.long_documents.aggregate
    log_odds = scoring.aggregate(known.logits, known.document_of_window, aggregate)
    truncated = frozenset(np.flatnonzero(known.truncated).tolist())
    ranked = scoring.rank(log_odds, truncated, known.windows, np.flatnonzero(known.scored))
    kept, excluded = scoring.apply(ranked, request, config.rules)
    return Ranking(
        results=kept[: request.top_n],
        excluded=excluded,
        unscored=tuple(np.flatnonzero(~known.scored).tolist()),
        prompt_tokens=int(known.prompt_tokens.sum()),
        pairs=run.pairs,
        deduplicated_pairs=int(known.windows.sum() - known.windows[lookup.documents].sum()),
        truncated_documents=len(truncated),
        windowed_documents=int((known.windows > 1).sum()),
        shards=run.shards,
        replicas=len(run.replicas),
        retries=run.retries,
        hedges=run.hedges,
        cached_documents=lookup.found,
        missed_documents=lookup.missed,
        coalesced_documents=lookup.coalesced,
    )


def _instruction(request: RankRequest, renderer: PromptRenderer, config: RerankerConfig) -> str:
    if request.instruction and not renderer.takes_instruction:
        raise InvalidRequestError("instruction", "the model of this service takes none")
    return config.model.instruction_text(request.instruction)


def cutting_policy(request: RankRequest, config: LongDocumentsConfig) -> CuttingPolicy:
    """The request's wishes where it has any, the configuration's elsewhere."""
    return CuttingPolicy(
        mode=request.long_documents or config.mode,
        side=request.truncation_side or config.truncation_side,
        max_document_tokens=request.max_document_tokens,
        window_tokens=config.window_tokens,
        overlap_tokens=config.overlap_tokens if request.overlap_tokens is None else request.overlap_tokens,
        max_windows=min(request.max_windows or config.max_windows, config.max_windows),
    )
