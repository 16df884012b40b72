"""Where entries are kept: the one protocol of all back-ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from reranker.cache.entry import Entry
from reranker.cache.use import Use


class Store(Protocol):
    """Keeps entries by key, as long as it likes. Whatever befalls it, a call gives what there is, and never raises."""

    @property
    def use(self) -> Use:
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
