"""Documents: read from files (txt, md, jsonl, csv), cut into chunks, and split into the words that BM25 counts.

Scripts with spaces are split at them, folded and stemmed (Snowball). Chinese is cut by jieba in its search mode, which
gives long words and the short ones in them. Japanese, Korean, Thai, Lao, Khmer and Burmese become overlapping pairs of
characters, as in Lucene's CJK analyzer; so do Chinese characters where the documents are Japanese.
"""

from __future__ import annotations

import bisect
import csv
import hashlib
import itertools
import json
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
from tokenizers import Tokenizer

from reranker.errors import ConfigurationError

Metadata: TypeAlias = Mapping[str, Any]
"""What comes with a document besides its text. (Any: JSON.)"""
Ideographs: TypeAlias = Literal["words", "pairs"]
"""How Chinese characters are split: into jieba's words, or into pairs of characters."""
SUFFIXES = (".txt", ".md", ".markdown", ".jsonl", ".ndjson", ".csv", ".tsv")
_IDS = ("id", "_id")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_MAX_CELL_CHARACTERS = 64 * 2**20  # Python's own limit is 128 KiB


@dataclass(frozen=True, slots=True)
class Document:
    """A document as its file has it."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    line: int | None = None  # from 1; None: the document is the whole file


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; chunks are what is found and ranked."""

    id: str  # the document's
    number: int  # in its document, from 0
    text: str
    start: int = 0  # character of the document at which the text begins
    title: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def ranked_text(self) -> str:
        """The title and the text, as first stages and rerankers see them."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that could not be read, and is left out."""

    path: str
    line: int | None  # from 1; None: the whole file
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}" if self.line else f"{self.path}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be read."""

    path: Path
    name: str  # the path within the folder that was given, or the file's own name; the id of a text file's document
    size_bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class TextFields:
    """The fields of a record that hold its text (joined by blank lines) and its title."""

    text: tuple[str, ...] = ("text",)
    title: str = "title"


def find_sources(paths: Sequence[Path], without: Path | None = None) -> list[Source]:
    """List the files to be read, always in the same order, but for hidden ones and those in the folder `without`.

    Raises ConfigurationError if a path does not exist or is of no known kind, or there is no file to read.
    """
    found: dict[Path, Source] = {}
    for path in paths:
        if not (path.is_dir() or path.is_file()):
            raise ConfigurationError(f"{path}: no such file or folder")
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            raise ConfigurationError(f"{path}: of no known kind; known are {', '.join(SUFFIXES)}")
        inside = (one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        for file in [path] if path.is_file() else sorted(inside):
            name, whole, status = file.relative_to(path), file.resolve(), file.stat()
            in_index = without is not None and path.is_dir() and whole.is_relative_to(without.resolve())
            if not in_index and not any(part.startswith(".") for part in name.parts):
                shown = path.name if file == path else name.as_posix()
                found.setdefault(whole, Source(file, shown, status.st_size, status.st_mtime_ns))
    if not found:
        where = ", ".join(map(str, paths))
        raise ConfigurationError(f"{where}: no file to be read in it; known are {', '.join(SUFFIXES)}")
    return list(found.values())


def read_documents(source: Source, fields: TextFields) -> Iterator[Document | Reject]:
    """Yield the documents of a file and the records that are none, in their order."""
    suffix = source.path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson"):
            records: Iterator[tuple[int | None, object]] = _json_lines(source.path)
        elif suffix in (".csv", ".tsv"):
            records = _csv_rows(source.path, fields, "\t" if suffix == ".tsv" else ",")
        else:
            records, fields = _text_file(source, markdown=suffix != ".txt"), TextFields()
        for line, record in records:
            try:
                yield _document(record, line, fields)
            except ValueError as error:
                yield Reject(str(source.path), line, str(error))
    except OSError as error:
        yield Reject(str(source.path), None, error.strerror or type(error).__name__)


# The readers yield line numbers with what stands there: a JSON value, or the ValueError that says what is wrong.


def _text_file(source: Source, *, markdown: bool) -> Iterator[tuple[None, object]]:
    try:
        text = source.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        yield None, ValueError("is not UTF-8")
        return
    heading = _HEADING.search(text) if markdown else None
    yield None, {"id": source.name, "text": text, "title": heading and heading[1], "path": source.name}


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield number, ValueError("is not UTF-8")
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                yield number, ValueError(f"is not JSON: {reason}")


def _csv_rows(path: Path, fields: TextFields, delimiter: str) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    # surrogateescape: bytes that are not UTF-8 spoil their own row only
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            heading = [name.strip() for name in next(reader, [])]
            if not set(heading) & set(fields.text):
                yield 1, ValueError(f"its first row must name the columns, one of them {' or '.join(fields.text)}")
                return
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(heading):
                    yield line, {name: cell for name, cell in zip(heading, cells, strict=True) if cell != ""}
                elif cells:
                    yield line, ValueError(f"has {len(cells)} cells; the first row has {len(heading)}")
                line = reader.line_num + 1
        except csv.Error as error:
            yield reader.line_num, ValueError(f"is not CSV: {error}")


def _document(record: object, line: int | None, fields: TextFields) -> Document:
    """Make a document of a record; raises ValueError if it is none."""
    if isinstance(record, ValueError):
        raise record
    row = {fields.text[0]: record} if isinstance(record, str) else record
    if not isinstance(row, dict):
        raise ValueError("must be an object with a `text`, or a string")  # noqa: TRY004 - it is data that is wrong
    texts = [row[name] for name in fields.text if row.get(name) is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"has no string {' or '.join(f'`{name}`' for name in fields.text)}")
    text = "\n\n".join(texts)
    title = row.get(fields.title) or ""
    if not isinstance(title, str):
        raise ValueError(f"`{fields.title}` is no string")  # noqa: TRY004
    if not text.strip():
        raise ValueError("is empty" if line is None else "its text is empty")
    try:
        orjson.dumps(row)
    except TypeError as error:
        said = "holds what is no text: bytes that are not UTF-8, or half of a surrogate pair"
        raise ValueError(said if "surrogate" in str(error) else f"cannot be kept: {error}") from None
    given = next((row[name] for name in _IDS if row.get(name) is not None), None)
    if isinstance(given, bool) or not isinstance(given, str | int | None) or given == "":
        raise ValueError("its `id` is neither a string nor a whole number")
    # Without an id: a hash of the text, so that the same line is the same document wherever it stands.
    key = str(given) if given is not None else hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = {name: value for name, value in row.items() if name not in (*_IDS, *fields.text, fields.title)}
    if isinstance(metadata.get("metadata"), dict):  # as LangChain writes it
        metadata |= metadata.pop("metadata")
    return Document(key, text, title, metadata, line)


_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),  # of a paragraph
    re.compile(r"[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f\uff0e\u0964][\u201d\u2019\u300d\u300f\uff09]*|\n"),  # a sentence
    re.compile(r"\s+"),  # a word
)


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """How documents are cut, in tokens."""

    tokens: int = 512  # at most, as the index's tokenizer counts
    overlap: int = 64  # that neighbouring chunks share, approximately: a chunk begins with a word

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.overlap <= self.tokens // 2:
            raise ConfigurationError("a chunk needs at least 1 token, and the overlap is at most half of it")


class Chunker:
    """Cuts documents into chunks, where possible at the end of a paragraph or a sentence, by a model's tokenizer."""

    def __init__(self, folder: Path, size: ChunkSize) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._size = size

    def chunks(self, documents: Sequence[Document]) -> list[Chunk]:
        """Cut documents; each has at least one chunk."""
        encoded = self._tokenizer.encode_batch_fast([one.text for one in documents], add_special_tokens=False)
        chunks: list[Chunk] = []
        for document, tokens in zip(documents, encoded, strict=True):
            # encode_batch_fast gives no offsets; only what is too long needs them.
            whole = len(tokens) <= self._size.tokens
            spans = [(0, len(document.text))] if whole else self._spans(document.text)
            filled = ((start, document.text[start:end]) for start, end in spans if document.text[start:end].strip())
            for number, (start, text) in enumerate(filled):
                start += len(text) - len(text.lstrip())
                chunks.append(Chunk(document.id, number, text.strip(), start, document.title, document.metadata))
        return chunks

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where chunks begin and end, in characters."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        first = last = end = 0
        while last < len(offsets):
            begin = min(starts[first], end)  # what the tokenizer drops is not lost
            last = first + self._size.tokens  # not in the chunk
            if last >= len(offsets):
                yield begin, len(text)
                return
            # Not so early that the next chunk would hardly get further than this one.
            earliest = starts[first + (self._size.tokens + self._size.overlap) // 2]
            end = _good_end(text, earliest, offsets[last - 1][1])
            last = max(bisect.bisect_left(starts, end), first + 1)
            if last > first + 1 and offsets[last - 1][1] > end:  # the end is within a token
                last -= 1
            yield begin, end
            # The next one begins with a word; in a script without spaces, with any token.
            least = last - self._size.overlap
            places = ((at, text[max(starts[at] - 1, 0) : starts[at] + 1]) for at in range(least, last))
            first = max(next((at for at, around in places if any(map(str.isspace, around))), least), first + 1)


def _good_end(text: str, earliest: int, latest: int) -> int:
    """The last end of a paragraph between two characters, else of a sentence, else of a word."""
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, earliest, latest)]
        if ends:
            return ends[-1]
    return latest


