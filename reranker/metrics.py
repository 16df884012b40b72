"""Every metric, declared once, and the seam to what records them. Pure: modules return facts, the ingress records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only rises. Ray exports it as `ray_<name>`, with its own labels for deployment and replica."""

    name: str
    description: str


DOCUMENTS = Counter("reranker_documents_total", "Documents ranked.")
TRUNCATED_DOCUMENTS = Counter("reranker_truncated_documents_total", "Documents that lost tokens to a limit.")
WINDOWED_DOCUMENTS = Counter("reranker_windowed_documents_total", "Documents scored in more than one window.")
EXCLUDED_DOCUMENTS = Counter("reranker_excluded_documents_total", "Documents a rule or threshold left out.")
UNSCORED_DOCUMENTS = Counter("reranker_unscored_documents_total", "Documents that time did not suffice for.")
REFUSED_LISTS = Counter("reranker_refused_lists_total", "Lists turned away (429) because of those here already.")
RETRIED_SHARDS = Counter("reranker_retried_shards_total", "Shards sent again because a replica was lost.")
HEDGED_SHARDS = Counter("reranker_hedged_shards_total", "Shards sent a second time because a replica lagged.")
COUNTERS = (
    DOCUMENTS,
    TRUNCATED_DOCUMENTS,
    WINDOWED_DOCUMENTS,
    EXCLUDED_DOCUMENTS,
    UNSCORED_DOCUMENTS,
    REFUSED_LISTS,
    RETRIED_SHARDS,
    HEDGED_SHARDS,
)


class Recorder(Protocol):
    """Records metrics somewhere."""

    def count(self, counter: Counter, amount: int) -> None:
        """Add to a counter."""
        ...
