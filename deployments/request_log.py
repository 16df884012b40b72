"""One log line for each request that was refused, failed or slow: its stages, sizes and shards, never a text."""

from __future__ import annotations

import logging
from typing import Any

from deployments.http.middleware import CLIENT_GONE
from reranker.config import ObservabilityConfig
from reranker.record import ShardRecord, Timeline

logger = logging.getLogger(__name__)

_PROBES = frozenset({"/health", "/-/healthz"})
"""Asked every second by those who wait for a service to start."""
_MAX_PATH = 200
_MAX_SHARDS = 32
"""The slowest of a request; a list of 10,000 documents may have hundreds."""


class RequestLog:
    """An `Observer`."""

    def __init__(self, config: ObservabilityConfig) -> None:
        """Log by these settings."""
        self._slow_s = config.slow_request_s

    def __call__(self, timeline: Timeline) -> None:
        """Log a request, if there is a reason."""
        found = self._reason(timeline)
        if found is None:
            return
        event, level = found
        facts = _facts(timeline)
        logger.log(level, "%s", _sentence(event, facts), extra={"event": f"request_{event}", **facts})

    def _reason(self, timeline: Timeline) -> tuple[str, int] | None:
        if timeline.path in _PROBES:
            return None
        if timeline.status == CLIENT_GONE:
            return "abandoned", logging.INFO
        if timeline.status >= 500:
            return "failed", logging.ERROR
        if timeline.status >= 400:
            return "refused", logging.INFO
        if self._slow_s is not None and timeline.total_s >= self._slow_s:
            return "slow", logging.WARNING
        return None


def _facts(timeline: Timeline) -> dict[str, Any]:
    """All that is known, for JSON; what is not known is left out."""
    slowest = sorted(timeline.shards, key=lambda one: -one.total_s)[:_MAX_SHARDS]
    facts = {
        "request_id": timeline.request_id,
        "trace_id": timeline.trace_id,
        "status": timeline.status,
        "error": timeline.error,
        "method": timeline.method,
        # The client chose it: no control characters into a log.
        "path": "".join(one if one.isprintable() else "?" for one in timeline.path[:_MAX_PATH]),
        "caller": timeline.caller,
        "dialect": timeline.dialect,
        "priority": timeline.priority,
        "body_bytes": timeline.body_bytes,
        "lists": timeline.lists,
        "documents": timeline.documents,
        "prompt_tokens": sum(one.prompt_tokens for one in timeline.rankings),
        "pairs": sum(one.pairs for one in timeline.shards),
        "work_tokens": sum(one.tokens for one in timeline.shards),
        "shard_count": len(timeline.shards),
        "shards": [_shard(one) for one in slowest],
    }
    facts = {name: value for name, value in facts.items() if value}
    stages = {stage: round(took_s * 1e3, 1) for stage, took_s in timeline.stages_s().items()}
    return facts | {"total_ms": round(timeline.total_s * 1e3, 1), "stages_ms": stages}


def _shard(shard: ShardRecord) -> dict[str, Any]:
    return {
        "pairs": shard.pairs,
        "tokens": shard.tokens,
        "queue_ms": round(shard.queue_s * 1e3, 1),
        "engine_ms": round(shard.engine_s * 1e3, 1),
        "total_ms": round(shard.total_s * 1e3, 1),
        "attempts": [f"{one.replica or '?'} {one.outcome}{' (hedge)' if one.hedge else ''}" for one in shard.attempts],
    }


def _sentence(event: str, facts: dict[str, Any]) -> str:
    """The same for people, in one line; its id is where Serve's format has one."""
    caller = f" of {facts['caller']}" if "caller" in facts else ""
    error = f" {facts['error']}" if "error" in facts else ""
    parts = [f"request {facts['request_id']}{caller} {event}: {facts['status']}{error} after {facts['total_ms']} ms"]
    if stages := facts["stages_ms"]:
        parts.append("stages " + " ".join(f"{stage}={took_ms}" for stage, took_ms in stages.items()))
    sizes = {"documents": "documents", "body_bytes": "bytes", "pairs": "pairs"}
    if named := [f"{facts[name]} {unit}" for name, unit in sizes.items() if name in facts]:
        parts.append(", ".join(named))
    for shard in facts.get("shards", ())[:4]:
        attempts = ", ".join(shard["attempts"])
        parts.append(f"shard of {shard['pairs']} pairs in {shard['total_ms']} ms: {attempts}")
    return "; ".join(parts)
