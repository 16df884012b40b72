"""Metrics, log lines and traces of a replica's work.

Log lines go through Ray Serve's logger, each with its request's id; with `logging_config: {encoding: JSON}` each is a
JSON object in Serve's files. Spans are made of a request's record after its end:

request ┬ read, parse, admit, cache, coalesce, tokenize, merge, respond
        └ shard (one for each) ┬ queue
                               └ engine
"""

import asyncio
import itertools
import logging
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import ModuleType
from typing import Any, TextIO

import ray
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.exposition import MetricsHandler
from ray import serve

from deployments.http import VERSION
from reranker.config import ObservabilityConfig, TracingConfig
from reranker.errors import ConfigurationError
from reranker.metrics import LOOP_LAG, NODE_FOLDERS, RESIDENT_BYTES, join_node, metrics_of, node_registry
from reranker.record import CLIENT_GONE, Interval, RequestRecord, ShardRecord, request_id
from reranker.types import EngineScores, Shard, ShardTerms

logger = logging.getLogger(__name__)
_serve_logger = logging.getLogger("ray.serve")


_LOOK_S = 0.25


class ReplicaMetrics:
    """Refreshes this replica's gauges, and answers scrapes of its node if configured. Made on the event loop."""

    def __init__(self, config: ObservabilityConfig, modules: Sequence[ModuleType], update: Callable[[], None]) -> None:
        """`update` is called once a second: it sets the modules' gauges, and counts what is not counted at once."""
        # Named after the session, which outlives updates: they lose nothing. Logs may fill Ray's own folder.
        folder = Path(tempfile.gettempdir(), NODE_FOLDERS + ray.get_runtime_context().get_session_name())
        declared = dict.fromkeys((*itertools.chain.from_iterable(map(metrics_of, modules)), LOOP_LAG, RESIDENT_BYTES))
        join_node(folder, serve.get_replica_context().replica_id.unique_id, declared)
        self._update = update
        port = config.metrics_port
        self._server = _serve_scrapes(ray.util.get_node_ip_address(), port) if port is not None else None
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        for look in itertools.count():
            if look % 4 == 0:
                try:
                    self._update()
                    RESIDENT_BYTES.set(_resident_bytes())
                except Exception:
                    logger.exception("this replica's metrics cannot be updated")
            due_s = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            LOOP_LAG.observe(loop.time() - due_s)

    def close(self) -> None:
        """Update for the last time."""
        self._refreshing.cancel()
        self._update()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve_scrapes(host: str, port: int) -> ThreadingTCPServer | None:
    class Server(ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = allow_reuse_address = True
        allow_reuse_port = True  # whichever of a node's replicas the kernel picks answers for all

    try:
        server = Server((host, port), MetricsHandler.factory(node_registry()))
    except OSError as error:
        logger.warning("no metrics on port %d: %s", port, error.strerror)
        return None
    threading.Thread(target=server.serve_forever, name="scrapes", daemon=True).start()
    return server


_PROBES = frozenset({"/health", "/-/healthz"})  # asked every second by those who wait for a service to start
_LOGGED = (
    *("request_id", "trace_id", "status", "error", "method", "caller", "dialect", "priority", "body_bytes", "lists"),
    *("documents", "prompt_tokens", "pairs"),
)
_MAX_SHARDS = 32  # the slowest of a request; a list of 10,000 documents may have hundreds


class RequestLog:
    """An `Observer`: one line for each request that was refused, failed, abandoned or slow."""

    def __init__(self, config: ObservabilityConfig, *, several_models: bool = False) -> None:
        """`several_models`: lines say which one, or which cascade, a request was for."""
        self._slow_s, self._several_models = config.slow_request_s, several_models

    def __call__(self, record: RequestRecord) -> None:
        if record.path in _PROBES:
            return
        if record.status == CLIENT_GONE:
            event, level = "abandoned", logging.INFO
        elif record.status >= 500:
            event, level = "failed", logging.ERROR
        elif record.status >= 400:
            event, level = "refused", logging.INFO
        elif self._slow_s is not None and record.total_s >= self._slow_s:
            event, level = "slow", logging.WARNING
        else:
            return
        fields = _fields(record, model=record.model if self._several_models else "")
        logger.log(level, "%s", _sentence(event, fields), extra={"event": f"request_{event}", **fields})


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)


