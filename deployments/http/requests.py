"""Read a request: its head and its body within their limits, in time, decompressed; and what it asks to have ranked.

What may come, and where that is seen to: connections, heads that never end and bodies that nobody reads, `server.py`;
URL, headers and body, here; values, depth and documents of its JSON, `reranker/dialects/parse.py`.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import Scope

from deployments.http import Backend
from deployments.http.guard import Hold
from reranker import errors
from reranker.config import LimitsConfig
from reranker.dialects.base import TIMEOUT_HEADER, Dialect, RankingCall
from reranker.dialects.parse import parse, parsed_bytes
from reranker.record import RequestRecord

_TIMEOUT_HEADERS = (TIMEOUT_HEADER, "X-Request-Timeout-Seconds")  # the other is what Ray Serve's own proxy obeys
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:-]{1,40})", re.ASCII | re.IGNORECASE)
INLINE_BYTES = 64 * 1024
"""Bodies up to this size are parsed where they are: less than a millisecond, and a thread costs a tenth of one."""
HOST = re.compile(r"(?:[\w.~-]+|\[[0-9a-fA-F:.]+\])(?::[1-9]\d{0,4})?", re.ASCII)
_PIECE_BYTES = 4 * 2**20
"""Of a decompressed body: some 10 ms of a thread."""
_MAX_MEMBERS = 1_000
_BOOL = TypeAdapter(bool)
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
        timeout = next(((name, request.headers[name]) for name in _TIMEOUT_HEADERS if name in request.headers), None)
        named = _CHARSET.search(request.headers.get("content-type", ""))
        charset = named[1] if named else ""
        said = request.path_params.get("model"), _complete(request)
        hold: Hold = request.state.hold
        if len(body) <= INLINE_BYTES:
            hold.resize(parsed_bytes(body, limits))
            call = parse(body, dialect, limits, timeout, charset, record, *said)
        else:
            hold.resize(len(body) + await backend.threads.run(record.caller, parsed_bytes, body, limits))
            arguments = body, dialect, limits, timeout, charset, record, *said
            call = await backend.threads.run(record.caller, parse, *arguments)
            hold.resize(hold.size - len(body))
    note_call(record, call)
    return call


def _complete(request: Request) -> bool | None:
    """What the URL says of it: Milvus overwrites the path of the one that it is given, and keeps what is behind `?`."""
    said = request.query_params.get("complete")
    try:
        return None if said is None else _BOOL.validate_strings(said or "true")
    except ValidationError:
        raise errors.InvalidRequestError("complete", "must be true or false") from None


def note_call(record: RequestRecord, call: RankingCall) -> None:
    record.dialect = call.dialect.name
    record.lists, record.documents = len(call.lists), sum(len(one.documents) for one in call.lists)
    record.priority = call.lists[0].priority


def require_sound_head(scope: Scope, limits: LimitsConfig) -> None:
    """Refuse a URL, or headers together, over the limit, and a Host that is none: the framework makes URLs of it."""
    url = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if url > limits.max_url_bytes:
        raise errors.UrlTooLongError("URL", url, limits.max_url_bytes, "bytes")
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    if headers > limits.max_header_bytes:
        raise errors.HeadersTooLargeError("headers", headers, limits.max_header_bytes, "bytes")
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) > 1 or not all(HOST.fullmatch(host.decode("latin-1")) for host in hosts):
        raise errors.InvalidRequestError("Host", "must be one host name or address, and a port if any")


async def read_body(request: Request, limits: LimitsConfig) -> bytearray:
    """Receive a body as the client sends it, and give it decompressed. Nothing over the limits is buffered."""
    encoding = compression(request.headers.get("content-encoding", ""))
    declared = request.headers.get("content-length", "")
    hold: Hold = request.state.hold
    if declared.isdecimal():
        _require_size(int(declared), limits.max_request_bytes)
        hold.resize(int(declared))  # refused before it is sent
    body = bytearray()
    try:
        async with asyncio.timeout(limits.receive_timeout_s):
            async for part in request.stream():
                _require_size(len(body) + len(part), limits.max_request_bytes)
                body += part
                hold.resize(max(hold.size, len(body)))
    except TimeoutError:
        raise errors.SlowRequestError(limits.receive_timeout_s) from None
    if not encoding:
        return body
    threads, caller = request.app.state.backend.threads, request.state.record.caller
    pieces, unpacked = decompress(bytes(body), encoding, limits.max_request_bytes), bytearray()
    while (piece := await threads.run(caller, next, pieces, None)) is not None:
        unpacked += piece
        hold.resize(len(body) + len(unpacked))
    return unpacked


def compression(content_encoding: str) -> str:
    """Read a header Content-Encoding. Empty: the body comes as it is."""
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in _WINDOW_BITS:
        raise errors.UnknownEncodingError
    return encoding


def decompress(packed: bytes, encoding: str, max_bytes: int) -> Iterator[bytes]:
    """Decompress a body piece by piece. A bomb costs no more memory than a body of the largest size."""
    window_bits = _WINDOW_BITS[encoding]
    framed = len(packed) >= 2 and packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0  # RFC 1950
    if encoding == "deflate" and packed and not framed:
        window_bits = -zlib.MAX_WBITS  # without zlib's frame, as IIS and old browsers have it
    size, left, decompressor, members, piece = 0, packed, zlib.decompressobj(window_bits), 1, bytearray()
    more = bool(packed)
    while more:
        try:
            piece += decompressor.decompress(left, _PIECE_BYTES - len(piece))
        except zlib.error:
            said = f"the body is not what its Content-Encoding says: {encoding}"
            raise errors.InvalidRequestError("", said) from None
        _require_size(size + len(piece), max_bytes)
        full = len(piece) == _PIECE_BYTES
        left = decompressor.unconsumed_tail
        if decompressor.eof:  # a gzip file may have several members, one after the other
            left, members = decompressor.unused_data, members + 1
            decompressor, more = zlib.decompressobj(window_bits), bool(left)
            if more and members > _MAX_MEMBERS:  # each costs a copy of all that follow
                raise errors.RequestTooLargeError("body", members, _MAX_MEMBERS, "gzip members")
        elif not left and not full:
            raise errors.InvalidRequestError("", f"the body's {encoding} is cut off before its end")
        if full or not more:
            yield bytes(piece)
            size, piece = size + len(piece), bytearray()


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise errors.RequestTooLargeError("body", size, most, "bytes")
