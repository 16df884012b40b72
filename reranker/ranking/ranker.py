"""One request, top to bottom: look up, admit, render, plan, scatter, merge, rules. Knows neither Ray nor HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reranker.cache.entry import pack, unpack
from reranker.cache.keys import ListTerms
from reranker.cache.lookup import Lookup
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidRequestError, NotReadyError
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.ranking import scoring
from reranker.ranking.admission import Admission, Permit, PermitPart
from reranker.ranking.planning import most_shards, plan, portions
from reranker.ranking.scatter import Dispatch, Fleet, Scatter
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest, RenderedList

_INLINE_CHARACTERS = 4_000
"""So little text is tokenized where it is: it takes a millisecond, and another thread half of one more."""
_LISTS_AT_ONCE = 16
"""Lists of one request under way at the same time: enough to fill the engines, too few to crowd others out."""
_READ_ANYWAY_BYTES = 4 * 2**20
"""A body up to this size is read and looked up even where there is no room: what is known is answered. That takes some
20 ms at most; a larger one is refused unread, as all are without a cache."""


class Ranker:
    """Ranks lists: the service's, the shell's and the tests' way through. To be used from one event loop."""

    def __init__(
        self, config: RerankerConfig, renderer: PromptRenderer, fleet: Fleet, cache: ScoreCache | None = None
    ) -> None:
        """Start with nothing in flight.

        Args:
            config: Limits, rules and defaults.
            renderer: Makes the prompts.
            fleet: The engines.
            cache: Known scores. None: nothing is remembered.
        """
        self.config, self.renderer, self.cache = config, renderer, cache
        self.placement = fleet.placement
        self.admission = Admission(config.admission, config.priorities)
        self.scatter = Scatter(fleet, config.scatter)

    def require_any_room(self, body_bytes: int) -> None:
        """Turn away what could not be let in, before its body is read: refusing must stay cheap.

        Raises:
            OverloadedError: There is no room for a body of this size.
        """
        if self.cache is not None and body_bytes <= _READ_ANYWAY_BYTES:
            return  # it may be known, and need no room
        self.admission.require_any_room(body_bytes, self.placement.elsewhere())

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> list[Ranking]:
        """Rank all lists of a request, or none; with `allow_partial`, those documents that time suffices for.

        Args:
            lists: At least one; several for pairs with different queries, as `/score` takes them.
            caller: Who asks.
            record: Of the request. Its beginning starts the clock; what happens is noted there.

        Raises:
            InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
            QueryTooLongError: The query leaves no room for a document.
            RequestTooLargeError: The lists have more tokens than are ever let in.
            OverloadedError: They do not fit now.
            NotReadyError: There is no replica.
            DeadlineExceededError: Time was up; with `allow_partial`, before the first document was scored.
            InvalidScoreError: The model gave a logit that is not a number.
            ServiceError: A shard could not be scored; the others are cancelled.
        """
        if not self.placement.live_replicas:
            raise NotReadyError
        if caller.priority == "bulk":
            lists = [replace(one, priority="bulk") for one in lists]
            record.priority = "bulk"
        deadline = _Deadline.of(record, self.config.limits.bounded_s(lists[0].timeout_s))
        if len(lists) == 1:
            return [await self._rank_alone(lists[0], caller, record, deadline)]
        return await self._rank_together(lists, caller, record, deadline)

    async def _rank_alone(
        self, request: RankRequest, caller: Caller, record: RequestRecord, deadline: _Deadline
    ) -> Ranking:
        """Look up first: what is known needs no leave."""
        settings = _ListSettings.of(request, self.renderer, self.config)
        async with self._look_up(request, settings, caller, record) as lookup:
            share = _share_to_score(request, lookup)
            with self._admit(math.ceil(record.size_bytes * share), request, record, deadline) as permit:
                return await self._score(request, settings, lookup, permit, record, deadline)

    async def _rank_together(
        self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord, deadline: _Deadline
    ) -> list[Ranking]:
        """Rank several lists under one permit; the first that fails cancels the others."""
        turns = asyncio.Semaphore(_LISTS_AT_ONCE)

        async def in_turn(request: RankRequest, permit: PermitPart) -> Ranking:
            async with turns:
                deadline.require_time()
                settings = _ListSettings.of(request, self.renderer, self.config)
                async with self._look_up(request, settings, caller, record) as lookup:
                    return await self._score(request, settings, lookup, permit, record, deadline)

        with self._admit(record.size_bytes, lists[0], record, deadline) as permit:
            try:
                async with asyncio.TaskGroup() as group:
                    parts = zip(lists, permit.split(len(lists)), strict=True)
                    tasks = [group.create_task(in_turn(request, part)) for request, part in parts]
            except ExceptionGroup as failures:  # several may fail; the client hears of the first
                raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    @asynccontextmanager
    async def _look_up(
        self, request: RankRequest, settings: _ListSettings, caller: Caller, record: RequestRecord
    ) -> AsyncIterator[Lookup]:
        """Find what is known of a list; for as long as the block lasts, other lists wait for what it has scored."""
        model = self.placement.model
        if self.cache is None or model is None or request.cache == "off":
            yield Lookup([document.encode("utf-8", "surrogatepass") for document in request.documents])
            return
        terms = ListTerms(
            model=model,
            prompts=self.renderer.fingerprint,
            namespace=caller.name if self.config.cache.namespace == "api_key" else "",
            instruction=settings.instruction,
            query=request.query,
            cutting=settings.cutting,
            adapter=settings.adapter,
        )
        async with AsyncExitStack() as entered:
            with record.stage("cache"):
                looking = self.cache.look_up(terms, request.documents, request.cache, settings.weight)
                lookup = await entered.enter_async_context(looking)
            yield lookup

    @contextmanager
    def _admit(
        self, body_bytes: int, request: RankRequest, record: RequestRecord, deadline: _Deadline
    ) -> Iterator[Permit]:
        """Let a request in for as long as the block lasts, sized by what of its body has to be scored."""
        with ExitStack() as entered:
            with record.stage("admit"):
                elsewhere = self.placement.elsewhere()
                admitted = self.admission.permit(body_bytes, request.priority, deadline.left_s, elsewhere)
                permit = entered.enter_context(admitted)
            yield permit

    async def _score(
        self,
        request: RankRequest,
        settings: _ListSettings,
        lookup: Lookup,
        permit: Permit | PermitPart,
        record: RequestRecord,
        deadline: _Deadline,
    ) -> Ranking:
        """Have the engines score what of a list is not known, and make one ranking of all of it."""
        scoring_of_list = _Scoring(self, request, settings, lookup, permit, record, deadline.at_s)
        try:
            await scoring_of_list.run()
        except ExceptionGroup as failures:  # several portions may fail; the client hears of the first
            if isinstance(failures.exceptions[0], TimeoutError):
                raise DeadlineExceededError(deadline.timeout_s) from None
            raise failures.exceptions[0] from None
        with record.stage("merge"):
            return self._merge(request, lookup, deadline)

    def _merge(self, request: RankRequest, lookup: Lookup, deadline: _Deadline) -> Ranking:
        known = unpack([lookup.entries[place] for place in lookup.places])
        if not known.scored.any():
            raise DeadlineExceededError(deadline.timeout_s)
        aggregate = request.aggregate or self.config.long_documents.aggregate
        log_odds = scoring.aggregate(known.logits, known.document_of_window, aggregate)
        truncated = frozenset(np.flatnonzero(known.truncated).tolist())
        ranked = scoring.rank(log_odds, truncated, known.windows, np.flatnonzero(known.scored))
        kept, excluded = scoring.apply(ranked, request, self.config.rules)
        return Ranking(
            results=kept[: request.top_n],
            excluded=excluded,
            unscored=tuple(np.flatnonzero(~known.scored).tolist()),
            prompt_tokens=int(known.prompt_tokens.sum()),
            deduplicated_pairs=int(known.windows.sum() - known.windows[lookup.documents].sum()),
            truncated_documents=len(truncated),
            windowed_documents=int((known.windows > 1).sum()),
            cached_documents=lookup.found,
            missed_documents=lookup.missed,
            coalesced_documents=lookup.coalesced,
        )

    def check_integrity(self) -> None:
        """Raise RuntimeError if any part has kept something that belongs to no list in flight."""
        self.admission.check_integrity()
        self.placement.check_integrity()
        self.scatter.check_integrity(self.admission.lists_in_flight)
        if self.cache is not None:
            self.cache.check_integrity()


