"""Where entries are kept: the one protocol of all back-ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from reranker.cache.entry import Entry


class Store(Protocol):
    """Keeps entries by key, as long as it likes. Whatever befalls it, a call gives what there is, and never raises."""

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

    async def clear(self) -> None:
        """Forget everything."""
        ...

    async def aclose(self) -> None:
        """Finish what is under way, and let go of every connection."""
        ...
