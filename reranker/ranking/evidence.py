"""Evidence: which parts of the best documents made them relevant. Their sentences are scored as documents are.

A document's best sentence is scored once more together with each neighbour: two that score higher together are one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from reranker.cache.entry import ScoredDocuments
from reranker.config import EvidenceConfig
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.ranking.scoring import relevance_scores
from reranker.ranking.sentences import Part, split
from reranker.types import Ranking, RankRequest, Span, SpanTerms

Place: TypeAlias = tuple[int, Part]  # a document's index, and a part of it
Score: TypeAlias = Callable[[Sequence[str], Sequence[int]], Awaitable[ScoredDocuments | None]]
"""Takes texts, and the indices of their documents. None: there was no time for any."""

_TIMES = 2
"""What a text's sentences are counted as before they are known: their tails, and those scored together, besides."""


def most_characters(request: RankRequest, documents: Sequence[str], config: EvidenceConfig) -> int:
    """Tell how much text the spans of a list will add to it, for its permit."""
    if request.spans is None:
        return 0
    most = min(request.top_n or len(documents), config.max_documents)
    return _TIMES * sum(sorted(map(len, documents), reverse=True)[:most])


@dataclass(slots=True)
class Evidence:
    """Finds the spans of one list, once it is ranked."""

    request: RankRequest
    documents: Sequence[str]  # as far as they are read: `PromptRenderer.readable`
    instruction: str
    cutting: CuttingPolicy
    renderer: PromptRenderer
    config: EvidenceConfig
    prompt_tokens: int = field(default=0, init=False)  # of what was scored

    async def add_to(self, ranking: Ranking, score: Score, run: Callable[..., Awaitable[Any]]) -> Ranking:
        """Put the spans into a ranking. `run` is called with characters, a function and its arguments."""
        characters = most_characters(self.request, self.documents, self.config)
        sentences: dict[int, list[Part]] = await run(characters, self._sentences, ranking)
        spans = await self._find(sentences, score)
        kept: dict[int, tuple[Span, ...]] = await run(characters, self._kept, spans)
        results = tuple(replace(one, spans=kept[one.index]) if one.index in kept else one for one in ranking.results)
        unscored = tuple(sorted(sentences.keys() - spans.keys()))
        prompt_tokens = ranking.prompt_tokens + self.prompt_tokens
        return replace(ranking, results=results, prompt_tokens=prompt_tokens, spans_unscored=unscored)

    def _sentences(self, ranking: Ranking) -> dict[int, list[Part]]:
        """Give the sentences of the documents that are looked at, best first, as far as the model read them."""
        left_out = {one.index for one in ranking.excluded} | {*ranking.unscored, *ranking.cut_off}
        looked_at = [one for one in ranking.results if one.index not in left_out][: self.config.max_documents]
        query, instruction = self.request.query, self.instruction
        parts = [
            self.renderer.part_read(query, self.documents[one.index], instruction, self.cutting)
            if one.truncated
            else None
            for one in looked_at
        ]
        found = split([self.documents[one.index] for one in looked_at], self.config.max_sentences, parts)
        return {one.index: those for one, those in zip(looked_at, found, strict=True)}

    async def _find(self, sentences: Mapping[int, Sequence[Part]], score: Score) -> dict[int, list[Span]]:
        """Give the spans of each document, best first; one of which not all was scored in time is left out."""
        log_odds = await self._log_odds([(index, part) for index, parts in sentences.items() for part in parts], score)
        scored = {
            index: parts
            for index, parts in sentences.items()
            if not any(np.isnan(log_odds[index, part]) for part in parts)
        }
        pairs: dict[Place, tuple[Part, Part]] = {}
        for index, parts in scored.items():
            best = int(np.argmax([log_odds[index, part] for part in parts])) if parts else 0
            for first, second in pairwise(parts[max(0, best - 1) : best + 2]):
                pairs[index, (first[0], second[1])] = first, second
        together = await self._log_odds(list(pairs), score)
        for (index, whole), joint in sorted(together.items(), key=lambda one: (np.isnan(one[1]), -one[1])):
            first, second = pairs[index, whole]
            if all(joint > log_odds.get((index, part), np.inf) for part in (first, second)):  # NaN is not
                del log_odds[index, first], log_odds[index, second]
                log_odds[index, whole] = joint
        spans: dict[int, list[Span]] = {index: [] for index in scored}
        scores = relevance_scores(np.array(list(log_odds.values())), self.renderer.scale).tolist()
        for ((index, (start, end)), logit), relevance in zip(log_odds.items(), scores, strict=True):
            if index in scored:
                spans[index].append(Span(start, end, relevance, logit))
        return {index: sorted(those, key=lambda one: (-one.log_odds, one.start)) for index, those in spans.items()}

    async def _log_odds(self, places: Sequence[Place], score: Score) -> dict[Place, float]:
        """Score each part. NaN: not in time."""
        texts = [self.documents[index][start:end] for index, (start, end) in places]
        known = await score(texts, [index for index, _ in places]) if places else None
        if known is None:
            return dict.fromkeys(places, np.nan)
        self.prompt_tokens += int(known.prompt_tokens.sum())
        found = np.where(known.scored, known.logits.astype(np.float64), np.nan).tolist()
        return dict(zip(places, found, strict=True))

    def _kept(self, spans: Mapping[int, Sequence[Span]]) -> dict[int, tuple[Span, ...]]:
        """Give those that the request's terms keep, in the documents as they were sent."""
        terms = self.request.spans or SpanTerms()
        least = self.config.threshold if terms.threshold is None else terms.threshold
        every = [
            (one, index)
            for index, those in spans.items()
            for one in [span for span in those if span.relevance_score >= least][: terms.max_spans]
        ]
        if terms.max_tokens is not None:  # the best of all documents
            every.sort(key=lambda one: -one[0].log_odds)
            texts = [self.documents[index][one.start : one.end] for one, index in every]
            sizes = np.array(self.renderer.count_tokens(texts), dtype=np.int64) + 1  # and the line's end after it
            fit = np.cumsum(sizes) <= terms.max_tokens
            every = every[: int(fit.sum())]
        kept: dict[int, tuple[Span, ...]] = dict.fromkeys(spans, ())
        for one, index in every:
            unread = len(self.request.documents[index]) - len(self.documents[index])
            shift = unread if self.cutting.reach(1)[1] == "start" else 0
            kept[index] += (one._replace(start=one.start + shift, end=one.end + shift),)
        return kept