def _fields(record: RequestRecord, **more: str) -> dict[str, Any]:
    """A request for JSON, without what is empty, 0 or not known."""
    fields = {name: getattr(record, name) for name in _LOGGED} | more
    # The client chose it: no control characters into a log.
    fields["path"] = "".join(one if one.isprintable() else "?" for one in record.path[:200])
    fields["work_tokens"] = sum(one.tokens for one in record.shards)
    fields["shard_count"] = len(record.shards)
    fields["shards"] = [
        {
            "pairs": one.pairs,
            "tokens": one.tokens,
            "queue_ms": _ms(one.queue_s),
            "engine_ms": _ms(one.engine_s),
            "total_ms": _ms(one.total_s),
            "attempts": [f"{a.replica or '?'} {a.outcome}{' (hedge)' if a.hedge else ''}" for a in one.attempts],
        }
        for one in sorted(record.shards, key=lambda one: -one.total_s)[:_MAX_SHARDS]
    ]
    stages = {stage: _ms(took_s) for stage, took_s in record.stages_s().items()}
    known = {name: value for name, value in fields.items() if value}
    return known | {"total_ms": _ms(record.total_s), "stages_ms": stages}


def _sentence(event: str, fields: dict[str, Any]) -> str:
    """The fields in one line for people. Serve's format has a place for the request's id."""
    caller = f" of {fields['caller']}" if "caller" in fields else ""
    error = f" {fields['error']}" if "error" in fields else ""
    parts = [f"request {fields['request_id']}{caller} {event}: {fields['status']}{error} after {fields['total_ms']} ms"]
    if "model" in fields:
        parts.append(f"model {fields['model']}")
    if stages := fields["stages_ms"]:
        parts.append("stages " + " ".join(f"{stage}={took_ms}" for stage, took_ms in stages.items()))
    sizes = {"documents": "documents", "body_bytes": "bytes", "pairs": "pairs"}
    if named := [f"{fields[name]} {unit}" for name, unit in sizes.items() if name in fields]:
        parts.append(", ".join(named))
    shards = fields.get("shards", ())[:4]
    parts += [f"shard of {one['pairs']} pairs in {one['total_ms']} ms: {', '.join(one['attempts'])}" for one in shards]
    return "; ".join(parts)


class _ServeHandler(logging.Handler):
    """Hands a record on to Serve's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "request_id") and (current := request_id.get()):
            record.request_id = current  # the name under which Serve's formatters look for one
        _serve_logger.handle(record)


def join_serve() -> None:
    """Send our log lines through Serve's logger. To be called in a replica, after Serve has set up its own."""
    for name in ("reranker", "deployments"):
        ours = logging.getLogger(name)
        ours.handlers = [_ServeHandler()]
        ours.setLevel(_serve_logger.getEffectiveLevel())
        ours.propagate = False