def _share_to_score(request: RankRequest, lookup: Lookup) -> float:
    """How much of a list's text its engines have to see, in [0, 1]."""
    characters = sum(map(len, request.documents)) + 1
    return min(1.0, sum(len(request.documents[lookup.documents[place]]) + 1 for place in lookup.to_score) / characters)


@dataclass(frozen=True, slots=True)
class _Deadline:
    """When a request must be answered: counted from its head, so that reading and parsing count too."""

    at_s: float
    """On the clock of `time.monotonic`, which is the event loop's."""
    timeout_s: float

    @classmethod
    def of(cls, record: RequestRecord, timeout_s: float) -> Self:
        return cls(record.began_s + timeout_s, timeout_s)

    @property
    def left_s(self) -> float:
        return self.at_s - asyncio.get_running_loop().time()

    def require_time(self) -> None:
        if self.left_s <= 0:
            raise DeadlineExceededError(self.timeout_s)


@dataclass(frozen=True, slots=True)
class _ListSettings:
    """How one list is ranked: the request's wishes where it has any, the configuration's elsewhere."""

    instruction: str
    cutting: CuttingPolicy
    adapter: str
    """Empty: the model itself, whatever the client calls it."""
    weight: float

    @classmethod
    def of(cls, request: RankRequest, renderer: PromptRenderer, config: RerankerConfig) -> Self:
        if request.instruction and not renderer.takes_instruction:
            raise InvalidRequestError("instruction", "the model of this service takes none")
        return cls(
            instruction=config.model.instruction_text(request.instruction),
            cutting=CuttingPolicy.of(request, config.long_documents),
            adapter=request.model if request.model and request.model in config.engine.lora_adapters else "",
            weight=config.priorities.of(request.priority).weight,
        )


