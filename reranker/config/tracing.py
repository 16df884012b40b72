"""Settings of traces."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from reranker.config.base import Group


class TracingConfig(Group):
    """Traces of requests, by OpenTelemetry; off unless an exporter is named ([observability](observability.md))."""

    exporter: Literal["otlp", "file", "console"] | None = None
    """Where spans go. "otlp": by OTLP over HTTP to a collector, Jaeger or Tempo; "file": into one, as JSON lines;
    "console": to standard output; None: nowhere."""
    endpoint: str | None = None
    """With "otlp": the URL that takes traces, such as http://collector:4318/v1/traces. None: what the environment says
    (OTEL_EXPORTER_OTLP_ENDPOINT), else port 4318 of this machine. Headers, and secrets in them, come from the
    environment only (OTEL_EXPORTER_OTLP_HEADERS)."""
    file: str | None = None
    """With "file": its path, on the ingress's machine."""
    sample_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the requests that are traced. Where a caller sends a `traceparent`, the caller has decided."""
    max_per_s: float = Field(default=1.0, gt=0)
    """Of the share, so many traces a second at most in each ingress, where each takes two to three milliseconds. Those
    that callers decided on do not count."""
    service_name: str = "reranker"
    """Of the spans' resource. OTEL_RESOURCE_ATTRIBUTES adds to it."""

    @field_validator("endpoint")
    @classmethod
    def _is_a_url_without_secrets(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL: http://HOST:4318/v1/traces")
        if parts.username or parts.password:
            raise ValueError("must hold no password; put a header into OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint

    @model_validator(mode="after")
    def _says_what_its_exporter_needs(self) -> Self:
        if self.endpoint is not None and self.exporter != "otlp":
            raise ValueError('endpoint is for exporter "otlp"')
        if (self.file is None) == (self.exporter == "file"):
            raise ValueError('exporter "file" and file need each other')
        return self