def log_shard(shard: Shard, terms: ShardTerms, scores: EngineScores, slow_s: float | None) -> None:
    """Log in an engine replica that a shard took long, or was not finished in time."""
    scored_pairs = int(scores.scored.sum())
    late = scored_pairs < len(shard)
    if not late and (slow_s is None or scores.queue_s + scores.engine_s < slow_s):
        return
    fields = {
        "event": "shard_out_of_time" if late else "shard_slow",
        "request_id": terms.request_id,
        "pairs": len(shard),
        "scored_pairs": scored_pairs,
        "tokens": shard.work_tokens,
        "queue_ms": _ms(scores.queue_s),
        "engine_ms": _ms(scores.engine_s),
    }
    message = "%(event)s: %(scored_pairs)d of %(pairs)d pairs scored, %(tokens)d tokens; "
    logger.warning(message + "%(queue_ms).0f ms queued, %(engine_ms).0f ms in the engine", fields, extra=fields)


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_MAX_QUEUED_SPANS = 16_384  # while the collector takes none; further ones are dropped
_MAX_SPANS = 1_000  # of a request's stages, and of its shards: a list may have many portions, a request many lists
_SPOKEN = "request_id", "caller", "dialect", "priority", "lists", "documents", "prompt_tokens", "replicas"


