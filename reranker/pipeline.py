"""One request, top to bottom: render, plan, scatter, merge, rules. Knows neither Ray nor HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reranker import rules, scoring
from reranker.admission import Permit, PermitPart
from reranker.config import LongDocumentsConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidRequestError, NotReadyError
from reranker.planning import plan
from reranker.portions import DistinctPairs, portions
from reranker.prompt import PromptRenderer
from reranker.scatter import Gathered, Scatter
from reranker.types import Ranking, RankRequest, RenderedList
from reranker.windows import CuttingPolicy


async def rerank(
    request: RankRequest,
    permit: Permit | PermitPart,
    renderer: PromptRenderer,
    scatter: Scatter,
    config: RerankerConfig,
) -> Ranking:
    """Score every document of a list, or none; with `allow_partial`, those that time suffices for.

    Args:
        request: Query and documents.
        permit: Leave to occupy the service with the list.
        renderer: Makes the prompts.
        scatter: Sends shards to the replicas.
        config: Limits.

    Raises:
        InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
        QueryTooLongError: The query leaves no room for a document.
        RequestTooLargeError: The list has more tokens than are ever let in.
        NotReadyError: There is no replica.
        DeadlineExceededError: Time was up; with `allow_partial`, before the first document was scored.
        InvalidScoreError: The model gave a logit that is not a number.
        ServiceError: A shard could not be scored; the others are cancelled.
    """
    if request.instruction and not renderer.takes_instruction:
        raise InvalidRequestError("instruction", "the model of this service takes none")
    timeout_s = config.limits.bounded_s(request.timeout_s)
    sender = _Sender(request, renderer, scatter, config, asyncio.get_running_loop().time() + timeout_s)
    try:
        async with asyncio.TaskGroup() as group:
            await sender.send_all(group, permit)
    except ExceptionGroup as failures:  # several portions may fail; the client hears of the first
        if isinstance(failures.exceptions[0], TimeoutError):
            raise DeadlineExceededError(timeout_s) from None
        raise failures.exceptions[0] from None
    return replace(_ranking(sender.sent, request, config, timeout_s), tokenize_s=sender.tokenize_s)


@dataclass(frozen=True, slots=True)
class _Portion:
    """Documents of the list that were rendered together, and their scores to come."""

    first_document: int
    rendered: RenderedList
    places: NDArray[np.intp]
    """Shape (pairs,): of each pair among the list's distinct pairs."""
    shards: Sequence[NDArray[np.intp]]
    """Such places, by shard."""
    gathered: asyncio.Task[Gathered]


class _Sender:
    """Renders a list portion by portion, and sends each off while the next is rendered."""

    def __init__(
        self,
        request: RankRequest,
        renderer: PromptRenderer,
        scatter: Scatter,
        config: RerankerConfig,
        deadline_s: float,
    ) -> None:
        self.sent: list[_Portion] = []
        self.tokenize_s = 0.0
        self._request, self._renderer, self._scatter, self._config = request, renderer, scatter, config
        self._deadline_s = deadline_s
        self._distinct = DistinctPairs()

    async def send_all(self, group: asyncio.TaskGroup, permit: Permit | PermitPart) -> None:
        """Send the list as far as time allows; the scores come with the group's tasks."""
        instruction = self._config.model.instruction_text(self._request.instruction)
        cutting = _cutting(self._request, self._config.long_documents)
        document = work_tokens = 0
        for texts in portions(self._request.documents):
            started_s = time.perf_counter()
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    # In a thread: tokenizing a long list takes a while, and releases the interpreter's lock.
                    rendered = await asyncio.to_thread(
                        self._renderer.render, self._request.query, texts, instruction, cutting
                    )
            except TimeoutError:
                if self._request.allow_partial and self.sent:
                    return
                raise
            self.tokenize_s += time.perf_counter() - started_s
            prompts = rendered.prompts
            work_tokens += prompts.work_tokens - (len(prompts.head) if document else 0)  # the head once
            permit.grow(work_tokens)
            self._send(group, document, rendered)
            document += len(texts)
        permit.resize(work_tokens)

    def _send(self, group: asyncio.TaskGroup, first_document: int, rendered: RenderedList) -> None:
        known = len(self._distinct)
        new, places = self._distinct.add(rendered.prompts)
        loads = self._scatter.fleet.loads()
        if not loads:
            raise NotReadyError
        shards = plan(new.pair_tokens, loads, self._config.planning)
        gathered = self._scatter.gather(
            [new.select(indices) for indices in shards],
            weight=self._config.priorities.of(self._request.priority).weight,
            deadline_s=self._deadline_s,
            allow_partial=self._request.allow_partial,
        )
        numbers = [known + np.asarray(indices, dtype=np.intp) for indices in shards]
        self.sent.append(_Portion(first_document, rendered, places, numbers, group.create_task(gathered)))


def _ranking(sent: Sequence[_Portion], request: RankRequest, config: RerankerConfig, timeout_s: float) -> Ranking:
    """Make one answer of the portions' scores."""
    gathered = [portion.gathered.result() for portion in sent]
    answers = [answer for one in gathered for answer in one.answers]
    shards = [places for portion in sent for places in portion.shards]
    pairs = sum(map(len, shards))
    parts = [(places, answer.scores) for places, answer in zip(shards, answers, strict=True) if answer is not None]
    scores = scoring.merge(parts, pairs).at(np.concatenate([portion.places for portion in sent]))
    document_of_pair = np.concatenate([one.first_document + one.rendered.document_of_pair for one in sent])
    scoring.require_finite(scores, document_of_pair)
    scored = scoring.scored_documents(scores, document_of_pair, len(request.documents))
    if not scored.any():
        raise DeadlineExceededError(timeout_s)
    truncated = frozenset(one.first_document + index for one in sent for index in one.rendered.truncated)
    log_odds = scoring.aggregate(scores.logits, document_of_pair, request.aggregate or config.long_documents.aggregate)
    windows = np.bincount(document_of_pair)
    ranked = scoring.rank(log_odds, truncated, windows, np.flatnonzero(scored))
    kept, excluded = rules.apply(ranked, request, config.rules)
    return Ranking(
        results=kept[: request.top_n],
        excluded=excluded,
        unscored=tuple(np.flatnonzero(~scored).tolist()),
        prompt_tokens=sum(portion.rendered.prompts.prompt_tokens for portion in sent),
        pairs=pairs,
        deduplicated_pairs=len(document_of_pair) - pairs,
        truncated_documents=len(truncated),
        windowed_documents=int((windows > 1).sum()),
        shards=len(shards),
        replicas=len({answer.replica for answer in answers if answer is not None}),
        retries=sum(one.retries for one in gathered),
        hedges=sum(one.hedges for one in gathered),
    )


def _cutting(request: RankRequest, config: LongDocumentsConfig) -> CuttingPolicy:
    """The request's wishes where it has any, the configuration's elsewhere."""
    return CuttingPolicy(
        mode=request.long_documents or config.mode,
        side=request.truncation_side or config.truncation_side,
        max_document_tokens=request.max_document_tokens,
        window_tokens=config.window_tokens,
        overlap_tokens=config.overlap_tokens if request.overlap_tokens is None else request.overlap_tokens,
        max_windows=min(request.max_windows or config.max_windows, config.max_windows),
    )
