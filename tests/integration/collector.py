"""A collector of traces: takes OTLP over HTTP as Jaeger and Tempo do, and keeps what it is sent."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """To be used as a context; listens on a free port."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        received = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sent = ExportTraceServiceRequest.FromString(body)
                received.extend(
                    span for one in sent.resource_spans for scope in one.scope_spans for span in scope.spans
                )
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trace(self, trace_id: str, timeout_s: float = 30) -> list[Span]:
        """The spans of a trace, once its root is there; all are sent together, or the root last."""
        deadline = time.monotonic() + timeout_s
        while True:
            spans = [one for one in self.spans if one.trace_id.hex() == trace_id]
            if any(one.kind == Span.SPAN_KIND_SERVER for one in spans):
                return spans
            assert time.monotonic() < deadline, f"no root of {trace_id} among {len(self.spans)} spans"
            time.sleep(0.05)


def attributes(span: Span) -> dict[str, Any]:
    """What a span says besides names and times."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
