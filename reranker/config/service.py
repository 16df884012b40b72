"""Settings of the service around the engines: who may ask for how much, retries, the cache, what it tells of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import MultiHostUrl, ValidationError

from reranker.config.model import Group
from reranker.types import Priority


class PlanningConfig(Group):
    """How one list is cut into shards."""

    max_shard_tokens: PositiveInt = 65_536
    """Tokens one call to a replica may carry. Lower: a long list spreads more evenly; higher: fewer hops."""
    min_shard_tokens: PositiveInt = 2_048
    """A list is not cut into shards smaller than this: a hop costs milliseconds, so a shard must be worth one."""
    slack: float = Field(default=0.05, ge=0)
    """A list is cut into no more shards than bring its estimated end within this share of the earliest possible."""

    @model_validator(mode="after")
    def _min_fits_max(self) -> Self:
        if self.min_shard_tokens > self.max_shard_tokens:
            raise ValueError("min_shard_tokens must not exceed max_shard_tokens")
        return self


class PriorityConfig(Group):
    """What a class of requests gets."""

    weight: PositiveFloat = 1
    """Share of an engine that one list gets, against the other lists in it."""
    queue_share: float = Field(default=1, gt=0, le=1)
    """Part of the queue (`admission.max_queue_s`) that may be full when a list of this class is let in."""


class PrioritiesConfig(Group):
    """The classes that a request chooses from with `priority`."""

    interactive: PriorityConfig = PriorityConfig(weight=8)
    """Somebody waits for the answer; the class of requests that name none."""
    bulk: PriorityConfig = PriorityConfig(weight=1, queue_share=0.5)
    """A job that may take its time."""

    @field_validator("interactive", "bulk", mode="before")
    @classmethod
    def _keeps_its_own_defaults(cls, value: object, info: ValidationInfo) -> object:
        """Who sets one key of a class keeps the other as documented for that class, not as for classes in general."""
        if isinstance(value, dict) and info.field_name:
            return cls.model_fields[info.field_name].default.model_dump() | value
        return value

    def of(self, priority: Priority) -> PriorityConfig:
        return self.interactive if priority == "interactive" else self.bulk


class AdmissionConfig(Group):
    """When a list is turned away (429) because of those that are here already."""

    max_queue_s: PositiveFloat = 5
    """Seconds of work that may be queued, at the measured speed of the replicas, when one more list is let in."""
    max_tokens_in_flight: PositiveInt = 16_000_000
    """Tokens that the lists in one ingress replica may have in all; a list beyond it can never be let in (413)."""


class ScatterConfig(Group):
    """What happens to a shard whose replica dies or lags."""

    max_attempts: PositiveInt = 4
    """Replicas that a shard is sent to, one after the other, before its list fails."""
    retry_ratio: float = Field(default=0.1, ge=0)
    """Shards sent again, at most, for each shard sent: what breaks every replica must not be sent for ever."""
    retry_burst: PositiveInt = 1_000
    """Shards sent again, at most, at once: those of a replica that dies."""
    hedge_after: float | None = Field(default=3, gt=1)
    """A list's last shard is sent to a second replica after this many times what its siblings took; any shard so that
    the second one can answer within this many times what was expected, and a second. None: never."""
    hedge_ratio: float = Field(default=0.05, ge=0)
    """Shards sent a second time, at most, for each shard sent; those of a replica that hangs count as sent again."""
    reply_margin_s: float = Field(default=0.05, ge=0)
    """Where a partial answer is wanted, replicas answer so long before it is made; at most a fifth of the time."""
    answer_margin_s: float = Field(default=0.25, ge=0)
    """A partial answer is made so long before the deadline, to be there in time; at most a fifth of the time."""


class LimitsConfig(Group):
    """What one request may ask for."""

    max_documents: PositiveInt = 10_000
    """Documents per list."""
    max_request_bytes: PositiveInt = 64 * 1024 * 1024
    """Size of a request's body, decompressed."""
    max_text_bytes: Annotated[int, Field(ge=2**20)] = 4 * 1024 * 1024
    """Size of one text in a request's body, as JSON: a query, a document, a field of one (413). It is many times what a
    model reads, and work on one text is done in one go."""
    max_bytes_in_hand: PositiveInt = 512 * 1024 * 1024
    """Memory of each ingress replica for the requests that are being received, parsed or waited for, as far as it is
    counted; half of it for those of one API key. Beyond it: 503, or 429 for the key."""
    max_header_bytes: PositiveInt = 32 * 1024
    """Size of a request's headers, all together (431)."""
    max_url_bytes: PositiveInt = 8 * 1024
    """Length of a request's URL (414)."""
    max_nesting: PositiveInt = 32
    """Objects and lists within each other in a request's body."""
    max_json_values: PositiveInt = 1_000_000
    """Values in the lists and objects of a request's body; each takes memory."""
    receive_timeout_s: PositiveFloat = 60
    """Seconds a client may take to send its request's body (408)."""
    timeout_s: PositiveFloat = 120
    """Seconds until a list that is not scored yet is given up (504). A request may ask for less, not for more."""
    notice_s: NonNegativeFloat = 0
    """Seconds for which an ingress that is to end still takes requests, while `/health` and `/-/healthz` answer 503: so
    long a load balancer may need to notice. 0: the port closes at once, and others on this machine have it."""

    @model_validator(mode="after")
    def _documents_are_values(self) -> Self:
        if self.max_documents > self.max_json_values:
            raise ValueError(
                f"max_documents: {self.max_documents} documents have more than {self.max_json_values} values "
                f"(max_json_values). Raise max_json_values above it"
            )
        if self.max_bytes_in_hand < self.max_request_bytes:
            raise ValueError(
                f"max_bytes_in_hand: {self.max_bytes_in_hand} bytes are fewer than one body may have "
                f"({self.max_request_bytes}, max_request_bytes). Raise max_bytes_in_hand, or lower max_request_bytes"
            )
        return self

    def bounded_s(self, asked_s: float | None) -> float:
        """The seconds a list gets: what its request asks for, within the limit."""
        return self.timeout_s if asked_s is None else min(asked_s, self.timeout_s)


