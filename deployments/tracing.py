"""Spans of a request for OpenTelemetry, made of its record once it has ended, and sent by a thread of their own.

request ┬ read, parse, admit, cache, coalesce, tokenize, merge, respond
        └ shard (one for each) ┬ queue
                               └ engine
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.http import VERSION
from reranker.config import TracingConfig
from reranker.errors import ConfigurationError
from reranker.record import Interval, RequestRecord, ShardRecord

logger = logging.getLogger(__name__)

Attributes: TypeAlias = Mapping[str, str | int | float | bool]
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_SEND_EVERY_MS = 1_000
_FLUSH_TIMEOUT_S = 5
_MAX_QUEUED_SPANS = 16_384
"""While the collector does not take them. What is more is dropped."""
_ALL_SPANS = 1_000
"""Of the stages of one request, at most: a list in many portions, or a request with many lists."""


class Tracer:
    """An `Observer`: traces what is asked by POST. To be the first, so that log lines have the trace's id."""

    def __init__(self, config: TracingConfig, replica: str = "") -> None:
        """Start to export, if that is configured.

        Args:
            config: Where to.
            replica: Name of this ingress replica.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        self._exporter, self._closing = _exporter(config)
        if self._exporter is None:
            return
        about = {"service.name": config.service_name, "service.version": VERSION, "service.instance.id": replica}
        provider = TracerProvider(
            sampler=ParentBased(_LimitedSampler(config.sample_ratio, config.max_per_s)),
            resource=Resource.create(about),
            shutdown_on_exit=False,  # `aclose` does it, and does not wait for a collector that is away
        )
        self._processor = BatchSpanProcessor(
            _OneLineExporter(self._exporter), max_queue_size=_MAX_QUEUED_SPANS, schedule_delay_millis=_SEND_EVERY_MS
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("reranker", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, record: RequestRecord) -> None:
        """Make the spans of a request, if its caller or chance says so."""
        if record.method != "POST":
            return
        if self._exporter is None:
            record.trace_id = _trace_id(record.traceparent)  # it is in the caller's trace all the same
            return
        caller = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        clock = _Clock(record)
        root = self._tracer.start_span(
            f"{record.method} {record.path}" if record.status != 404 else record.method,
            self._propagator.extract(caller) if record.traceparent else Context(),
            SpanKind.SERVER,
            start_time=clock.ns(record.began_s),
        )
        if not root.is_recording():
            record.trace_id = _trace_id(record.traceparent)
            return
        record.trace_id = f"{root.get_span_context().trace_id:032x}"
        root.set_attributes(_of_request(record))
        if record.error:
            root.set_status(StatusCode.ERROR, record.error)
        for interval in record.intervals[:_ALL_SPANS]:
            self._interval(root, interval, clock)
        for shard in record.shards[:_ALL_SPANS]:
            self._shard(root, shard, clock)
        root.end(clock.ns(record.began_s + record.total_s))

    async def aclose(self) -> None:
        """Send what is left, for a few seconds at most."""
        if self._exporter is None:
            return
        sending = asyncio.ensure_future(asyncio.to_thread(self._processor.shutdown))
        done, _ = await asyncio.wait([sending], timeout=_FLUSH_TIMEOUT_S)
        if not done:
            self._exporter.shutdown()  # it gives up then
            await sending
        self._closing()

    def _shard(self, root: Span, shard: ShardRecord, clock: _Clock) -> None:
        span = self._tracer.start_span(
            "shard",
            set_span_in_context(root),
            SpanKind.CLIENT,
            {
                "reranker.replica": shard.replica,
                "reranker.pairs": shard.pairs,
                "reranker.tokens": shard.tokens,
                "reranker.documents": len(shard.documents),
                "reranker.attempts": len(shard.attempts),
            },
            start_time=clock.ns(shard.sent_s),
        )
        if len(shard.attempts) > 1 or shard.answer is None:
            for attempt in shard.attempts:
                about: Attributes = {"reranker.replica": attempt.replica, "reranker.hedge": attempt.hedge}
                span.add_event(attempt.outcome, about, clock.ns(attempt.ended_s or attempt.sent_s))
        if shard.answer is None:
            span.set_status(StatusCode.ERROR, shard.attempts[-1].outcome if shard.attempts else "not sent")
        for interval in shard.intervals():
            self._interval(span, interval, clock)
        span.end(clock.ns(shard.sent_s + shard.total_s))

    def _interval(self, parent: Span, interval: Interval, clock: _Clock) -> None:
        within = set_span_in_context(parent)
        self._tracer.start_span(interval.stage, within, start_time=clock.ns(interval.began_s)).end(
            clock.ns(interval.ended_s)
        )


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


class _Clock:
    """From the record's clock to the one that spans have."""

    def __init__(self, record: RequestRecord) -> None:
        self._zero_ns = record.began_unix_ns - round(record.began_s * 1e9)

    def ns(self, seconds: float) -> int:
        return self._zero_ns + round(seconds * 1e9)


def _of_request(record: RequestRecord) -> Attributes:
    """Sizes, names and codes; no text that a client sent, but the id it gave its request."""
    attributes: dict[str, str | int | float | bool] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "error.type": record.error,
        "reranker.request_id": record.request_id,
        "reranker.caller": record.caller,
        "reranker.dialect": record.dialect,
        "reranker.priority": record.priority,
        "http.request.body.size": record.body_bytes,
        "reranker.lists": record.lists,
        "reranker.documents": record.documents,
        "reranker.prompt_tokens": record.prompt_tokens,
        "reranker.cached_documents": sum(one.cached_documents for one in record.rankings),
        "reranker.truncated_documents": sum(one.truncated_documents for one in record.rankings),
        "reranker.shards": len(record.shards),
        "reranker.replicas": record.replicas,
    }
    if record.status != 404:
        attributes["http.route"] = record.path
    return {name: value for name, value in attributes.items() if value != ""}


def _trace_id(traceparent: str) -> str:
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def _exporter(config: TracingConfig) -> tuple[SpanExporter | None, Callable[[], None]]:
    """Give the exporter, and what closes what it writes to."""
    if config.exporter is None:
        return None, _nothing
    # It tells of each span that is dropped, of each batch that does not get through, and of each further try.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    if config.exporter == "otlp":
        return OTLPSpanExporter(endpoint=config.endpoint), _nothing
    if config.exporter == "console":
        return ConsoleSpanExporter(formatter=_line), _nothing
    path = Path(config.file or "")
    try:
        file = path.open("a", encoding="utf-8")  # several ingress replicas may append to it
    except OSError as error:
        raise ConfigurationError(f"tracing.file {path}: {error.strerror}") from None
    return ConsoleSpanExporter(out=file, formatter=_line), file.close


def _nothing() -> None:
    pass


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


class _OneLineExporter(SpanExporter):
    """Says once that spans do not get through, and once that they do again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._failing_since_s = 0.0

    def export(self, spans: tuple[ReadableSpan, ...]) -> SpanExportResult:  # type: ignore[override]  # the SDK gives these
        """Send a batch. Called from the exporting thread only."""
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

    def shutdown(self) -> None:
        """Close."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)
