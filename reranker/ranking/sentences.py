"""Split documents into the sentences that evidence is made of, as `[start, end)` in code points. Pure.

ICU says where sentences end (UAX #29, with CLDR's abbreviations) and what one character is to a reader; lists, code and
tables are told apart here, by their lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from icu4py.breakers import CharacterBreaker, SentenceBreaker
from numpy.typing import NDArray

Part: TypeAlias = tuple[int, int]

SHORT_BYTES, LONG_BYTES = 48, 600
"""Of UTF-8: a sentence below that joins its neighbour; one above is cut. Of English 8 and 100 words; of Chinese 16 and
200 characters."""
_LOCALE = "en@ss=standard"  # its abbreviations; where sentences of other languages end is the same in all locales
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6}\s")
_ITEM = re.compile(r"\s{0,20}(?:[-*+•‣◦]|\d{1,3}[.)]|[A-Za-z][.)])\s")
_CUTS = tuple(map(re.compile, (r"[\r\n]+", r"[.;:,!?،؛。；：，、！？…]+\s*", r"\s+")))
"""Where a long sentence is cut: at a line's end, else behind punctuation, else at a space, else anywhere."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_END = re.compile(r"\.(?=[0-9A-Za-z])")  # 3.5, .NET
_OPENING = str.maketrans(dict.fromkeys("《〈「『【〔〖｢（“‘", "字"))
"""Begin a sentence, where UAX #29 has them end the one before."""


def split(texts: Sequence[str], most: int, parts: Sequence[Part | None] = ()) -> list[list[Part]]:
    """Give the sentences of each text, in order, without white space around them; none splits a grapheme.

    At most so many of a text: of more, neighbours are joined. `parts`: where to look in each text; None: all of it.
    """
    known = [_graphemes(text) for text in texts]
    inner = [
        (0, len(text)) if part is None else _snapped(part, one)
        for text, one, part in zip(texts, known, parts or [None] * len(texts), strict=True)
    ]
    # All in one go: ICU takes longer to begin than for a hundred thousand characters.
    masked = [_masked(text[start:end]) for text, (start, end) in zip(texts, inner, strict=True)]
    ends = np.cumsum([len(one) for one in SentenceBreaker("\n".join(masked), _LOCALE)], dtype=np.int64)
    found, before = [], 0
    for text, graphemes, (start, end) in zip(texts, known, inner, strict=True):
        first, last = np.searchsorted(ends, (before + 1, before + end - start))
        bounds = ends[first:last] - before + start
        if graphemes is not None:
            bounds = bounds[np.isin(bounds, graphemes)]
        pieces = _trimmed(text, [start, *bounds.tolist(), end], graphemes)
        found.append(_at_most(list(_cut(text, _joined(text, list(pieces)), graphemes)), most))
        before += end - start + 1
    return found


def _graphemes(text: str) -> NDArray[np.int64] | None:
    """Where characters begin and end, as a reader sees them. None: everywhere."""
    if text.isascii() and "\r" not in text:
        return None
    return np.cumsum([0, *map(len, CharacterBreaker(_SURROGATE.sub("\ufffd", text), _LOCALE))], dtype=np.int64)


def _snapped(part: Part, graphemes: NDArray[np.int64] | None) -> Part:
    if graphemes is None:
        return part
    start, end = int(np.searchsorted(graphemes, part[0])), int(np.searchsorted(graphemes, part[1], side="right"))
    return int(graphemes[start]), max(int(graphemes[start]), int(graphemes[end - 1]))


def _masked(text: str) -> str:
    """Write a text for ICU, as long as it is: code and tables as one word, and a newline only where a block ends."""
    lines = _LINE.findall(_NO_END.sub("x", _SURROGATE.sub("\ufffd", text)).translate(_OPENING))
    kinds = list(_kinds(lines))
    masked = []
    for line, kind, after in zip(lines, kinds, [*kinds[1:], "blank"], strict=False):
        content = line.rstrip("\r\n")
        whole = kind in ("code", "table")
        ends = kind in ("blank", "heading") or after in ("blank", "heading", "item")
        ends = kind != after if whole or after in ("code", "table") else ends
        masked += ["x" * len(content) if whole else content, ("\n" if ends else " ") * (len(line) - len(content))]
    return "".join(masked)


def _kinds(lines: Sequence[str]) -> Iterator[str]:
    fence = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            yield "code"
            fence = "" if mark and mark[1] == fence else fence
        elif mark:
            fence = mark[1]
            yield "code"
        elif not line.strip():
            yield "blank"
        elif line.lstrip(" ").startswith("|") or " | " in line:
            yield "table"
        else:
            yield "heading" if _HEADING.match(line) else "item" if _ITEM.match(line) else "text"


def _trimmed(text: str, bounds: Sequence[int], graphemes: NDArray[np.int64] | None) -> Iterator[Part]:
    """Give what is between each two bounds without the white space at its ends; nothing where that is all."""
    for start, end in pairwise(bounds):
        piece = text[start:end]
        if stripped := piece.strip():
            first = start + len(piece) - len(piece.lstrip())
            last = first + len(stripped)
            if graphemes is not None:  # a mark may stand on a space
                first = int(graphemes[np.searchsorted(graphemes, first, side="right") - 1])
                last = int(graphemes[np.searchsorted(graphemes, last)])
            yield first, last


def _size(text: str, part: Part) -> int:
    return len(text[part[0] : part[1]].encode("utf-8", "surrogatepass"))


def _joined(text: str, parts: Sequence[Part]) -> list[Part]:
    """Join each short one to the next, and the last to the one before."""
    joined: list[Part] = []
    start = None
    for part in parts:
        whole = (part[0] if start is None else start, part[1])
        start = whole[0] if _size(text, whole) < SHORT_BYTES else None
        if start is None:
            joined.append(whole)
    if start is not None:
        end = parts[-1][1]
        joined = [*joined[:-1], (joined[-1][0], end)] if joined else [(start, end)]
    return joined


def _cut(text: str, parts: Sequence[Part], graphemes: NDArray[np.int64] | None) -> Iterator[Part]:
    """Cut long ones in pieces about as long as each other, as far as there are good places."""
    for start, end in parts:
        pieces = -(-_size(text, (start, end)) // LONG_BYTES)
        if pieces < 2:
            yield start, end
            continue
        step = (end - start) / pieces
        places = (_place(text, start + step * number, step / 3, graphemes) for number in range(1, pieces))
        yield from _trimmed(text, [start, *places, end], graphemes)


def _place(text: str, near: float, within: float, graphemes: NDArray[np.int64] | None) -> int:
    place = int(near)
    for cut in _CUTS:
        if match := cut.search(text, place, int(near + within)) or cut.search(text, int(near - within), place):
            place = match.end()
            break
    return place if graphemes is None else int(graphemes[np.searchsorted(graphemes, place)])


def _at_most(parts: list[Part], most: int) -> list[Part]:
    if len(parts) <= most:
        return parts
    groups = (one for one in np.array_split(np.array(parts), most))
    return [(int(group[0][0]), int(group[-1][1])) for group in groups]
