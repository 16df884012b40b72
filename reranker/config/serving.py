"""Settings of how many clients share the replicas: shards, classes, admission, retries, limits."""

from __future__ import annotations

from typing import Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reranker.config.base import Group
from reranker.types import Priority


class PlanningConfig(Group):
    """How one list is cut into shards."""

    max_shard_tokens: PositiveInt = 65_536
    """Tokens one call to a replica may carry. Lower: a long list spreads more evenly; higher: fewer hops."""
    min_shard_tokens: PositiveInt = 2_048
    """A list is not cut into shards smaller than this: a hop costs milliseconds, so a shard must be worth one."""
    slack: NonNegativeFloat = 0.05
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
        """The settings of a class."""
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
    retry_ratio: NonNegativeFloat = 0.1
    """Shards sent again, at most, for each shard sent: what breaks every replica must not be sent for ever."""
    retry_burst: PositiveInt = 1_000
    """Shards sent again, at most, at once: those of a replica that dies."""
    hedge_after: float | None = Field(default=3, gt=1)
    """The last shard of a list is sent to a second replica when it takes this many times as long as its siblings
    did; the first answer counts. None: never."""
    hedge_ratio: NonNegativeFloat = 0.05
    """Shards sent a second time, at most, for each shard sent."""
    reply_margin_s: NonNegativeFloat = 0.05
    """Where a partial answer is wanted, replicas answer so long before the deadline; at most a fifth of the time."""


class LimitsConfig(Group):
    """What one request may ask for."""

    max_documents: PositiveInt = 10_000
    """Documents per list."""
    max_request_bytes: PositiveInt = 64 * 1024 * 1024
    """Size of a request's body, decompressed."""
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

    @model_validator(mode="after")
    def _documents_are_values(self) -> Self:
        if self.max_documents > self.max_json_values:
            raise ValueError(
                f"max_documents: {self.max_documents} documents have more than {self.max_json_values} values "
                f"(max_json_values). Raise max_json_values above it"
            )
        return self

    def bounded_s(self, asked_s: float | None) -> float:
        """The seconds a list gets: what its request asks for, within the limit."""
        return self.timeout_s if asked_s is None else min(asked_s, self.timeout_s)
