"""The parts that the answers of several dialects are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reranker.dialects.base import Asked, Served
from reranker.record import Timeline
from reranker.types import RankedDocument, Ranking

_SEARCH_UNIT_DOCUMENTS = 100  # Cohere's unit: one query with up to 100 documents


def score_of(ranked: RankedDocument, asked: Asked) -> float:
    """The score as it was asked for: in [0, 1], or as log-odds."""
    return ranked.log_odds if asked.body.log_odds else ranked.relevance_score


def marks_of(ranked: RankedDocument) -> dict[str, Any]:
    """What happened to a long document; nothing for the others."""
    marks: dict[str, Any] = {"truncated": True} if ranked.truncated else {}
    return marks | {"windows": ranked.windows} if ranked.windows > 1 else marks


def usage_of(rankings: Sequence[Ranking]) -> dict[str, int]:
    """What the lists took, in numbers only: several clients break on anything else in it."""
    tokens = sum(ranking.prompt_tokens for ranking in rankings)
    deduplicated = sum(ranking.deduplicated_pairs for ranking in rankings)
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "deduplicated_pairs": deduplicated,
        "cached_documents": sum(ranking.cached_documents for ranking in rankings),
        "coalesced_documents": sum(ranking.coalesced_documents for ranking in rankings),
    }


def meta_of(asked: Asked, rankings: Sequence[Ranking], served: Served) -> dict[str, Any]:
    """Cohere's `meta`, and how the lists were scored."""
    return {
        "api_version": {"version": "1"},
        "billed_units": {"search_units": sum(-(-len(one.documents) // _SEARCH_UNIT_DOCUMENTS) for one in asked.lists)},
        "tokens": {"input_tokens": sum(one.prompt_tokens for one in rankings), "output_tokens": 0},
        "pairs": served.timeline.pairs,
        "truncated_documents": sum(one.truncated_documents for one in rankings),
        "shards": len(served.timeline.shards),
        "replicas": served.timeline.replicas,
        "retries": served.timeline.retries,
        "hedges": served.timeline.hedges,
    }


def timings_of(asked: Asked, served: Served) -> dict[str, Any]:
    """What happened to the list until now and who scored it, if that was asked for."""
    timeline = served.timeline
    if not asked.body.timings:
        return {}
    return {"timings": stages_of(timeline) | {"shards": _shards_of(timeline)}}


def stages_of(timeline: Timeline) -> dict[str, Any]:
    """What the stages of a request took until now."""
    stages = {f"{stage}": _ms(took_s) for stage, took_s in timeline.stages_s().items()}
    return {"total_ms": _ms(timeline.total_s), "stages_ms": stages}


def _shards_of(timeline: Timeline) -> list[dict[str, Any]]:
    return [
        {
            "replica": one.replica or None,
            "documents": one.documents,
            "pairs": one.pairs,
            "tokens": one.tokens,
            "queue_ms": _ms(one.queue_s),
            "engine_ms": _ms(one.engine_s),
            "total_ms": _ms(one.total_s),
            "attempts": len(one.attempts),
        }
        for one in timeline.shards
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def left_out(ranking: Ranking) -> dict[str, Any]:
    """The documents that are not among the results, if there are any, and why."""
    left: dict[str, Any] = {}
    if ranking.unscored:
        left["unscored"] = [{"index": index} for index in ranking.unscored]
    if ranking.excluded:
        left["excluded"] = [{"index": one.index, "rule": one.rule} for one in ranking.excluded]
    return left


def head_of(kind: str, served: Served) -> dict[str, Any]:
    """How an answer begins."""
    return {"id": served.request_id, "object": kind, "model": served.model, "created": served.created_s}
