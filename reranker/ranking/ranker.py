"""One request, top to bottom: look up, admit, render, plan, scatter, merge, rules. Knows neither Ray nor HTTP."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from reranker.cache.entry import ScoredDocuments, pack, unpack
from reranker.cache.keys import ListTerms
from reranker.cache.lookup import Lookup
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidRequestError, NotReadyError
from reranker.model.prompt import CUT_THE_END, CuttingPolicy, PromptRenderer
from reranker.ranking import scoring
from reranker.ranking.admission import Admission, Permit
from reranker.ranking.evidence import Evidence, most_characters
from reranker.ranking.one_list import OneList
from reranker.ranking.placement import ModelGoneError
from reranker.ranking.planning import most_shards, plan, portions
from reranker.ranking.scatter import Dispatch, Fleet, Scatter
from reranker.ranking.threads import FairThreads
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest, RenderedList, ServedModel

P = ParamSpec("P")
T = TypeVar("T")

_INLINE_CHARACTERS = 4_000
"""Less text than that is tokenized on the event loop: it takes 1 ms, and a thread costs half as much again."""
_LISTS_AT_ONCE = 16
"""Lists that are scored at once of a caller's requests with several: they fill the engines, and crowd nobody out."""
_PORTIONS_AT_ONCE, _REPLICAS_PER_PORTION = 3, 8
"""Portions of one list that engines have at once, and one more for so many replicas: rendered ones take memory."""
_READ_ANYWAY_BYTES = 4 * 2**20
"""A body up to this size is read and looked up even without room, as its scores may be known. That takes 20 ms at most;
a larger one is refused unread, as all are without a cache."""


