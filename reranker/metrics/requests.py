"""What is counted of each request, from its timeline."""

from __future__ import annotations

import statistics

from reranker.metrics import catalog
from reranker.metrics.kinds import OTHER, Recorder
from reranker.record import ShardRecord, Timeline

_REASONS = {
    "overloaded": "queue",
    "request_too_large": "too_large",
    "not_ready": "no_engine",
    "start_failed": "no_engine",
    "quota_exceeded": "key",
}
"""Why a request was not let in, by its error's code."""


def record_request(recorder: Recorder, timeline: Timeline) -> None:
    """Count a request whose answer is made; before it goes out, so that no client has one that is not counted.

    Args:
        recorder: Counts.
        timeline: Its status is known.
    """
    path = timeline.path if timeline.path in catalog.PATHS else OTHER
    recorder.count(catalog.HTTP_RESPONSES, 1, path, str(timeline.status))
    if timeline.path not in catalog.RANKING_PATHS or timeline.method != "POST":
        return
    recorder.count(catalog.REQUESTS, 1, timeline.dialect or catalog.UNKNOWN, _outcome(timeline))
    recorder.observe(catalog.REQUEST_SECONDS, timeline.total_s, _result(timeline.status))
    _record_shards(recorder, timeline.shards)
    if timeline.error in _REASONS:
        recorder.count(catalog.ADMISSION_REFUSALS, 1, _REASONS[timeline.error])
    if timeline.rankings and timeline.status < 300:
        _record_rankings(recorder, timeline)


def _outcome(timeline: Timeline) -> str:
    if timeline.error:
        return timeline.error
    if timeline.status >= 300:
        return OTHER
    return catalog.PARTIAL if any(ranking.unscored for ranking in timeline.rankings) else catalog.ANSWERED


def _result(status: int) -> str:
    return "answered" if status < 300 else "refused" if status < 500 else "failed"


def _record_rankings(recorder: Recorder, timeline: Timeline) -> None:
    tokens = sum(ranking.prompt_tokens for ranking in timeline.rankings)
    recorder.observe(catalog.REQUEST_DOCUMENTS, timeline.documents)
    recorder.observe(catalog.REQUEST_TOKENS, tokens)
    recorder.count(catalog.DOCUMENTS, timeline.documents)
    recorder.count(catalog.PROMPT_TOKENS, tokens)
    for stage, took_s in timeline.stages_s().items():
        recorder.observe(catalog.STAGE_SECONDS, took_s, stage)
    for one in timeline.rankings:
        for counter, amount in (
            (catalog.TRUNCATED_DOCUMENTS, one.truncated_documents),
            (catalog.WINDOWED_DOCUMENTS, one.windowed_documents),
            (catalog.EXCLUDED_DOCUMENTS, len(one.excluded)),
            (catalog.UNSCORED_DOCUMENTS, len(one.unscored)),
            (catalog.DEDUPLICATED_PAIRS, one.deduplicated_pairs),
            (catalog.CACHE_HITS, one.cached_documents),
            (catalog.CACHE_MISSES, one.missed_documents),
            (catalog.CACHE_COALESCED, one.coalesced_documents),
        ):
            if amount:
                recorder.count(counter, amount)


def _record_shards(recorder: Recorder, shards: list[ShardRecord]) -> None:
    """Of requests that failed as well: what became of their shards is why."""
    if not shards:
        return
    answered = [one for one in shards if one.answer is not None]
    attempts = [attempt for one in shards for attempt in one.attempts]
    hedges = sum(attempt.hedge for attempt in attempts)
    sent_again = len(attempts) - hedges - sum(bool(one.attempts) for one in shards)
    dropped = sum(attempt.outcome == "dropped" for attempt in attempts)
    for counter, amount in (
        (catalog.SCORED_PAIRS, sum(one.pairs for one in answered)),
        (catalog.SCORED_TOKENS, sum(one.tokens for one in answered)),
        (catalog.RETRIED_SHARDS, sent_again),
        (catalog.HEDGED_SHARDS, hedges),
        (catalog.DROPPED_SHARDS, dropped),
    ):
        if amount:
            recorder.count(counter, amount)
    if not answered:
        return
    recorder.observe(catalog.REQUEST_SHARDS, len(answered))
    recorder.observe(catalog.REQUEST_REPLICAS, len({one.replica for one in answered}))
    if len(answered) > 1:
        took_s = [one.total_s for one in answered]
        recorder.observe(catalog.SLOWEST_SHARD, max(took_s) / max(statistics.median(took_s), 1e-6))
