"""One list and the cache: what is known of its documents, what other lists are having scored, what is left to score.

A flight is what one list has taken upon itself. It ends when all of it is scored, or when its list gives up: its client
hung up, its time was up, an engine failed. A list that waited then takes over. To be used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.cache.entry import Entry
from reranker.cache.memory import MemoryStore
from reranker.cache.redis import RedisStore
from reranker.types import CacheMode

Store: TypeAlias = MemoryStore | RedisStore

_TIMES_AS_LONG = 8
"""A list waits for one that has up to so many times its documents. Behind a longer one its own turn comes sooner, as
lists take turns (docs/decisions/0002): ten documents must not wait for ten thousand."""


class Flight:
    """Documents that one list is having scored."""

    def __init__(self, documents: int, weight: float) -> None:
        self.documents, self.weight = documents, weight  # of the whole list
        self.keys: set[bytes] = set()  # those that are not scored yet
        self.entries: dict[bytes, Entry] = {}  # those that are, for the lists that wait
        self.ended = asyncio.Event()


Flights: TypeAlias = dict[bytes, Flight]  # of one ingress replica, by the documents that are not scored yet


class Lookup:
    """The distinct documents of one list, by place; identical ones share a place and are scored once.

    It is to be closed, so that no list waits for it in vain.
    """

    def __init__(
        self,
        keys: Sequence[Any],  # of each document; equal ones are the same document
        mode: CacheMode | None = "off",  # None: everything is allowed
        stores: Sequence[Store] = (),  # the nearest first
        flights: Flights | None = None,  # of the other lists
        weight: float = 1,  # share of an engine against other lists
    ) -> None:
        """Take upon this list what no other is having scored."""
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self.places: NDArray[np.intp] = np.fromiter((places[key] for key in keys), dtype=np.intp, count=len(keys))
        # By place: where in the list the document comes first.
        self.documents: list[int] = np.unique(self.places, return_index=True)[1].tolist()
        self.entries: list[Entry | None] = [None] * len(places)  # by place
        self._keys = list(places)
        self._mode = mode
        self._stores = stores if mode in (None, "read") else ()
        self._write_to = stores if mode in (None, "refresh") else ()
        self._flights = {} if flights is None else flights
        self._weight = weight
        self._own: list[Flight] = []
        self._awaited: dict[Flight, list[int]] = {}
        self._known: list[int] = []
        self.missed = 0  # documents whose score no store had
        self.coalesced = 0  # documents whose score came from another list
        self.to_score = self._take_on(range(len(places)))  # places that no other list is having scored

    @property
    def found(self) -> int:
        return len(self._known) - self.coalesced

    @property
    def waits(self) -> bool:
        return bool(self._awaited)

    async def read(self) -> None:
        """Look in the stores, the nearest first; a nearer store keeps what a farther one has."""
        for distance, store in enumerate(self._stores):
            if not self.to_score:
                break
            answers = await store.get_many([self._keys[place] for place in self.to_score])
            entries = {place: entry for place, entry in zip(self.to_score, answers, strict=True) if entry is not None}
            if entries:
                self._set(entries)
                self._known += entries
                self.to_score = [place for place in self.to_score if place not in entries]
                self._share(entries, self._stores[:distance])
        self.missed = len(self.to_score) if self._stores else 0

    def keep(self, places: Sequence[int], entries: Sequence[Entry | None]) -> None:
        """Take in what was scored, by engines of the identity in the keys. None: not scored."""
        scored = {place: entry for place, entry in zip(places, entries, strict=True) if entry is not None}
        self._set(scored)
        if scored:
            self._share(scored, self._write_to)

    async def others(self) -> list[int]:
        """Wait for other lists; give the places that they gave up, for this list to score. Empty: nothing is left."""
        while self._awaited:
            flight = next(iter(self._awaited))
            await flight.ended.wait()
            if taken := self._take_on(self._land(flight)):
                return taken
        return []

    def take_what_there_is(self) -> None:
        for flight in list(self._awaited):
            self._land(flight)

    def close(self) -> None:
        for flight in self._own:
            for key in flight.keys:
                del self._flights[key]
            flight.keys.clear()
            flight.ended.set()

    def _take_on(self, places: Sequence[int]) -> list[int]:
        """Give the places that this list has to have scored; it waits for the others."""
        flight, own = Flight(len(self._keys), self._weight), []
        for place in places:
            key = self._keys[place]
            others = self._flights.get(key)
            if others is not None and self._gains_from(others):
                self._awaited.setdefault(others, []).append(place)
                continue
            own.append(place)
            if others is None and self._mode is None:
                self._flights[key] = flight
                flight.keys.add(key)
        if flight.keys:
            self._own.append(flight)
        return own

    def _gains_from(self, others: Flight) -> bool:
        reads, longest = self._mode in (None, "read"), _TIMES_AS_LONG * len(self._keys)
        return reads and others.weight >= self._weight and others.documents <= longest

    def _land(self, flight: Flight) -> list[int]:
        """Take the scores that a flight has; gives the places of those that it lacks."""
        places = self._awaited.pop(flight)
        landed = {place: flight.entries[key] for place in places if (key := self._keys[place]) in flight.entries}
        self._set(landed)
        self._known += landed
        self.coalesced += len(landed)
        return [place for place in places if place not in landed]

    def _set(self, entries: Mapping[int, Entry]) -> None:
        for place, entry in entries.items():
            self.entries[place] = entry

    def _share(self, entries: Mapping[int, Entry], stores: Sequence[Store]) -> None:
        by_key = {self._keys[place]: entry for place, entry in entries.items()}
        for store in stores:
            store.put_many(by_key)
        for key, entry in by_key.items():
            if flight := self._flights.pop(key, None):
                flight.entries[key] = entry
                flight.keys.discard(key)
                if not flight.keys:
                    flight.ended.set()
