"""Send bytes to a service as an attacker would, and say what came back: a client that reads while it still sends."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_CHUNK_BYTES = 256 * 1024
KEPT_BYTES = 64 * 1024
TIMEOUT_S = 150.0
"""Longer than a request may take (limits.timeout_s)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens."""

    host: str
    port: int
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Read http://host:port."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), tls)

    def connect(self, timeout_s: float = TIMEOUT_S) -> socket.socket:
        """Open a connection; raises OSError."""
        connection = socket.create_connection((self.host, self.port), timeout=timeout_s)
        if not self.tls:
            return connection
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its own certificate, for another name
        return context.wrap_socket(connection)


@dataclass(slots=True)
class Answer:
    """What a client got."""

    status: int = 0
    """0: none."""
    error: str = ""
    """Why there is no status: "reset", "closed", "timeout" …"""
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    retry_after_missing: bool = False
    """429 or 503 without saying when to come back."""

    @property
    def shown(self) -> str:
        """Status, or why there is none."""
        return str(self.status or self.error)


def head(method: str, target: str, headers: Mapping[str, str] | None = None, host: str = "attack") -> bytes:
    """Write a request's head."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in (headers or {}).items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def exchange(
    address: Address,
    parts: Iterable[bytes],
    timeout_s: float = TIMEOUT_S,
    *,
    stubborn: bool = False,
    kept_bytes: int = KEPT_BYTES,
) -> Answer:
    """Send the parts on a connection of its own, and read the answer.

    Args:
        address: Where to.
        parts: What to send.
        timeout_s: For all of it.
        stubborn: Send on although the answer is there.
        kept_bytes: Of the answer's body; the rest is read and dropped.
    """
    started_s = time.monotonic()
    answer = Answer()
    try:
        with address.connect(timeout_s) as connection:
            try:
                send(connection, parts, started_s + timeout_s, stubborn=stubborn)
            except (ConnectionResetError, BrokenPipeError):
                answer.error = "reset"  # what was answered before may still be there to read
            read_answer(connection, started_s + timeout_s, answer, kept_bytes)
    except TimeoutError:
        answer.error = "timeout"
    except (ConnectionResetError, BrokenPipeError):
        answer.error = "reset"
    except OSError as error:
        answer.error = error.strerror or type(error).__name__
    answer.seconds = time.monotonic() - started_s
    return answer


def send(connection: socket.socket, parts: Iterable[bytes], until_s: float, *, stubborn: bool = False) -> bool:
    """Send until an answer begins.

    Args:
        connection: To send on.
        parts: What to send.
        until_s: Of the monotonic clock.
        stubborn: Send all, whatever comes.

    Returns:
        Whether everything was sent.

    Raises:
        TimeoutError: It took too long.
        OSError: The connection is gone.
    """
    connection.setblocking(False)
    for part in parts:
        rest = memoryview(part)
        while rest:
            asked = [] if stubborn else [connection]
            readable, writable, _ = select.select(asked, [connection], [], max(0.0, until_s - time.monotonic()))
            if readable:
                return False
            if not writable:
                raise TimeoutError
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                rest = rest[connection.send(rest[:_CHUNK_BYTES]) :]
    return True


def read_answer(connection: socket.socket, until_s: float, answer: Answer, kept_bytes: int) -> None:
    """Read one answer into `answer`, of its body so much; raises OSError."""
    data = bytearray()

    def more() -> bool:
        connection.settimeout(max(0.01, until_s - time.monotonic()))
        part = connection.recv(_CHUNK_BYTES)
        data.extend(part)
        return bool(part)

    while b"\r\n\r\n" not in data:
        if not more():
            answer.error = answer.error or "closed"
            return
    lines, _, rest = bytes(data).partition(b"\r\n\r\n")
    status, *fields = lines.decode("latin-1").split("\r\n")
    answer.status, answer.error = _status(status), ""
    answer.headers = {k.strip().lower(): v.strip() for k, _, v in (one.partition(":") for one in fields)}
    answer.retry_after_missing = answer.status in (429, 503) and "retry-after" not in answer.headers
    length = int(answer.headers.get("content-length", 0))
    got, data = len(rest), bytearray(rest)
    while got < length:
        before = len(data)
        if not more():
            break
        got += len(data) - before
        del data[kept_bytes:]
    answer.body = bytes(data[:kept_bytes])


def _status(line: str) -> int:
    words = line.split(" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def read_all(connection: socket.socket, until_s: float) -> tuple[bytes, bool]:
    """Read until the other end closes or time is up; gives what came, and whether it closed."""
    parts: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            try:
                part = connection.recv(_CHUNK_BYTES)
            except ConnectionError:
                return b"".join(parts), True
            if not part:
                return b"".join(parts), True
            parts.append(part)
    return b"".join(parts), False


def statuses(stream: bytes) -> list[int]:
    """The statuses of all answers in what a connection gave, by their lengths."""
    found: list[int] = []
    at = 0
    while stream.startswith(b"HTTP/1.", at) and (end := stream.find(b"\r\n\r\n", at)) > 0:
        first, *fields = stream[at:end].decode("latin-1").lower().split("\r\n")
        lengths = [one.partition(":")[2] for one in fields if one.startswith("content-length:")]
        found.append(_status(first))
        at = end + 4 + (int(lengths[0]) if lengths else 0)
    return found


def chunked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Write each part as a chunk, without the last empty one."""
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
