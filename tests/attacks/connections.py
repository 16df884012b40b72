"""Connections that do not do what a client does: idle, half-sent, slow, never-reading ones, by the thousand."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.attacks.attack import Attack, Outcome, Target
from tests.attacks.wire import head

_ALL = 2_000
_SPARED = 300
"""Descriptors that everything else needs."""
_GONE_WITHIN_S = 130.0
"""The longest time-outs (90 s of an idle connection; 60 s for a body and 30 for its rest) and some more."""
_RECV_BUFFER_BYTES = 4_096
_UNREAD = 20
"""Answers that nobody reads: more than the buffers between hold. What is cut off for it is reset."""


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    yield Attack("connections-of-every-kind", partial(_held, tuple(_FIRST), _ALL), "K9", quick=True)
    yield Attack("connections-idle", partial(_held, ("idle",), _ALL), "held")
    yield Attack("connections-crlf", partial(_held, ("crlf", "crlf-only"), _ALL), "K9")
    yield Attack("connections-in-a-storm", _storm, "held")


def _post(target: Target, path: str = "/v1/rerank", length: int = 1_000) -> bytes:
    return head("POST", path, {"content-length": str(length)} | target.authorized)


_FIRST: dict[str, Callable[[Target], bytes]] = {  # what each kind sends when it is opened, by its kind
    "idle": lambda _: b"",
    "half-sent": lambda _: b"POST /v1/rerank HTTP/1.1\r\nhost: attack\r\nx-half",
    "half-body": lambda target: _post(target, length=1_000_000) + b"{" * 1_000,
    "never-reading": lambda _: head("GET", "/openapi.json") * _UNREAD,
    "crlf": lambda _: head("GET", "/health"),
    "crlf-only": lambda _: b"\r\n",
    "slow-head": lambda _: b"GET /health HTTP/1.1\r\nhost: attack\r\nx: a",
    "slow-body": lambda target: _post(target, length=1_000_000) + b"{",
}
_LATER = {"crlf": b"\r\n", "crlf-only": b"\r\n"}
"""What follows once, a second later: after its answer, where there is one."""


def _limit(wanted: int) -> int:
    """As many as the descriptors of this process allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + _SPARED:
        soft = wanted + _SPARED if hard == resource.RLIM_INFINITY else min(hard, wanted + _SPARED)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - _SPARED))


def _held(kinds: tuple[str, ...], wanted: int, target: Target) -> Outcome:
    """Open them, hold them, and see when the service ends each; in a hurry only that others do not notice."""
    outcome = Outcome()
    count = _limit(wanted // 10 if target.quick else wanted)
    opened: dict[socket.socket, str] = {}
    try:
        for number in range(count):
            kind = kinds[number % len(kinds)]
            with contextlib.suppress(OSError):
                connection = target.address.connect(10)
                if kind == "never-reading":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECV_BUFFER_BYTES)
                opened[connection] = kind
                outcome.requests += _UNREAD if kind == "never-reading" else 1
                connection.setblocking(False)
                connection.send(_FIRST[kind](target))
        outcome.answers["opened"] = len(opened)
        began_s = time.monotonic()
        _wait(opened, began_s + (5 if target.quick else _GONE_WITHIN_S))
        outcome.slowest_s = time.monotonic() - began_s
        for kind in kinds:
            if left := sum(one == kind for one in opened.values()):
                outcome.answers[f"{kind} left"] = left
                if not target.quick:
                    outcome.blame(f"{left} {kind} connections are still open after {_GONE_WITHIN_S:.0f} s")
    finally:
        for connection in opened:
            connection.close()
    return outcome


def _wait(opened: dict[socket.socket, str], until_s: float) -> None:
    """Take out of `opened` what the service ends, of those that never read only what it resets."""
    began_s = sent_s = time.monotonic()
    followed = False
    while opened and (now_s := time.monotonic()) < until_s:
        poll = select.poll()
        by_descriptor = {connection.fileno(): connection for connection in opened}
        for descriptor, connection in by_descriptor.items():
            poll.register(descriptor, 0 if opened[connection] == "never-reading" else select.POLLIN)
        for descriptor, events in poll.poll(500):
            connection = by_descriptor[descriptor]
            if events & (select.POLLERR | select.POLLHUP) or not _reads(connection):
                connection.close()
                del opened[connection]
        if not followed and now_s - began_s > 1:
            followed = True
            _say(opened, _LATER)
        if now_s - sent_s > 5:
            sent_s = now_s
            _say(opened, dict.fromkeys(("slow-head", "slow-body"), b" "))


def _reads(connection: socket.socket) -> bool:
    """Read what is there; whether the other end is still open."""
    try:
        return bool(connection.recv(65_536))
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False


def _say(opened: dict[socket.socket, str], parts: dict[str, bytes]) -> None:
    for connection, kind in opened.items():
        if kind in parts:
            with contextlib.suppress(OSError):
                connection.send(parts[kind])


def _storm(target: Target) -> Outcome:
    """Open and close as fast as one thread can."""
    outcome = Outcome()
    until_s = time.monotonic() + target.seconds(5)
    while time.monotonic() < until_s:
        outcome.requests += 1
        try:
            with target.address.connect(10) as connection:
                connection.send(b"GET /v1/load HTTP/1.1\r\n")
        except OSError as error:
            outcome.answers[type(error).__name__] += 1
        else:
            outcome.answers["closed"] += 1
    return outcome
