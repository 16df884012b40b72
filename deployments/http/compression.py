"""Decompress a request's body, up to a limit: a bomb costs no more memory than a body of the largest size."""

from __future__ import annotations

import zlib

from reranker.errors import InvalidRequestError, RequestTooLargeError, UnknownEncodingError

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def is_compressed(encoding: str) -> bool:
    """Say whether a Content-Encoding is of a compressed body.

    Raises:
        UnknownEncodingError: We cannot read it.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding not in _WINDOW_BITS:
        raise UnknownEncodingError
    return True


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Give what was compressed.

    Args:
        body: As it came.
        encoding: Its Content-Encoding: gzip or deflate.
        max_bytes: It may have so many.

    Raises:
        InvalidRequestError: It is not compressed like this, or it is cut off.
        RequestTooLargeError: It has more than `max_bytes`; no more than that is ever decompressed.
    """
    encoding = encoding.strip().lower()
    parts: list[bytes] = []
    left = max_bytes
    while body:  # a gzip file may have several members, one after the other
        decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            parts.append(decompressor.decompress(body, left + 1))
        except zlib.error:
            raise InvalidRequestError("", f"the body is not what its Content-Encoding says: {encoding}") from None
        left -= len(parts[-1])
        if left < 0:
            raise RequestTooLargeError("body", max_bytes - left, max_bytes, "bytes")
        if not decompressor.eof:
            raise InvalidRequestError("", f"the body's {encoding} is cut off before its end")
        body = decompressor.unused_data
    return b"".join(parts)