NO_STEMMING = "none"
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_OTHERS = f"_{_HAN}{_KANA}{_HANGUL}{_UNSPACED}"
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0dff"  # of words, but not in \w
_RUN = re.compile(
    f"(?P<ideographs>[{_HAN}{_KANA}]+)|(?P<pairs>[{_HANGUL}]+|[{_UNSPACED}]+)"
    f"|(?P<word>(?:[^\\W{_OTHERS}]|[{_MARKS}])+(?:'[^\\W\\d{_OTHERS}]+)*)"
)
_HAS_KANA, _HAS_HAN = re.compile(f"[{_KANA}]"), re.compile(f"[{_HAN}]")
_JAPANESE_SHARE = 0.2
"""A collection is Japanese if more than this share of its documents with Chinese characters has kana."""


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Splits text into words. An index keeps its settings: a query must be split as the documents were."""

    stemmer: str = "english"  # Snowball's name of a language, or "none"
    ideographs: Ideographs = "words"

    def words(self, text: str) -> Iterator[str]:
        stem = _stemmer(self.stemmer)
        # NFKC: full-width letters and half-width kana become the usual ones.
        folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
        for run in _RUN.finditer(folded):
            if run.lastgroup == "word":
                yield run[0] if stem is None else stem(run[0])
            elif run.lastgroup == "ideographs" and self.ideographs == "words" and not _HAS_KANA.search(run[0]):
                yield from _jieba().cut_for_search(run[0])
            else:
                yield from map("".join, itertools.pairwise(run[0])) if len(run[0]) > 1 else run[0]


def require_stemmer(name: str) -> str:
    """Give a stemmer's name back, if there is one of this name."""
    import Stemmer  # here: commands that search nothing need not wait for it

    known = (NO_STEMMING, *Stemmer.algorithms())
    if name not in known:
        raise ConfigurationError(f"no stemmer {name!r}; known are {', '.join(known)}")
    return name


def ideographs_of(texts: Iterable[str]) -> Ideographs:
    """Choose how a collection's Chinese characters are split: into pairs if it is Japanese."""
    with_han = with_kana = 0
    for text in texts:
        if _HAS_HAN.search(text):
            with_han += 1
            with_kana += _HAS_KANA.search(text) is not None
    return "pairs" if with_kana > _JAPANESE_SHARE * with_han else "words"


@cache
def _stemmer(name: str) -> Any:  # Any: a method of an untyped class
    if name == NO_STEMMING:
        return None
    import Stemmer

    return Stemmer.Stemmer(name).stemWord


@cache
def _jieba() -> Any:  # Any: an untyped module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba 0.42.1 imports pkg_resources, which says that it is deprecated
        import jieba
    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()  # a second, now and not in a request
    return jieba
