"""Log lines: all of a replica's through Ray Serve's logger, each with the id of the request it is about.

Serve writes them to its files, as text or, with `logging_config: {encoding: JSON}`, one JSON object a line.
"""

from __future__ import annotations

import logging

from reranker.record import request_id
from reranker.types import EngineScores, Shard, ShardTerms

logger = logging.getLogger(__name__)

_OURS = ("reranker", "deployments")
SERVE = "ray.serve"


class _ToServe(logging.Handler):
    """Hands a record on to Serve's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "request_id") and (current := request_id.get()):
            record.request_id = current  # the name under which Serve's formatters look for one
        logging.getLogger(SERVE).handle(record)


def join_serve() -> None:
    """Let Serve's logger show what ours say. To be called in a replica; Serve has set up its own there."""
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.handlers = [_ToServe()]
        ours.setLevel(logging.getLogger(SERVE).getEffectiveLevel())
        ours.propagate = False


def tell_of_shard(shard: Shard, terms: ShardTerms, scores: EngineScores, slow_s: float | None) -> None:
    """Say in a replica's log when a shard took long or was not finished in time."""
    scored, pairs = int(scores.scored.sum()), len(shard)
    late = scored < pairs
    if not late and (slow_s is None or scores.queue_s + scores.engine_s < slow_s):
        return
    logger.warning(
        "shard %s: %d of %d pairs scored, %d tokens; %.0f ms queued, %.0f ms in the engine",
        "out of time" if late else "slow",
        scored,
        pairs,
        shard.work_tokens,
        scores.queue_s * 1e3,
        scores.engine_s * 1e3,
        extra={
            "event": "shard_out_of_time" if late else "shard_slow",
            "request_id": terms.request_id,
            "pairs": pairs,
            "scored_pairs": scored,
            "tokens": shard.work_tokens,
            "queue_ms": round(scores.queue_s * 1e3, 1),
            "engine_ms": round(scores.engine_s * 1e3, 1),
        },
    )
