"""Read a request's body: within its limit, in time, decompressed. Nothing is buffered that is over the limit."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from deployments.http.compression import decompress, is_compressed
from reranker.config import LimitsConfig
from reranker.errors import RequestTooLargeError, SlowRequestError


async def read_body(request: Request, limits: LimitsConfig) -> bytes:
    """Receive a body as the client sends it, and give it decompressed.

    Raises:
        RequestTooLargeError: It is over the limit; said at once where its length is declared.
        SlowRequestError: It did not arrive in time.
        UnknownEncodingError: It is compressed in a way we do not know.
        InvalidRequestError: It is not compressed as it says.
    """
    encoding = request.headers.get("content-encoding", "")
    compressed = is_compressed(encoding)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        _require_size(int(declared), limits)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.receive_timeout_s):
            async for part in request.stream():
                size += len(part)
                _require_size(size, limits)
                parts.append(part)
    except TimeoutError:
        raise SlowRequestError(limits.receive_timeout_s) from None
    body = b"".join(parts)
    if compressed:
        body = await asyncio.to_thread(decompress, body, encoding, limits.max_request_bytes)
    return body


def _require_size(size: int, limits: LimitsConfig) -> None:
    if size > limits.max_request_bytes:
        raise RequestTooLargeError("body", size, limits.max_request_bytes, "bytes")