class Ranker:
    """Ranks lists, for the service, the shell and the tests. To be used from one event loop."""

    def __init__(
        self,
        config: RerankerConfig,
        renderer: PromptRenderer,
        fleet: Fleet,
        cache: ScoreCache | None = None,
        name: str = "",
    ) -> None:
        """`config` is of one model; `name` is its name in answers. Empty: as its engines say."""
        self.config, self.renderer, self.cache, self.name = config, renderer, cache, name
        self.placement = fleet.placement
        self.admission = Admission(config.admission, config.priorities, config.limits.timeout_s)
        self.scatter = Scatter(fleet, config.scatter)
        self.threads = FairThreads()
        self.numbers = itertools.count()  # of lists
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by caller

    def require_any_room(self, body_bytes: int) -> None:
        """Turn away (OverloadedError) a body before it is read, if there is no room for it."""
        if self.cache is None or body_bytes > _READ_ANYWAY_BYTES:
            self.admission.require_any_room(body_bytes, self.placement.elsewhere())

    async def rank(
        self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord, permit: Permit | None = None
    ) -> list[Ranking]:
        """Rank all lists of a request, or none; with `allow_partial`, the documents that time suffices for.

        There is at least one; several for pairs with different queries, as `/score` takes them. The beginning of the
        request's record starts the clock of the deadline. Without a `permit` that is held already, one is asked for.

        Raises:
            InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
            QueryTooLongError, RequestTooLargeError: No document can be scored, or not that many tokens.
            NotReadyError, OverloadedError: There is no replica, or no room now.
            DeadlineExceededError: Time was up; with `allow_partial`, before the first document was scored.
            ServiceError: A shard could not be scored, or not in numbers; the others are cancelled.
        """
        if caller.priority == "bulk":
            record.priority = "bulk"
        first = self._list(lists[0], 0, caller, record)
        await self.wait_for_replica(first)
        if len(lists) == 1:
            return [await self._rank_alone(first, permit)]

        def all_lists() -> Iterator[OneList]:
            rest = (self._list(one, number, caller, record) for number, one in enumerate(lists[1:], start=1))
            return itertools.chain([first], rest)

        return await self._rank_together(len(lists), first, all_lists, permit)

    def permit(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord, share: float) -> Permit:
        """Let in lists of which this ranker will get a share of the documents later. Raises as `rank` does."""
        first = self._list(lists[0], 0, caller, record)
        if not self.placement.live_replicas:
            raise NotReadyError
        most = math.ceil(share * sum(len(one.documents) for one in lists)) * self.renderer.most_tokens(first.cutting)
        return self._admit(math.ceil(share * record.size_bytes), first, len(lists), most)

    async def add_spans(self, request: RankRequest, ranking: Ranking, caller: Caller, record: RequestRecord) -> Ranking:
        """Find the spans of a ranking that a cascade has made, as far as time and room allow. Raises as `rank`."""
        one = self._list(request, 0, caller, record)
        characters = most_characters(request, one.documents, self.config.evidence)
        size_bytes = math.ceil(record.size_bytes * min(1.0, characters / (sum(map(len, request.documents)) + 1)))
        with self._admit(size_bytes, one, 1, later=1.0) as permit:
            return await self._by_one_model(one, lambda model: self._add_spans(one, ranking, model, permit))

    async def wait_for_replica(self, one: OneList) -> None:
        """Return once there is a replica. Where none has ever been, the service still starts, and nobody waits."""
        if self.placement.live_replicas:
            return
        if not self.placement.any_yet:
            raise NotReadyError
        try:
            async with asyncio.timeout_at(one.deadline_s):
                await self.scatter.fleet.ready()
        except TimeoutError:
            raise NotReadyError from None

    def _list(self, request: RankRequest, number: int, caller: Caller, record: RequestRecord) -> OneList:
        config = self.config
        if request.instruction and not self.renderer.takes_instruction:
            raise InvalidRequestError("instruction", "the model of this service takes none")
        if caller.priority == "bulk":
            request = replace(request, priority="bulk")
        if request.complete is None:
            request = replace(request, complete=caller.complete or config.rules.complete)
        instruction = config.model.instruction_text(request.instruction)
        self.renderer.require_room(request.query, instruction)
        cutting = CuttingPolicy.of(request, config.long_documents)
        timeout_s = config.limits.bounded_s(request.timeout_s)
        return OneList(
            request,
            number,
            record,
            caller.name,
            self.renderer.readable(request.documents, cutting),
            timeout_s=timeout_s,
            margin_s=min(config.scatter.answer_margin_s, timeout_s / 5) if request.allow_partial else 0.0,
            instruction=instruction,
            cutting=cutting,
            adapter=request.model if request.model and request.model in config.engine.lora_adapters else "",
            weight=config.priorities.of(request.priority).weight,
            namespace=caller.name if config.cache.namespace == "api_key" else "",
        )

    async def _by_one_model(self, first: OneList, rank: Callable[[ServedModel], Awaitable[T]]) -> T:
        """Rank with one model; and all of it again, with another, where no replica holds that one any more."""
        before = len(first.record.shards)  # of a cascade's first stage
        while True:
            await self.wait_for_replica(first)
            if (model := self.placement.model) is None:
                raise RuntimeError("replicas take lists, but no model is chosen. This is a bug.")
            try:
                return await rank(model)
            except ModelGoneError:
                del first.record.shards[before:]  # the answer has nothing of them

    async def _rank_alone(self, one: OneList, permit: Permit | None) -> Ranking:
        """Look up first: what is known needs no permit."""
        permits: list[Permit] = [permit] if permit else []
        with ExitStack() as held:

            async def rank(model: ServedModel) -> Ranking:
                async with self._look_up(one, model) as lookup:
                    if not permits:  # who was let in stays in
                        to_score = sum(len(one.documents[lookup.documents[place]]) + 1 for place in lookup.to_score)
                        later = most_characters(one.request, one.documents, self.config.evidence)
                        share = (to_score + later) / max(to_score, sum(map(len, one.request.documents)) + 1)
                        most = len(lookup.to_score) * self.renderer.most_tokens(one.cutting) * (3 if later else 1)
                        size_bytes, part = math.ceil(one.record.size_bytes * share), later / max(1, to_score + later)
                        permits.append(held.enter_context(self._admit(size_bytes, one, 1, most, part)))
                    ranking = await self._score(one, lookup, model, permits[0])
                return await self._add_spans(one, ranking, model, permits[0]) if one.request.spans else ranking

            return await self._by_one_model(one, rank)

    async def _rank_together(
        self, number: int, first: OneList, lists: Callable[[], Iterator[OneList]], held: Permit | None
    ) -> list[Ranking]:
        """Rank several lists under one permit, and with one model; the first that fails cancels the others."""
        turns = self._turns.setdefault(first.caller, asyncio.Semaphore(_LISTS_AT_ONCE))

        async def rank(model: ServedModel) -> list[Ranking]:
            waiting, rankings = lists(), dict[int, Ranking]()

            async def work() -> None:
                for one in waiting:
                    await asyncio.sleep(0)  # thousands of lists that are known, one after the other, wait for nothing
                    async with turns:
                        if one.left_s <= 0:
                            raise DeadlineExceededError(one.timeout_s)
                        async with self._look_up(one, model) as lookup:
                            rankings[one.number] = await self._score(one, lookup, model, permit)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(number, _LISTS_AT_ONCE)):
                        group.create_task(work())
            except ExceptionGroup as failures:  # several may fail; the client hears of the first
                raise failures.exceptions[0] from None
            return [rankings[place] for place in range(number)]

        with nullcontext(held) if held else self._admit(first.record.size_bytes, first, number) as permit:
            return await self._by_one_model(first, rank)

    @asynccontextmanager
    async def _look_up(self, one: OneList, model: ServedModel) -> AsyncIterator[Lookup]:
        """Find the known scores of a list. For as long as the block lasts, other lists wait for what it has scored."""
        request = one.request
        if self.cache is None or not model.identity or request.cache == "off":
            await self.run(one, sum(map(len, one.documents)) // 50, list, map(hash, one.documents))  # strings keep it
            yield Lookup(one.documents)
            return
        prompts, in_thread = self.renderer.fingerprint, partial(self.threads.run, one.caller)
        terms = ListTerms(
            model.identity, prompts, one.namespace, one.instruction, request.query, one.cutting, one.adapter
        )
        stage = one.record.stage("cache")
        async with self.cache.look_up(terms, one.documents, request.cache, one.weight, stage, in_thread) as lookup:
            yield lookup

    async def run(
        self, one: OneList, characters: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function that tokenizes so many characters, or takes as long as that, here or in a thread."""
        inline = characters <= _INLINE_CHARACTERS
        return function(*args, **kwargs) if inline else await self.threads.run(one.caller, function, *args, **kwargs)

    def _admit(self, body_bytes: int, first: OneList, lists: int, most: float = math.inf, later: float = 0.0) -> Permit:
        """Let the lists of a request in, sized by the bytes that are to be scored; see `Admission.permit`."""
        with first.record.stage("admit"):
            elsewhere, priority = self.placement.elsewhere(), first.request.priority
            return self.admission.permit(body_bytes, priority, first.left_s, elsewhere, lists, most, later)

    async def _add_spans(self, one: OneList, ranking: Ranking, model: ServedModel, permit: Permit) -> Ranking:
        """Find the spans of what is returned, as far as time allows: their sentences are scored as lists are."""
        margin_s, numbers = min(self.config.scatter.answer_margin_s, one.timeout_s / 5), itertools.count(1)
        soon = replace(one, request=replace(one.request, allow_partial=True), margin_s=margin_s, cutting=CUT_THE_END)

        async def score(texts: Sequence[str], owners: Sequence[int]) -> ScoredDocuments | None:
            more = replace(soon, number=next(numbers), documents=texts, owners=owners)
            if more.left_s <= 0:
                return None
            async with self._look_up(more, model) as lookup:
                with suppress(NotReadyError):  # by then
                    await self._fill(more, lookup, model, permit)
                return unpack([lookup.entries[place] for place in lookup.places])

        found = Evidence(one.request, one.documents, one.instruction, one.cutting, self.renderer, self.config.evidence)
        with one.record.stage("evidence"):
            return await found.add_to(ranking, score, partial(self.run, one))

    async def _fill(self, one: OneList, lookup: Lookup, model: ServedModel, permit: Permit) -> None:
        try:
            await _Scoring(self, one, lookup, model.identity, permit).run()
        except ExceptionGroup as failures:  # several portions may fail; the client hears of the first
            if isinstance(failures.exceptions[0], TimeoutError):
                raise DeadlineExceededError(one.timeout_s) from None
            raise failures.exceptions[0] from None

    async def _score(self, one: OneList, lookup: Lookup, model: ServedModel, permit: Permit) -> Ranking:
        await self._fill(one, lookup, model, permit)
        with one.record.stage("merge"):
            characters = sum(map(len, one.request.documents)) // 50 if self.config.rules.exclude else 0
            return await self.run(
                one, characters + len(one.documents), self._merge, one, lookup, one.adapter or self.name or model.name
            )

    def _merge(self, one: OneList, lookup: Lookup, model: str) -> Ranking:
        request, known = one.request, unpack([lookup.entries[place] for place in lookup.places])
        if not known.scored.any():
            raise DeadlineExceededError(one.timeout_s)
        aggregate = request.aggregate or self.config.long_documents.aggregate
        scale = self.renderer.scale
        log_odds = scoring.aggregate(known.logits, known.document_of_window, aggregate, scale)
        truncated = frozenset(np.flatnonzero(known.truncated).tolist())
        ranked = scoring.rank(log_odds, truncated, known.windows, np.flatnonzero(known.scored), scale)
        ranking = Ranking(
            results=ranked,
            unscored=tuple(np.flatnonzero(~known.scored).tolist()),
            prompt_tokens=int(known.prompt_tokens.sum()),
            deduplicated_pairs=int(known.windows.sum() - known.windows[lookup.documents].sum()),
            truncated_documents=len(truncated),
            windowed_documents=int((known.windows > 1).sum()),
            cached_documents=lookup.found,
            missed_documents=lookup.missed,
            coalesced_documents=lookup.coalesced,
            model=model,
        )
        return ranking if request.whole else scoring.finish(ranking, request, self.config.rules)

    def check_integrity(self) -> None:
        self.placement.check_integrity()
        self.scatter.check_integrity(self.admission.lists_in_flight)
        if self.cache is not None:
            self.cache.check_integrity()


class _Scoring:
    """Has the documents of one list scored that are not known, all with the model of one identity."""

    def __init__(self, ranker: Ranker, one: OneList, lookup: Lookup, model: str, permit: Permit) -> None:
        self._ranker, self._list, self._lookup, self._model, self._permit = ranker, one, lookup, model, permit
        self._request, self._record, self._deadline_s = one.request, one.record, one.deadline_s
        self._work_tokens = 0
        most = _PORTIONS_AT_ONCE + ranker.placement.live_replicas // _REPLICAS_PER_PORTION
        self._list_id = f"{ranker.placement.sender[:8]}-{next(ranker.numbers)}"
        self._sendings = asyncio.Semaphore(most)

    async def run(self) -> None:
        """Score what no other list is having scored, and wait for what others are."""
        async with asyncio.TaskGroup() as group:
            if self._lookup.to_score:
                await self._send(group, self._lookup.to_score)
            self._permit.resize(self._work_tokens, self._list.number)
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    while self._lookup.waits:
                        with self._record.stage("coalesce"):
                            abandoned = await self._lookup.others()
                        if abandoned:
                            await self._send(group, abandoned)
            except TimeoutError:
                if not self._request.allow_partial:
                    raise
                self._lookup.take_what_there_is()

    async def _send(self, group: asyncio.TaskGroup, places: Sequence[int]) -> None:
        """Render portion by portion, and send each while the next is rendered, as far as time allows."""
        texts_of_places = [self._list.documents[self._lookup.documents[place]] for place in places]
        characters, rendered_characters, start = sum(map(len, texts_of_places)), 0, 0
        parts = list(portions(texts_of_places))
        ahead = None  # the next portion's rendering, in another thread
        for number, texts in enumerate(parts):
            rendering = ahead or self._render(texts)
            ahead = group.create_task(self._render(parts[number + 1])) if number + 1 < len(parts) else None
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    rendered = await rendering
                    await self._sendings.acquire()
            except TimeoutError:
                if ahead is not None:
                    ahead.cancel()
                if self._request.allow_partial:
                    return
                raise
            prompts = rendered.prompts
            self._work_tokens += prompts.work_tokens - (len(prompts.head) if self._work_tokens else 0)  # the head once
            rendered_characters += sum(map(len, texts))
            share = (rendered_characters + 1) / (characters + 1)
            self._permit.grow(self._work_tokens, self._list.number, share)
            portion = places[start : start + len(texts)]
            start += len(texts)
            sending = group.create_task(self._score(portion, rendered))
            sending.add_done_callback(lambda _: self._sendings.release())

    async def _render(self, texts: Sequence[str]) -> RenderedList:
        query, one = self._request.query, self._list
        characters = len(query) + len(one.instruction) + sum(map(len, texts))
        render = self._ranker.renderer.render
        with self._record.stage("tokenize"):
            rendered = await self._ranker.run(one, characters, render, query, texts, one.instruction, one.cutting)
        return rendered.for_adapter(one.adapter)

    async def _score(self, places: Sequence[int], rendered: RenderedList) -> None:
        prompts, planning = rendered.prompts, self._ranker.config.planning
        await self._ranker.wait_for_replica(self._list)
        shortlist = self._ranker.placement.shortlist(most_shards(prompts.pair_tokens, planning), self._model)
        shards = [np.asarray(one) for one in plan(prompts.pair_tokens, shortlist.loads, planning)]
        owners = self._list.owners or range(len(self._list.documents))
        documents = np.asarray([owners[self._lookup.documents[place]] for place in places], dtype=np.int32)
        document_of_pair = documents[rendered.document_of_pair]
        parts = [prompts.select(indices.tolist()) for indices in shards]
        records = [
            self._record.shard(len(part), part.work_tokens, document_of_pair[indices])
            for part, indices in zip(parts, shards, strict=True)
        ]
        terms = self._deadline_s, self._list.weight, self._request.allow_partial
        dispatch = Dispatch(*terms, shortlist.replicas, self._record.request_id, self._list_id, self._model)
        answers = await self._ranker.scatter.gather(parts, records, dispatch)
        answered = [(indices, answer) for indices, answer in zip(shards, answers, strict=True) if answer]
        with self._record.stage("merge"):
            scores = scoring.merge([(indices, answer.scores) for indices, answer in answered], len(prompts))
            scoring.require_finite(scores, document_of_pair)
            self._lookup.keep(places, pack(rendered, scores))
