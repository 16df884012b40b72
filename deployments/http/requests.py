"""Read a request: its head and its body within their limits, in time, decompressed; and what it asks to have ranked.

What may come, and where that is seen to: connections, heads that never end and bodies that nobody reads, `server.py`;
URL, headers and body, here; values, depth and documents of its JSON, `reranker/dialects/parse.py`.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request
from starlette.types import Scope

from deployments.http import Backend
from reranker import errors
from reranker.config import LimitsConfig
from reranker.dialects.base import TIMEOUT_HEADER, Dialect, RankingCall
from reranker.dialects.parse import parse
from reranker.record import RequestRecord

_RAY_TIMEOUT_HEADER = "X-Request-Timeout-Seconds"  # what Ray Serve's own proxy obeys
_INLINE_BYTES = 64 * 1024
"""Bodies up to this size are parsed where they are: less than a millisecond, and a thread costs a tenth of one."""
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_call(request: Request, dialect: Dialect | None) -> RankingCall:
    """Read what is to be ranked, in the dialect of its path, or else of its fields, and note it in the record."""
    record: RequestRecord = request.state.record
    limits: LimitsConfig = request.app.state.limits
    backend: Backend = request.app.state.backend
    record.dialect = dialect.name if dialect else ""
    with record.stage("read"):
        body = await read_body(request, limits)
    record.body_bytes = len(body)
    with record.stage("admit"):
        backend.require_any_room(len(body))
    with record.stage("parse"):
        timeout = request.headers.get(TIMEOUT_HEADER, request.headers.get(_RAY_TIMEOUT_HEADER))
        if len(body) <= _INLINE_BYTES:
            call = parse(body, dialect, limits, timeout)
        else:
            call = await asyncio.to_thread(parse, body, dialect, limits, timeout)
    note_call(record, call)
    return call


def note_call(record: RequestRecord, call: RankingCall) -> None:
    record.dialect = call.dialect.name
    record.lists, record.documents = len(call.lists), sum(len(one.documents) for one in call.lists)
    record.priority = call.lists[0].priority


def require_short_head(scope: Scope, limits: LimitsConfig) -> None:
    """Refuse a URL, or headers together, over the limit."""
    url = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if url > limits.max_url_bytes:
        raise errors.UrlTooLongError("URL", url, limits.max_url_bytes, "bytes")
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    if headers > limits.max_header_bytes:
        raise errors.HeadersTooLargeError("headers", headers, limits.max_header_bytes, "bytes")


async def read_body(request: Request, limits: LimitsConfig) -> bytes:
    """Receive a body as the client sends it, and give it decompressed. Nothing over the limit is buffered."""
    encoding = compression(request.headers.get("content-encoding", ""))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        _require_size(int(declared), limits.max_request_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.receive_timeout_s):
            async for part in request.stream():
                size += len(part)
                _require_size(size, limits.max_request_bytes)
                parts.append(part)
    except TimeoutError:
        raise errors.SlowRequestError(limits.receive_timeout_s) from None
    body = b"".join(parts)
    if encoding:
        body = await asyncio.to_thread(decompress, body, encoding, limits.max_request_bytes)
    return body


def compression(content_encoding: str) -> str:
    """Read a header Content-Encoding. Empty: the body comes as it is."""
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in _WINDOW_BITS:
        raise errors.UnknownEncodingError
    return encoding


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress a body. A bomb costs no more memory than a body of the largest size."""
    parts: list[bytes] = []
    size = 0
    while body:  # a gzip file may have several members, one after the other
        decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            parts.append(decompressor.decompress(body, max_bytes - size + 1))
        except zlib.error:
            said = f"the body is not what its Content-Encoding says: {encoding}"
            raise errors.InvalidRequestError("", said) from None
        size += len(parts[-1])
        _require_size(size, max_bytes)
        if not decompressor.eof:
            raise errors.InvalidRequestError("", f"the body's {encoding} is cut off before its end")
        body = decompressor.unused_data
    return b"".join(parts)


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise errors.RequestTooLargeError("body", size, most, "bytes")
