"""One list and the cache: what is known of its documents, what other lists are having scored, what is left to score.

A flight is what one list has taken upon itself. It ends when all of it is scored, or its list gives up: its client hung
up, its time was up, an engine failed. Who waited takes over then. To be used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.cache.entry import Entry
from reranker.types import CacheMode

_TIMES_AS_LONG = 8
"""A list waits for one that has up to so many times its documents. Behind a longer one its own turn comes sooner, as
lists take turns (docs/decisions/0002): ten documents must not wait for ten thousand."""


Statistics: TypeAlias = Mapping[str, "int | bool | Statistics"]
"""What a cache holds and has done: numbers and truth values by name, in groups."""


class Store(Protocol):
    """Keeps entries by key, as long as it likes. Whatever befalls it, a call gives what there is, and never raises."""

    @property
    def statistics(self) -> Statistics:
        """What it holds and has done."""
        ...

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Look up the keys of one list.

        Args:
            keys: All with the same first `LIST_BYTES`; at least one.

        Returns:
            An entry for each, or None.
        """
        ...

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries of one list, now or soon."""
        ...


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


class Lookup:
    """The distinct documents of one list, by place; identical ones share a place and are scored once.

    To be closed, so that nobody waits for it in vain.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        model: str | None = None,
        mode: CacheMode | None = "off",
        stores: Sequence[Store] = (),
        flights: Flights | None = None,
        weight: float = 1,
    ) -> None:
        """Find out what nobody is having scored yet, and take it upon this list.

        Args:
            keys: Of each document; equal ones are the same document.
            model: What the keys say of the engines: scores of another are not kept under them.
            mode: What the request allows. None: everything.
            stores: The nearest first.
            flights: Of the other lists.
            weight: Share of an engine against other lists.
        """
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self.places: NDArray[np.intp] = np.fromiter((places[key] for key in keys), dtype=np.intp, count=len(keys))
        """Shape (documents,): of each document of the list."""
        self.documents: list[int] = np.unique(self.places, return_index=True)[1].tolist()
        """By place: where in the list the document comes first."""
        self.entries: list[Entry | None] = [None] * len(places)
        """By place."""
        self.model = model
        self._keys = list(places)
        self._stores = stores if mode is None or mode == "read" else ()
        self._write_to = stores if mode is None or mode == "refresh" else ()
        self._flights = Flights() if flights is None or mode == "off" else flights
        self._follows, self._leads = mode is None or mode == "read", mode is None
        self._weight = weight
        self._own: list[Flight] = []
        self._followed: dict[Flight, list[int]] = {}
        self._found: list[int] = []
        self.missed = 0
        """Documents whose score was looked for in vain."""
        self.coalesced = 0
        """Documents whose score another list had."""
        self.to_score = self._take_on(range(len(places)))
        """Places that nobody else is having scored."""

    @property
    def found(self) -> int:
        """Documents whose score was in a store."""
        return len(self._found) - self.coalesced

    @property
    def waits(self) -> bool:
        """Whether other lists are having some of it scored."""
        return bool(self._followed)

    async def read(self) -> None:
        """Look in the stores for what is left to score: the nearest first, and what a farther one has comes nearer."""
        for distance, store in enumerate(self._stores):
            if not self.to_score:
                break
            got = await store.get_many([self._keys[place] for place in self.to_score])
            found = {place: entry for place, entry in zip(self.to_score, got, strict=True) if entry is not None}
            if not found:
                continue
            by_key = self._set(found)
            self._found += found
            self.to_score = [place for place in self.to_score if place not in found]
            for nearer in self._stores[:distance]:
                nearer.put_many(by_key)
            self._flights.land(by_key)
        self.missed = len(self.to_score) if self._stores else 0

    def keep(self, places: Sequence[int], entries: Sequence[Entry | None], models: frozenset[str]) -> None:
        """Take in what was scored.

        Args:
            places: Scored together.
            entries: None: not scored.
            models: What the engines that did it hold.
        """
        scored = {place: entry for place, entry in zip(places, entries, strict=True) if entry is not None}
        by_key = self._set(scored)
        if models == {self.model} and by_key:
            for store in self._write_to:
                store.put_many(by_key)
            self._flights.land(by_key)

    async def others(self) -> list[int]:
        """Wait for what other lists are having scored.

        Returns:
            Places that they gave up and that this list is to score now. Empty: nothing is left to wait for.
        """
        while self._followed:
            flight = next(iter(self._followed))
            await flight.ended.wait()
            if taken := self._take_on(self._land(flight)):
                return taken
        return []

    def take_what_there_is(self) -> None:
        """Stop waiting for other lists, and take what they have so far."""
        for flight in list(self._followed):
            self._land(flight)

    def distrust(self) -> list[int]:
        """Forget what this list did not have scored itself; gives the places."""
        places, self._found, self.coalesced = self._found, [], 0
        for place in places:
            self.entries[place] = None
        return places

    def close(self) -> None:
        """Let those who wait for this list go on without it."""
        for flight in self._own:
            self._flights.give_up(flight)

    def _take_on(self, places: Sequence[int]) -> list[int]:
        """Part what others are having scored, to be waited for, from what this list has to have scored."""
        flight, own = Flight(len(self._keys), self._weight), []
        for place in places:
            key = self._keys[place]
            others = self._flights.of(key)
            if others is not None and self._follows and self._gains_from(others):
                self._followed.setdefault(others, []).append(place)
                continue
            own.append(place)
            if others is None and self._leads:
                self._flights.start(flight, key)
        if flight.open:
            self._own.append(flight)
        return own

    def _gains_from(self, others: Flight) -> bool:
        return others.weight >= self._weight and others.documents <= _TIMES_AS_LONG * len(self._keys)

    def _land(self, flight: Flight) -> list[int]:
        """Take from a flight what is there; gives the places of what is not."""
        places = self._followed.pop(flight)
        landed = {place: flight.entries[key] for place in places if (key := self._keys[place]) in flight.entries}
        self._set(landed)
        self._found += landed
        self.coalesced += len(landed)
        return [place for place in places if place not in landed]

    def _set(self, entries: Mapping[int, Entry]) -> dict[bytes, Entry]:
        for place, entry in entries.items():
            self.entries[place] = entry
        return {self._keys[place]: entry for place, entry in entries.items()}