class Tracer:
    """An `Observer` of POST requests. To be the first, so that log lines have the trace's id."""

    def __init__(self, config: TracingConfig, replica: str = "", *, several_models: bool = False) -> None:
        """Start to export, if that is configured. ConfigurationError: the file cannot be written.

        `several_models`: spans say which one, or which cascade, a request was for.
        """
        self._several_models = several_models
        self._exporter = _exporter(config)
        if self._exporter is None:
            return
        about = {"service.name": config.service_name, "service.version": VERSION, "service.instance.id": replica}
        provider = TracerProvider(
            sampler=ParentBased(_LimitedSampler(config.sample_ratio, config.max_per_s)),
            resource=Resource.create(about),
            shutdown_on_exit=False,  # `aclose` does it, and does not wait for a collector that is away
        )
        self._processor = BatchSpanProcessor(
            _OneLineExporter(self._exporter), max_queue_size=_MAX_QUEUED_SPANS, schedule_delay_millis=1_000
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("reranker", VERSION)

    def __call__(self, record: RequestRecord) -> None:
        """Make the spans of a request, if its caller or chance says so."""
        if record.method != "POST":
            return
        found = _TRACEPARENT.fullmatch(record.traceparent)  # 15 µs quicker than the SDK's parser
        record.trace_id = found[1] if found else ""  # the caller's, even if nothing is exported
        if self._exporter is None:
            return
        headers = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        caller = TraceContextTextMapPropagator().extract(headers) if found else Context()
        route = record.path if record.status != 404 else ""
        start_ns = _unix_ns(record, record.began_s)
        root = self._tracer.start_span(f"POST {route}".rstrip(), caller, SpanKind.SERVER, start_time=start_ns)
        if not root.is_recording():
            return
        record.trace_id = f"{root.get_span_context().trace_id:032x}"
        # Sizes, names and codes: of a client's text the request's id alone.
        attributes: dict[str, str | int] = {f"reranker.{name}": getattr(record, name) for name in _SPOKEN} | {
            "http.request.method": record.method,
            "http.request.body.size": record.body_bytes,
            "http.response.status_code": record.status,
            "http.route": route,
            "error.type": record.error,
            "reranker.model": record.model if self._several_models else "",
            "reranker.cached_documents": sum(one.cached_documents for one in record.rankings),
            "reranker.truncated_documents": sum(one.truncated_documents for one in record.rankings),
            "reranker.shards": len(record.shards),
        }
        root.set_attributes({name: value for name, value in attributes.items() if value != ""})
        if record.error:
            root.set_status(StatusCode.ERROR, record.error)
        self._intervals(root, record.intervals[:_MAX_SPANS], record)
        for shard in record.shards[:_MAX_SPANS]:
            self._shard(root, shard, record)
        root.end(_unix_ns(record, record.began_s + record.total_s))

    async def aclose(self) -> None:
        """Send what is left, for a few seconds at most."""
        if self._exporter is None:
            return
        sending = asyncio.ensure_future(asyncio.to_thread(self._processor.shutdown))
        done, _ = await asyncio.wait([sending], timeout=5)
        if not done:
            self._exporter.shutdown()  # it gives up then
            await sending

    def _shard(self, root: Span, shard: ShardRecord, record: RequestRecord) -> None:
        about: dict[str, str | int] = {
            "reranker.replica": shard.replica,
            "reranker.pairs": shard.pairs,
            "reranker.tokens": shard.tokens,
            "reranker.documents": len(shard.documents),
            "reranker.attempts": len(shard.attempts),
        }
        start_ns = _unix_ns(record, shard.sent_s)
        span = self._tracer.start_span("shard", set_span_in_context(root), SpanKind.CLIENT, about, start_time=start_ns)
        if len(shard.attempts) > 1 or shard.answer is None:
            for attempt in shard.attempts:
                about = {"reranker.replica": attempt.replica, "reranker.hedge": attempt.hedge}
                span.add_event(attempt.outcome, about, _unix_ns(record, attempt.ended_s or attempt.sent_s))
        if shard.answer is None:
            span.set_status(StatusCode.ERROR, shard.attempts[-1].outcome if shard.attempts else "not sent")
        self._intervals(span, shard.intervals(), record)
        span.end(_unix_ns(record, shard.sent_s + shard.total_s))

    def _intervals(self, parent: Span, intervals: Iterable[Interval], record: RequestRecord) -> None:
        context = set_span_in_context(parent)
        for stage, began_s, ended_s in intervals:
            span = self._tracer.start_span(stage, context, start_time=_unix_ns(record, began_s))
            span.end(_unix_ns(record, ended_s))


class _LimitedSampler(Sampler):
    """Picks a share of all requests, and no more than so many a second. The SDK's samplers have no such limit."""

    def __init__(self, share: float, max_per_s: float) -> None:
        self._share, self._pause_s = share, 1 / max_per_s
        self._not_before_s = 0.0

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        now_s = time.monotonic()
        if now_s < self._not_before_s or random.random() >= self._share:  # noqa: S311 - nothing secret
            return SamplingResult(Decision.DROP)
        self._not_before_s = now_s + self._pause_s
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return f"{self._share} of all, {1 / self._pause_s:g} a second at most"


def _unix_ns(record: RequestRecord, seconds: float) -> int:
    """A moment of the record's clock, on the clock of spans."""
    return record.began_unix_ns + round((seconds - record.began_s) * 1e9)


def _exporter(config: TracingConfig) -> SpanExporter | None:
    if config.exporter is None:
        return None
    # It logs each span that is dropped, each batch that does not get through, and each further try.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    if config.exporter == "otlp":
        return OTLPSpanExporter(endpoint=config.endpoint)
    if config.exporter == "console":
        return _LineExporter(sys.stdout)
    path = Path(config.file or "")
    try:
        return _LineExporter(path.open("a", encoding="utf-8"))  # several ingress replicas may append to it
    except OSError as error:
        raise ConfigurationError(f"tracing.file {path}: {error.strerror}") from None


class _LineExporter(ConsoleSpanExporter):
    def __init__(self, out: TextIO) -> None:
        super().__init__(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")

    def shutdown(self) -> None:
        if self.out is not sys.stdout:
            self.out.close()


class _OneLineExporter(SpanExporter):
    """Logs once that spans do not get through, and once that they do again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost, self._failing_since_s = 0, 0.0
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush  # type: ignore[method-assign]

    def export(self, spans: tuple[ReadableSpan, ...]) -> SpanExportResult:  # type: ignore[override]  # the SDK gives these
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, requests go on
            logger.debug("spans: %s", type(error).__name__)
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.FAILURE:
            if not self._lost:
                self._failing_since_s = time.monotonic()
                logger.warning("traces: %d spans did not get through to the collector; going on without", len(spans))
            self._lost += len(spans)
        elif self._lost:
            seconds = time.monotonic() - self._failing_since_s
            logger.warning("traces: the collector takes spans again; %d were lost in %.0f s", self._lost, seconds)
            self._lost = 0
        return result