class IngressConfig(Group):
    """Where Ray puts the ingress replicas."""

    cpus: NonNegativeFloat = 0
    """Cores that Ray reserves for each. 0: on a small machine an ingress must not take an engine's place."""
    resources: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Of a node's own resources, what each takes: with `ingress: 0.5` they run only on nodes that offer `ingress: 1`,
    and in an update two fit on one."""
    one_per_node: bool = False
    """Whether a node has one at most, so that the loss of a node is the loss of one. In an update the new one starts
    beside the old: both have the port, and no node is without."""


class ScalingConfig(Group):
    """When engine replicas are added and taken away."""

    target_queue_s: PositiveFloat = 1
    """Seconds of work, at the measured speed, beyond which replicas are added. Below `admission.max_queue_s` (429)."""
    utilization: float = Field(default=0.7, gt=0, le=1)
    """Share of the replicas' speed that the arriving work may take; the rest is for what comes at once."""
    keep_s: PositiveFloat = 180
    """Seconds back: there are never fewer replicas than were needed at any moment since."""
    step_down: float = Field(default=0.25, gt=0, le=1)
    """Share of the replicas that may go at once, at least one; then a tenth of `keep_s` passes before more do."""
    stale_s: PositiveFloat = 15
    """What a replica said so long ago counts no longer. When fewer than half have said something, nothing changes."""


class AccessConfig(Group):
    """Who may use the service: those with an API key, if there are any keys ([keys](keys.md))."""

    keys_file: str | None = None
    """A file with API keys, read again when it changes. The environment, RERANKER_API_KEYS, may hold some too."""
    allow_anonymous: bool = False
    """Serve an address other than the loopback without any keys. It is refused otherwise."""
    open_metrics: bool = False
    """Answer `GET /metrics` without a key. Otherwise it needs one with `metrics` or `admin`, where there are keys."""
    strict_models: bool = False
    """Refuse a request (404) whose `model` is none of the service's, in place of ranking it with the default."""
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/]+)$")], ...] = ()
    """Pages in browsers that may use the service, by their origin (https://app.example.com); "*": all."""


_REDIS_PATHS = {
    "redis": (r"(/\d*)?", "what comes after the address must be the database, a number"),
    "redis+cluster": (r"/?", "a cluster has no databases: nothing may come after its addresses"),
    "redis+sentinel": (r"/[^/]+(/\d*)?", "must name Sentinel's master and, if any, a database, a number: …/mymaster/0"),
}
"""What may come after the addresses, by the scheme; and what is said of anything else."""


