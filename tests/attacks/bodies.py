"""Large and odd bodies: texts of every kind in every field, objects, pairs, images as text, gzip bombs. Pure."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

MIB = 2**20

TEXTS: Mapping[str, bytes] = {  # one period of each, as it stands in JSON
    "letter": b"a",
    "words": b"the capital of China is Beijing ",
    "spaces": b" ",
    "punctuation": b"!",
    "mixed-punctuation": b"?!.,;:-_(){}*&^%$#@~",
    "emoji": "😀".encode(),
    "digits": b"1234567890",
    "combining": "e\u0301\u0323\u0308".encode(),
    "escaped": rb"\ud83d\ude00",
    "escaped-controls": rb"\u0000\u001f",
    "chinese": "中国的首都是北京".encode(),
    "hangul": "\u1112\u1161\u11ab".encode(),
}
MODES: Mapping[str, Mapping[str, Any]] = {  # what happens to a long document
    "end": {"long_documents": "truncate", "truncation_side": "right"},
    "start": {"long_documents": "truncate", "truncation_side": "left"},
    "short": {"long_documents": "truncate", "max_tokens_per_doc": 16},
    "endless": {"long_documents": "truncate", "max_tokens_per_doc": 10**12},
    "windows": {"long_documents": "windows"},
    "small-windows": {"long_documents": "windows", "max_tokens_per_doc": 32, "overlap_tokens": 8},
    "chunks": {"max_chunks_per_doc": 10_000, "overlap_tokens": 1},
}


def text(kind: str, size_bytes: int) -> bytes:
    """A JSON string's inside."""
    period = TEXTS[kind]
    return period * (size_bytes // len(period))


def _with(options: Mapping[str, Any]) -> bytes:
    return b"".join(b',"%s":%s' % (name.encode(), json.dumps(value).encode()) for name, value in options.items())


def query(kind: str, size_bytes: int, **options: Any) -> bytes:
    """One long query."""
    return b'{"query":"%s","documents":["a"]%s}' % (text(kind, size_bytes), _with(options))


def instruction(kind: str, size_bytes: int, **options: Any) -> bytes:
    """One long instruction."""
    return b'{"query":"q","instruction":"%s","documents":["a"]%s}' % (text(kind, size_bytes), _with(options))


def documents(kind: str, size_bytes: int, count: int = 1, **options: Any) -> bytes:
    """Some long documents, all different."""
    inside = text(kind, size_bytes // count)
    listed = b",".join(b'"%d %s"' % (number, inside) for number in range(count))
    return b'{"query":"q","documents":[%s]%s}' % (listed, _with(options))


def score_pairs(count: int) -> bytes:
    """As many queries as documents, one letter each, all queries different."""
    queries = [f"{number}" for number in range(count)]
    return json.dumps({"queries": queries, "documents": ["a"] * count}).encode()


def rank_fields(objects: int, fields: int) -> bytes:
    """Objects that have none of many fields which they are to be ranked by."""
    return json.dumps({"query": "q", "documents": [{"a": 1}] * objects, "rank_fields": ["a"] * fields}).encode()


def rank_fields_different(objects: int, fields: int) -> bytes:
    """The same, each field with another name, and the objects with many of them."""
    names = [f"f{number}" for number in range(fields)]
    one = dict.fromkeys(names[:50], 1)
    return json.dumps({"query": "q", "documents": [one] * objects, "rank_fields": names}).encode()


def small_objects(size_bytes: int) -> bytes:
    """One list of many objects of one field each, inside documents that are objects."""
    inside = b",".join([b'{"a":1}'] * 1_000)
    one = b'{"x":[%s]}' % inside
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * max(1, size_bytes // len(one)))


def object_documents(size_bytes: int) -> bytes:
    """At most as many objects as there may be documents, each with many short fields."""
    count = min(10_000, max(1, size_bytes // 100))
    fields = max(1, size_bytes // count // 12)
    one = json.dumps({f"f{number}": number for number in range(fields)}).encode()
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * count)


def deep_objects(size_bytes: int, depth: int = 28) -> bytes:
    """Objects within objects, as deep as is allowed or deeper."""
    one = b'{"a":' * depth + b"1" + b"}" * depth
    count = min(10_000, max(1, size_bytes // len(one)))
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * count)


def long_keys(size_bytes: int) -> bytes:
    """Documents with a name of a field, and a value of several lines, that are long."""
    half = b"k " * (size_bytes // 8)
    one = b'{"%s":"%s"}' % (half, half.replace(b" ", rb"\n"))
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * 2)


def images(size_bytes: int, *, plain: bool) -> bytes:
    """Images as text: data: URIs as documents, or objects as multimodal models take them."""
    uri = b"data:image/png;base64," + b"iVBORw0KGgoAAAANSUhEUgAA/+9z" * (size_bytes // 4 // 28)
    one = b'"%s"' % uri if plain else b'{"type":"image_url","image_url":{"url":"%s"}}' % uri
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * 4)


def query_batch(count: int, size_bytes: int) -> bytes:
    """Many queries of some length, each with a document, in one request."""
    each = b"capital of China " * max(1, size_bytes // count // 17)
    queries = b",".join(b'"%d %s"' % (number, each) for number in range(count))
    return b'{"queries":[%s],"documents":[%s]}' % (queries, b",".join([b'"a"'] * count))


def whitespace(size_bytes: int) -> bytes:
    """Valid JSON that is nearly all spaces between its fields."""
    return b'{"query":"q",%s"documents":["a"]}' % (b" " * size_bytes)


def bomb(size_bytes: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """Gzip of so many spaces between two texts: a thousandth of the size."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [made.compress(before)]
    spaces = b" " * MIB
    parts += [made.compress(spaces[: min(MIB, size_bytes - at)]) for at in range(0, size_bytes, MIB)]
    return b"".join([*parts, made.compress(after), made.flush()])


def many_members(count: int) -> bytes:
    """A gzip file of many empty members."""
    return gzip.compress(b"") * count


def odd() -> dict[str, bytes]:
    """Bodies that broke other services, by what is odd in them; each is refused or answered within a second."""
    return {
        "10,001 documents": _listed(b'"a"', 10_001),
        "a million values": _listed(b"1", 1_000_001),
        "nesting of a million": b'{"query":"q","documents":' + b"[" * 1_000_000,
        "nested objects": b'{"a":' * 300_000,
        "30 MB of [],": _listed(b"[]", 10_000_000),
        "beyond double": b'{"query":"q","documents":["a"],"top_n":1e99999}',
        "a number of a million digits": b'{"query":"q","documents":["a"],"top_n":' + b"9" * 1_000_000 + b"}",
        "NaN": b'{"query":"q","documents":["a"],"timeout_s":NaN}',
        "lone surrogate": rb'{"query":"\ud800","documents":["\udc00"]}',
        "NUL": b'{"query":"\\u0000","documents":["\\u0000"]}',
        "bytes that are no UTF-8": b'{"query":"\xff\xfe","documents":["\xc0\x80"]}',
        "duplicate keys": b'{"query":"q","query":"r","documents":["a"],"documents":["b"]}',
        "100,000 duplicate keys": b"{%s}" % b",".join([b'"query":"q"'] * 100_000),
        "empty": b"",
    }


def _listed(one: bytes, count: int) -> bytes:
    return b'{"query":"q","documents":[%s]}' % b",".join([one] * count)