class _Scoring:
    """Has the documents of one list scored, as far as they are not known."""

    def __init__(
        self,
        ranker: Ranker,
        request: RankRequest,
        settings: _ListSettings,
        lookup: Lookup,
        permit: Permit | PermitPart,
        record: RequestRecord,
        deadline_s: float,
    ) -> None:
        self._ranker, self._request, self._settings = ranker, request, settings
        self._lookup, self._permit, self._record, self._deadline_s = lookup, permit, record, deadline_s
        self._models: set[str] = set()
        self._work_tokens = 0

    async def run(self) -> None:
        """Score what nobody else has scored, and wait for what others are having scored."""
        async with asyncio.TaskGroup() as group:
            if self._lookup.to_score:
                await self._send(group, self._lookup.to_score)
            self._permit.resize(self._work_tokens)
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    while given_up := await self._others():
                        await self._send(group, given_up)
            except TimeoutError:
                if not self._request.allow_partial:
                    raise
                self._lookup.take_what_there_is()
        if self._models - {self._lookup.model} and (distrusted := self._lookup.distrust()):
            async with asyncio.TaskGroup() as group:  # the model was changed meanwhile: no list mixes the scores of two
                await self._send(group, distrusted)

    async def _others(self) -> list[int]:
        if not self._lookup.waits:
            return []
        with self._record.stage("coalesce"):
            return await self._lookup.others()

    async def _send(self, group: asyncio.TaskGroup, places: Sequence[int]) -> None:
        """Render portion by portion, and send each off while the next is rendered, as far as time allows."""
        planning, placement = self._ranker.config.planning, self._ranker.placement
        documents = self._request.documents
        left = list(places)
        for texts in portions([documents[self._lookup.documents[place]] for place in places]):
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    with self._record.stage("tokenize"):
                        rendered = await self._render(texts)
            except TimeoutError:
                if self._request.allow_partial:
                    return
                raise
            prompts = rendered.prompts
            self._work_tokens += prompts.work_tokens - (len(prompts.head) if self._work_tokens else 0)  # the head once
            self._permit.grow(self._work_tokens)
            portion, left = left[: len(texts)], left[len(texts) :]
            shortlist = placement.shortlist(most_shards(prompts.pair_tokens, planning))
            if not shortlist.replicas:
                raise NotReadyError
            shards = [np.asarray(one) for one in plan(prompts.pair_tokens, shortlist.loads, planning)]
            group.create_task(self._score(portion, rendered, shards, shortlist.replicas))

    async def _render(self, texts: Sequence[str]) -> RenderedList:
        render, settings = self._ranker.renderer.render, self._settings
        arguments = self._request.query, texts, settings.instruction, settings.cutting
        if len(self._request.query) + sum(map(len, texts)) <= _INLINE_CHARACTERS:
            rendered = render(*arguments)
        else:
            rendered = await asyncio.to_thread(render, *arguments)  # releases the interpreter's lock
        return rendered.for_adapter(settings.adapter)

    async def _score(
        self,
        places: Sequence[int],
        rendered: RenderedList,
        shards: Sequence[NDArray[np.intp]],
        shortlist: Sequence[str],
    ) -> None:
        """Have one portion scored."""
        prompts = rendered.prompts
        documents = np.asarray([self._lookup.documents[place] for place in places], dtype=np.int32)
        document_of_pair = documents[rendered.document_of_pair]
        parts = [prompts.select(indices.tolist()) for indices in shards]
        records = [
            self._record.shard(len(part), part.work_tokens, document_of_pair[indices])
            for part, indices in zip(parts, shards, strict=True)
        ]
        dispatch = Dispatch(
            self._deadline_s,
            self._settings.weight,
            allow_partial=self._request.allow_partial,
            shortlist=shortlist,
            request_id=self._record.request_id,
        )
        answers = await self._ranker.scatter.gather(parts, records, dispatch)
        answered = [(indices, answer) for indices, answer in zip(shards, answers, strict=True) if answer]
        with self._record.stage("merge"):
            scores = scoring.merge([(indices, answer.scores) for indices, answer in answered], len(prompts))
            scoring.require_finite(scores, document_of_pair)
            models = frozenset(answer.model for _, answer in answered)
            self._models |= models
            self._lookup.keep(places, pack(rendered, scores), models)