class RedisConfig(Group):
    """A Redis that all ingress replicas share: for scores, and for what API keys have used ([keys](keys.md))."""

    url: str | None = None
    """redis://host:6379/0; rediss:// for TLS; redis+cluster://host:6379,host:6379 for a cluster;
    redis+sentinel://host:26379,host:26379/mymaster/0 for Sentinel. "name@" before a host: a user. None: no Redis."""
    password_file: Path | None = None
    """A file with the password. None: RERANKER_REDIS_PASSWORD in the ingress's environment."""
    ca_file: Path | None = None
    """Certificates to check a TLS server's with. None: the system's."""
    cert_file: Path | None = None
    """Our own certificate, for a server that asks for one."""
    key_file: Path | None = None
    """Its private key."""
    prefix: str = Field(default="reranker", min_length=1, pattern=r"^[\w:.-]+$")
    """What all keys begin with."""
    ttl_s: PositiveInt = 7 * 24 * 3600
    """Seconds after which Redis forgets a score that was not written again. Scores do not age; this frees memory."""
    budget_s: PositiveFloat = 0.05
    """Seconds a request waits for Redis, at most; then it goes on without."""

    @field_validator("url")
    @classmethod
    def _is_an_address_without_a_password(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            address = MultiHostUrl(url)
        except ValidationError as error:  # its own text has the whole URL in it
            raise ValueError(f"must be an address: {error.errors()[0]['msg']}") from None
        kind = address.scheme.replace("rediss", "redis", 1)
        if kind not in _REDIS_PATHS:
            raise ValueError("must begin with redis://, redis+cluster:// or redis+sentinel://, or rediss for TLS")
        hosts = address.hosts()
        if any(host["password"] for host in hosts):
            raise ValueError("must hold no password: set RERANKER_REDIS_PASSWORD, or cache.redis.password_file")
        if not hosts or (kind == "redis" and len(hosts) > 1):
            raise ValueError("must have one address; several are for redis+cluster:// and redis+sentinel://")
        if address.query or address.fragment:
            raise ValueError("must have no options after the address")
        path, refusal = _REDIS_PATHS[kind]
        if not re.fullmatch(path, address.path or ""):
            raise ValueError(refusal)
        return url


class CacheConfig(Group):
    """Scores that were computed before. What makes two of them the same: docs/cache.md."""

    enabled: bool | None = None
    """None: on, unless the engines are simulated (a load test is to reach them)."""
    memory_mib: int = Field(default=128, ge=0)
    """Memory of each ingress replica for scores; about 3,000 of them fit one MiB. 0: none."""
    redis: RedisConfig = RedisConfig()
    namespace: Literal["shared", "api_key"] = "shared"
    """"shared": whoever asks. "api_key": a client finds only what was scored for the same API key."""
    secret_file: Path | None = None
    """A file with a secret for the hashes: who reads Redis cannot test what was ranked. None: RERANKER_CACHE_SECRET."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.enabled and not self.memory_mib and self.redis.url is None:
            raise ValueError("enabled, but neither memory_mib nor redis.url gives it a place")
        return self


class ObservabilityConfig(Group):
    """What the service tells of itself ([metrics](metrics.md), [logs](observability.md#logs))."""

    metrics: bool = True
    """Count what is done, for `GET /metrics` and `metrics_port`."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """A port of each node that answers all its metrics, its engines' too, without a key. None: none is opened."""
    slow_request_s: PositiveFloat | None = 10
    """A request that takes so many seconds is logged with its stages and shards; so is a shard. None: none is."""


class TracingConfig(Group):
    """Traces of requests, by OpenTelemetry; off unless an exporter is named ([observability](observability.md))."""

    exporter: Literal["otlp", "file", "console"] | None = None
    """Where spans go. "otlp": by OTLP over HTTP to a collector, Jaeger or Tempo; "file": into one, as JSON lines;
    "console": to standard output; None: nowhere."""
    endpoint: str | None = None
    """With "otlp": the URL that takes traces, such as http://collector:4318/v1/traces. None:
    OTEL_EXPORTER_OTLP_ENDPOINT of the environment, else port 4318 here. Headers: OTEL_EXPORTER_OTLP_HEADERS."""
    file: str | None = None
    """With "file": its path, on the ingress's machine."""
    sample_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the requests that are traced. Where a caller sends a `traceparent`, the caller has decided."""
    max_per_s: float = Field(default=1.0, gt=0)
    """Of the share, traces a second in each ingress; each takes 2 to 3 ms. Those of callers do not count."""
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


class UIConfig(Group):
    """The playground ([playground](playground.md)): `args` of its own application, beside the service's."""

    service_url: str | None = None
    """The page's own service, where the ingress is on another machine. None: this machine, at Serve's own address."""
    services: dict[str, str] = Field(default_factory=dict)
    """Other services to compare with, by name: their URLs. A visitor's key goes to the one that is chosen."""

    @field_validator("service_url", "services")
    @classmethod
    def _are_urls(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for url in [value] if isinstance(value, str) else (value or {}).values():
            if not url.startswith(("http://", "https://")):
                raise ValueError("a URL must begin with http:// or https://")
        return value
