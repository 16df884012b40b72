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
COUNTERS = (DOCUMENTS, TRUNCATED_DOCUMENTS, WINDOWED_DOCUMENTS, EXCLUDED_DOCUMENTS)


class Recorder(Protocol):
    """Records metrics somewhere."""

    def count(self, counter: Counter, amount: int) -> None:
        """Add to a counter."""
        ...
