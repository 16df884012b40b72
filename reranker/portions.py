"""Cut a long list into portions, rendered one after the other: engines work on one while the next is tokenized. Pure.

Tokenizing runs at about a million tokens per second and core, eight engines may be faster than that. The first portion
is small, so that they start soon; the later ones are larger, so that each is tokenized while the one before it is
scored, and hops stay few.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.types import Shard

_ENDS = (0.15, 0.45, 1.0)
"""Where the portions end, as shares of the list's characters: each twice as large as the one before, or a bit less."""
_LONG_CHARACTERS = 100_000
"""Of a list below that, all is tokenized in some 30 ms: not worth more hops."""


def portions(documents: Sequence[str]) -> Iterator[Sequence[str]]:
    """Give the documents of a list in order, a portion at a time; none is empty."""
    ends = np.cumsum([len(document) for document in documents])
    if len(ends) < len(_ENDS) or ends[-1] < _LONG_CHARACTERS:
        yield documents
        return
    start = 0
    for share in _ENDS:
        end = int(np.searchsorted(ends, share * ends[-1])) + 1 if share < 1 else len(documents)
        if start < end:
            yield documents[start:end]
            start = end


class DistinctPairs:
    """The pairs of one list without repetitions: what is there already is not scored again."""

    def __init__(self) -> None:
        """Start with none."""
        self._places: dict[Hashable, int] = {}

    def __len__(self) -> int:
        """Distinct pairs so far."""
        return len(self._places)

    def add(self, prompts: Shard) -> tuple[Shard, NDArray[np.intp]]:
        """Take in more pairs of the list.

        Args:
            prompts: A portion, all under the list's head.

        Returns:
            Those of them that are new, in their order, and for each pair of the portion, shape (pairs,), its place
            among all distinct pairs of the list.
        """
        new: list[int] = []
        places = np.empty(len(prompts), dtype=np.intp)
        for pair in range(len(prompts)):
            document = prompts.tokens[prompts.offsets[pair] : prompts.offsets[pair + 1]].tobytes()
            known = len(self._places)
            places[pair] = place = self._places.setdefault(document, known)
            if place == known:
                new.append(pair)
        return prompts.select(new), places
