"""Cut a long list into portions, rendered one after the other: engines work on one while the next is tokenized. Pure.

Tokenizing runs at about a million tokens per second and core, eight engines may be faster than that. The first portion
is small, so that they start soon; the later ones are larger, so that each is tokenized while the one before it is
scored, and hops stay few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

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
