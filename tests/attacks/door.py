"""Ways of getting in without a key: smuggled requests, spellings of paths, keys in every other place and form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from tests.attacks.attack import Attack, Outcome, Target, at_once
from tests.attacks.wire import Answer, exchange, head, read_all, statuses


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    yield Attack("smuggled-requests", _smuggled, "held", quick=True)
    yield Attack("spellings-of-paths", _spellings, "held", quick=True)
    yield Attack("wrong-keys", _wrong_keys, "held", quick=True)


_GET = b"GET /v1/load HTTP/1.1\r\nhost: attack\r\n\r\n"
_POST = b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\n"
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n"
_SMUGGLED: dict[str, bytes] = {  # what follows each must not be answered as a request with a key
    "both lengths": _POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": _CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": _POST + b"content-length: 0\r\ncontent-length: 41\r\n\r\n",
    "lengths with a comma": _POST + b"content-length: 0, 41\r\n\r\n",
    "signed length": _POST + b"content-length: +0\r\n\r\n",
    "negative length": _POST + b"content-length: -1\r\n\r\n",
    "hexadecimal length": _POST + b"content-length: 0x0\r\n\r\n",
    "folded line": _POST + b"x: a\r\n content-length: 41\r\n\r\n",
    "folded coding": _POST + b"transfer-encoding:\r\n chunked\r\ncontent-length: 0\r\n\r\n",
    "space before the colon": _POST + b"content-length : 41\r\n\r\n",
    "coding with a space": _POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": _POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": _POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "bare LF": b"POST /v1/rerank HTTP/1.1\nhost: a\ncontent-length: 0\n\n",
    "bare CR": b"POST /v1/rerank HTTP/1.1\r\nhost: a\rcontent-length: 41\r\n\r\n",
    "NUL in a value": _POST + b"x: a\x00b\r\n\r\n",
    "chunk overflow": _CHUNKED + b"\r\nffffffffffffffff1\r\n",
    "negative chunk": _CHUNKED + b"\r\n-1\r\n",
    "chunk with bare LF": _CHUNKED + b"\r\n0\n\n",
    "chunk that is longer": _CHUNKED + b"\r\n2\r\nabcd\r\n0\r\n\r\n",
    "chunk extension of 100 KB": _CHUNKED + b"\r\n0;" + b"a" * 100_000 + b"\r\n\r\n",
    "upgrade": b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "upgrade to h2c": b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:6379 HTTP/1.1\r\nhost: a\r\n\r\n",
    "absolute form": b"GET http://127.0.0.1:8265/api/version HTTP/1.1\r\nhost: a\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/9.9": b"GET /health HTTP/9.9\r\nhost: a\r\n\r\n",
}


def _smuggled(target: Target) -> Outcome:
    """Whoever gets in must show a key each time: no second request answers with 200, and none of these with a 5xx."""
    outcome = Outcome()

    def job(name: str) -> Answer:
        answer = Answer()
        try:
            with target.address.connect(30) as connection:
                connection.sendall(_SMUGGLED[name] + _GET)
                stream, closed = read_all(connection, time.monotonic() + 3)
        except OSError as error:
            answer.error = type(error).__name__
            return answer
        found = statuses(stream)
        answer.status = found[0] if found else 0
        answer.error = "closed" if closed else "silence"
        if 200 in found[1:] or any(status >= 500 for status in found):
            answer.body = f"{name}: {found}".encode()
        return answer

    for answer in at_once([partial(job, name) for name in _SMUGGLED], 8):
        outcome.take(answer)
        if answer.body:
            outcome.blame(answer.body.decode())
    return outcome


_GUARDED = (
    "/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score", "/v1/models", "/v1/load", "/v1/cache", "/metrics",
    "/info", "/v1/search", "/search", "/v1/indexes", "/infinity/rerank", "/v1/nothing", "/admin", "/gradio_api/config",
)  # fmt: skip
_OPEN = ("/", "/health", "/-/healthz", "/docs", "/openapi.json", "/v1/cluster/auth", "/ui")
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE")


def spellings(path: str) -> Iterator[str]:
    """Other ways of writing a path, which some server or gateway takes for the same."""
    yield from (path, path + "/", path.upper(), "/" + path, path + "?", path + ";", path + "%00", path + "%20")
    yield from (
        path + "/.",
        path + "#",
        "/health/.." + path,
        "/health/%2e%2e" + path,
        "/ui/.." + path,
        "/docs/.." + path,
    )
    yield from (path.replace("/", "//"), path.replace("/", "/./"), path.replace("/", "%2f"), path.replace("/", "\\"))
    yield from ("".join(f"%{ord(one):02x}" if one != "/" else one for one in path), path + "/health", "/health" + path)
    yield from (path + ".json", path.title(), f"{path}?path=/health", "/ui" + path)


def _spellings(target: Target) -> Outcome:
    """Nothing but the open paths answers, whatever the spelling and the method."""
    outcome = Outcome()
    chance = target.chance()
    tried = [(path, spelt, method) for path in _GUARDED for spelt in spellings(path) for method in _METHODS]
    chance.shuffle(tried)

    def job(path: str, spelt: str, method: str) -> Answer:
        body = {"content-length": "2"} if method == "POST" else {}
        parts = [head(method, spelt, {"connection": "close"} | body), b"{}" if body else b""]
        answer = exchange(target.address, parts, 30)
        if answer.status >= 500 or (answer.status < 300 and answer.status):
            answer.error = f"{method} {spelt}"
        return answer

    jobs = [partial(job, *one) for one in tried[: target.count(4_000)]]
    for answer in at_once(jobs, 8):
        outcome.take(answer)
        open_answer = any(answer.error.endswith((f" {one}", f" {one}/")) for one in _OPEN)
        if answer.error and answer.status and not open_answer:
            outcome.blame(f"{answer.error}: {answer.status}")
    return outcome


def _wrong_keys(target: Target) -> Outcome:
    """Everything that is not exactly one header with exactly a key."""
    outcome = Outcome()
    key = target.key
    fields: list[tuple[str, str]] = [
        ("/v1/load", f"authorization: Bearer {key}\r\nauthorization: Bearer {key}"),
        ("/v1/load", f"authorization: Bearer {key}\r\nauthorization: Bearer wrong"),
        ("/v1/load", f"authorization: Bearer {key}x"),
        ("/v1/load", f"authorization: Bearer {key[:-1]}"),
        ("/v1/load", f"authorization: Bearer x{key}"),
        ("/v1/load", f"authorization: Basic {key}"),
        ("/v1/load", f"authorization: {key}"),
        ("/v1/load", f"authorization: Bearer {key},wrong"),
        ("/v1/load", f"cookie: authorization=Bearer {key}; key={key}"),
        ("/v1/load", f"x-api-key: {key}"),
        ("/v1/load", f"api-key: {key}"),
        (f"/v1/load?api_key={key}&key={key}&authorization=Bearer%20{key}", "x: y"),
        ("/v1/load", "authorization: Bearer sha256:" + "0" * 64),
        ("/v1/load", "authorization: Bearer"),
        ("/v1/load", "authorization: Bearer \xff\xfe"),
        ("/v1/load", "authorization: Bearer " + "a" * 30_000),
        ("/v1/load", f"proxy-authorization: Bearer {key}"),
    ]
    for path, lines in fields:
        request = f"GET {path} HTTP/1.1\r\nhost: attack\r\n{lines}\r\n\r\n".encode("latin-1")
        outcome.take(exchange(target.address, [request], 30), {400, 401, 403, 431}, lines[:20].replace(key, "KEY"))
    return outcome
