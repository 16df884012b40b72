"""A compressed body is read up to the limit and no further, whatever it would become."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import pytest

from deployments.http.requests import compression, decompress
from reranker.errors import InvalidRequestError, RequestTooLargeError, UnknownEncodingError

BODY = b'{"query": "q", "documents": ["a"]}' * 100


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP ", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY[:40]) + gzip.compress(BODY[40:])),
        ("x-gzip", gzip.compress(b"") + gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),  # without zlib's frame, as old .NET and IIS send it
        ("deflate", zlib.compress(BODY, 0, wbits=-15)),
    ],
)
def test_known_encodings_are_read(encoding: str, body: bytes) -> None:
    assert b"".join(decompress(body, compression(encoding), len(BODY))) == BODY


def test_body_as_it_is_and_unknown_encodings_are_told_apart() -> None:
    assert not compression("")
    assert not compression("identity")
    for encoding in ("br", "zstd", "gzip, gzip"):
        with pytest.raises(UnknownEncodingError, match="gzip and deflate"):
            compression(encoding)


def test_bomb_costs_no_more_than_the_limit() -> None:
    """A kilobyte for each megabyte is what gzip can do."""
    bomb = gzip.compress(bytes(200_000_000), 9)
    tracemalloc.start()
    with pytest.raises(RequestTooLargeError, match="the limit is 1000000"):
        list(decompress(bomb, "gzip", 1_000_000))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 13_000_000


def test_many_members_count_together() -> None:
    with pytest.raises(RequestTooLargeError):
        list(decompress(gzip.compress(BODY) * 3, "gzip", 2 * len(BODY)))


@pytest.mark.parametrize("body", [BODY, gzip.compress(BODY, mtime=0)[:-20], gzip.compress(BODY, mtime=0) + b"rest"])
def test_body_that_is_not_what_it_says_is_the_clients_error(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="gzip"):
        list(decompress(body, "gzip", 10_000))


@pytest.mark.parametrize("size", [4 * 2**20 - 1, 4 * 2**20, 4 * 2**20 + 1, 8 * 2**20])
def test_no_byte_is_lost_between_pieces(size: int) -> None:
    body = random.Random(7).randbytes(size // 2) + bytes(size - size // 2)
    assert b"".join(decompress(gzip.compress(body, 1), "gzip", size)) == body


def test_members_without_end_are_refused_soon() -> None:
    with pytest.raises(RequestTooLargeError, match="gzip members"):
        list(decompress(gzip.compress(b"") * 100_000, "gzip", 10_000))
    assert b"".join(decompress(gzip.compress(b"ab") * 900, "gzip", 10_000)) == b"ab" * 900
