"""What a replica tells of its work: metrics and log lines. Traces are in `tracing.py`, as the ingress alone has any.

Log lines go through Ray Serve's logger, each with its request's id. Serve writes them to its files, as text or, with
`logging_config: {encoding: JSON}`, as one JSON object a line.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import ModuleType
from typing import Any

import ray
from prometheus_client.exposition import MetricsHandler
from ray import serve

from reranker.config import ObservabilityConfig
from reranker.node_metrics import NODE_FOLDERS, join_node, metrics_of, node_registry
from reranker.record import CLIENT_GONE, RequestRecord, ShardRecord, request_id
from reranker.types import EngineScores, Shard, ShardTerms

logger = logging.getLogger(__name__)

_REFRESH_S = 1.0


class ReplicaMetrics:
    """Keeps this replica's figures of the moment up to date, and answers scrapes of its node where that is configured.

    To be made on the replica's event loop.
    """

    def __init__(self, config: ObservabilityConfig, module: ModuleType, update: Callable[[], None]) -> None:
        """Begin to count into the files of this node.

        Args:
            config: Says on which port, if any, all metrics of the node are answered.
            module: Declares what this replica counts.
            update: Called once a second; sets the gauges, and counts what is not counted where it happens.
        """
        # The same for as long as this Ray lives: updates lose nothing. Not in Ray's own folder, which logs may fill.
        folder = Path(tempfile.gettempdir(), NODE_FOLDERS + ray.get_runtime_context().get_session_name())
        join_node(folder, serve.get_replica_context().replica_id.unique_id, metrics_of(module))
        self._update = update
        port = config.metrics_port
        self._scrapes = _answer_scrapes(ray.util.get_node_ip_address(), port) if port is not None else None
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        while True:
            try:
                self._update()
            except Exception:
                logger.exception("this replica's metrics cannot be updated")
            await asyncio.sleep(_REFRESH_S)

    def close(self) -> None:
        """Update for the last time."""
        self._refreshing.cancel()
        self._update()
        if self._scrapes is not None:
            self._scrapes.shutdown()
            self._scrapes.server_close()


class _ScrapeServer(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    allow_reuse_port = True  # of several replicas on a node, whichever the kernel picks answers for all


def _answer_scrapes(host: str, port: int) -> _ScrapeServer | None:
    class Server(_ScrapeServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = Server((host, port), MetricsHandler.factory(node_registry()))
    except OSError as error:
        logger.warning("no metrics on port %d: %s", port, error.strerror)
        return None
    threading.Thread(target=server.serve_forever, name="scrapes", daemon=True).start()
    return server


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

    def __call__(self, record: RequestRecord) -> None:
        """Log a request, if there is a reason."""
        found = self._reason(record)
        if found is None:
            return
        event, level = found
        facts = _facts(record)
        logger.log(level, "%s", _sentence(event, facts), extra={"event": f"request_{event}", **facts})

    def _reason(self, record: RequestRecord) -> tuple[str, int] | None:
        if record.path in _PROBES:
            return None
        if record.status == CLIENT_GONE:
            return "abandoned", logging.INFO
        if record.status >= 500:
            return "failed", logging.ERROR
        if record.status >= 400:
            return "refused", logging.INFO
        if self._slow_s is not None and record.total_s >= self._slow_s:
            return "slow", logging.WARNING
        return None


def _facts(record: RequestRecord) -> dict[str, Any]:
    """All that is known, for JSON; what is not known is left out."""
    slowest = sorted(record.shards, key=lambda one: -one.total_s)[:_MAX_SHARDS]
    facts = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "status": record.status,
        "error": record.error,
        "method": record.method,
        # The client chose it: no control characters into a log.
        "path": "".join(one if one.isprintable() else "?" for one in record.path[:_MAX_PATH]),
        "caller": record.caller,
        "dialect": record.dialect,
        "priority": record.priority,
        "body_bytes": record.body_bytes,
        "lists": record.lists,
        "documents": record.documents,
        "prompt_tokens": record.prompt_tokens,
        "pairs": record.pairs,
        "work_tokens": sum(one.tokens for one in record.shards),
        "shard_count": len(record.shards),
        "shards": [_shard(one) for one in slowest],
    }
    facts = {name: value for name, value in facts.items() if value}
    stages = {stage: round(took_s * 1e3, 1) for stage, took_s in record.stages_s().items()}
    return facts | {"total_ms": round(record.total_s * 1e3, 1), "stages_ms": stages}


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
