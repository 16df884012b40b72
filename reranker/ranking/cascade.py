"""Two models rank one list: a quick one all of its documents, and a right one the best of these again.

Scores of two models cannot be compared. So what the second model ranked comes first, with its scores; then the rest in
the order of the first, with its scores, but none above the lowest of the second's: scores fall from place to place.
Rules, threshold and `top_n` apply to what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from reranker.config import CascadeConfig, KeepAboveConfig
from reranker.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidScoreError,
    NotReadyError,
    OverloadedError,
)
from reranker.ranking import scoring
from reranker.ranking.admission import Permit
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import Caller, RankedDocument, Ranking, RankRequest, Stages

_NOT_IN_TIME = OverloadedError, NotReadyError, DeadlineExceededError, EngineFailedError
"""For these the first model's ranking is the answer. All else is wrong with the request, or with us."""


class Cascade:
    """Ranks as a `Ranker` does, with two of them."""

    def __init__(self, name: str, config: CascadeConfig, first: Ranker, then: Ranker) -> None:
        self.name, self._config, self._first, self._then = name, config, first, then

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> list[Ranking]:
        """Rank all lists of a request. Raises as `Ranker.rank`, but not if only the second model cannot in time."""
        in_thread = self._first.threads.run  # there may be thousands of lists
        with ExitStack() as held:
            place = self._place(lists, caller, record, held)
            whole = await in_thread(caller.name, self._whole, lists, self._first)
            firsts = await self._first.rank(whole, caller, record)
            kept, asked = await in_thread(caller.name, self._again, lists, firsts)
            seconds: Sequence[Ranking | None] = [None] * len(lists)
            missed = ""
            try:
                seconds = await self._rank_again(asked, kept, caller, record, place)
            except _NOT_IN_TIME as error:
                missed = error.code
        with record.stage("merge"):  # rules may search every text
            rankings = await in_thread(caller.name, self._finish, lists, firsts, seconds, kept, missed, caller)
        if len(lists) == 1 and lists[0].spans:
            return [await self._add_spans(lists[0], rankings[0], caller, record)]
        return rankings

    async def _add_spans(
        self, request: RankRequest, ranking: Ranking, caller: Caller, record: RequestRecord
    ) -> Ranking:
        """Find the spans of the final ranking, by the model whose scores lead it; without time or room, of none."""
        ranker = self._first if ranking.stages is None or not ranking.stages.ranked_again else self._then
        if not ranker.renderer.takes_instruction:
            request = replace(request, instruction=None)
        try:
            return await ranker.add_spans(request, ranking, caller, record)
        except _NOT_IN_TIME:
            return replace(ranking, spans_unscored=tuple(sorted(one.index for one in ranking.results)))

    def _place(
        self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord, held: ExitStack
    ) -> Permit | None:
        """Let the request in at the second model too, before any work; None: not now, it asks again when it is due."""
        documents, keep = sum(len(one.documents) for one in lists), self._config.keep
        share = keep if isinstance(keep, float) else 1.0
        if isinstance(keep, int):
            share = sum(min(keep, len(one.documents)) for one in lists) / documents
        try:
            asked = [*self._whole(lists[:1], self._then), *lists[1:]]
            return held.enter_context(self._then.permit(asked, caller, record, share))
        except (OverloadedError, NotReadyError):
            return None

    def _whole(self, lists: Sequence[RankRequest], ranker: Ranker) -> list[RankRequest]:
        """The lists as one of the two ranks them. An instruction is for whoever takes one; if neither does, refused."""
        either = self._first.renderer.takes_instruction or self._then.renderer.takes_instruction
        drop = either and not ranker.renderer.takes_instruction
        return [replace(one, whole=True, spans=None, instruction=None if drop else one.instruction) for one in lists]

    def _kept(self, ranking: Ranking) -> list[int]:
        """The indices of the documents that the second model gets, rising: ties are by index there too."""
        keep, ranked = self._config.keep, ranking.results
        if isinstance(keep, KeepAboveConfig):
            return sorted(one.index for one in ranked if one.relevance_score > keep.above)
        number = math.ceil(keep * len(ranked)) if isinstance(keep, float) else keep
        return sorted(one.index for one in ranked[:number])

    def _again(
        self, lists: Sequence[RankRequest], firsts: Sequence[Ranking]
    ) -> tuple[list[list[int]], list[RankRequest]]:
        """What is kept of each list, and the lists as the second model is asked for them."""
        scatter, limits, asked = self._then.config.scatter, self._then.config.limits, []
        kept = [self._kept(one) for one in firsts]
        for one, indices in zip(self._whole(lists, self._then), kept, strict=True):
            documents = tuple(one.documents[index] for index in indices)
            timeout_s = limits.bounded_s(one.timeout_s)
            timeout_s -= min(scatter.answer_margin_s, timeout_s / 5)  # the first's ranking must still be there in time
            asked.append(replace(one, documents=documents, metadata=(), timeout_s=timeout_s, allow_partial=False))
        return kept, asked

    async def _rank_again(
        self,
        asked: Sequence[RankRequest],
        kept: Sequence[Sequence[int]],
        caller: Caller,
        record: RequestRecord,
        permit: Permit | None,
    ) -> list[Ranking | None]:
        """Have the second model rank what is kept of each list. None: nothing is."""
        numbers = [number for number, indices in enumerate(kept) if indices]
        again: list[Ranking | None] = [None] * len(kept)
        if not numbers:
            return again
        before = len(record.shards)
        try:
            rankings = await self._then.rank([asked[number] for number in numbers], caller, record, permit)
        except InvalidScoreError as error:
            # One list: its document, as the client numbers it. Of several lists nobody says which one it was.
            index = kept[numbers[0]][error.index] if len(numbers) == 1 else error.index
            raise InvalidScoreError(index, error.invalid_pairs, error.pairs) from None
        finally:
            if len(kept) == 1:
                places = np.asarray(kept[0], dtype=np.int32)
                for shard in record.shards[before:]:
                    if shard.document_of_pair is not None:
                        shard.document_of_pair = places[shard.document_of_pair]
        for number, ranking in zip(numbers, rankings, strict=True):
            again[number] = ranking
        return again

    def _finish(
        self,
        lists: Sequence[RankRequest],
        firsts: Sequence[Ranking],
        seconds: Sequence[Ranking | None],
        kept: Sequence[Sequence[int]],
        missed: str,
        caller: Caller,
    ) -> list[Ranking]:
        rules, rankings = self._first.config.rules, []
        for request, first, second, indices in zip(lists, firsts, seconds, kept, strict=True):
            again = () if second is None else tuple(indices)
            stages = Stages(self._first.name, self._then.name, again, missed if indices else "")
            ranking = first if second is None else joined(first, second, indices)
            complete = caller.complete or rules.complete if request.complete is None else request.complete
            finished = scoring.finish(ranking, replace(request, complete=complete), rules)
            rankings.append(replace(finished, model=self.name, stages=stages))
        return rankings


def joined(first: Ranking, second: Ranking, indices: Sequence[int]) -> Ranking:
    """One ranking of both models' rankings of all documents; `indices` are of those that the second ranked."""
    ahead = tuple(replace(one, index=indices[one.index]) for one in second.results)
    lowest, again = ahead[-1], set(indices)
    behind = tuple(_below(one, lowest) for one in first.results if one.index not in again)
    results = (*ahead, *behind)
    return replace(
        first,
        results=results,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        deduplicated_pairs=first.deduplicated_pairs + second.deduplicated_pairs,
        truncated_documents=sum(one.truncated for one in results),
        windowed_documents=sum(one.windows > 1 for one in results),
        cached_documents=first.cached_documents + second.cached_documents,
        missed_documents=first.missed_documents + second.missed_documents,
        coalesced_documents=first.coalesced_documents + second.coalesced_documents,
    )


def _below(one: RankedDocument, lowest: RankedDocument) -> RankedDocument:
    score, log_odds = min(one.relevance_score, lowest.relevance_score), min(one.log_odds, lowest.log_odds)
    return replace(one, relevance_score=score, log_odds=log_odds)
