"""What is being scored now, and by which list, so that others can wait for it instead of having it scored again.

A flight is what one list has taken upon itself. It ends when all of it is scored, or its list gives up (its client hung
up, its time was up, an engine failed); who waited takes over then. To be used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from reranker.cache.entry import Entry


class Flight:
    """Documents that one list is having scored."""

    __slots__ = ("documents", "ended", "entries", "open", "weight")

    def __init__(self, documents: int, weight: float) -> None:
        """Start with none.

        Args:
            documents: How many its list has.
            weight: Its list's share of an engine against other lists.
        """
        self.documents, self.weight = documents, weight
        self.open: set[bytes] = set()
        self.entries: dict[bytes, Entry] = {}
        """Those that are scored, for who waits."""
        self.ended = asyncio.Event()


class Flights:
    """All flights of one ingress replica."""

    def __init__(self) -> None:
        """Start with none."""
        self._of: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        """Documents being scored."""
        return len(self._of)

    def of(self, key: bytes) -> Flight | None:
        """The flight that a document is in."""
        return self._of.get(key)

    def start(self, flight: Flight, key: bytes) -> None:
        """Put a document that is in none into this flight."""
        self._of[key] = flight
        flight.open.add(key)

    def land(self, entries: Mapping[bytes, Entry]) -> None:
        """Give the entries to who waits for them, whoever had them scored."""
        for key, entry in entries.items():
            flight = self._of.pop(key, None)
            if flight is not None:
                flight.entries[key] = entry
                flight.open.discard(key)
                if not flight.open:
                    flight.ended.set()

    def give_up(self, flight: Flight) -> None:
        """End a flight whose list scores no more."""
        for key in flight.open:
            del self._of[key]
        flight.open.clear()
        flight.ended.set()
