"""Mutations that nobody listed: bodies, heads and chunks by a grammar. The same seed sends the same."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from reranker.dialects import DIALECTS, PATHS
from tests import fuzz
from tests.attacks import bodies
from tests.attacks.attack import IN_TIME, Attack, Outcome, Target, at_once
from tests.attacks.wire import Answer, exchange, head
from tests.hostile import hostile_text

_AT_ONCE = 4
_TIMEOUT_S = 60
_NEVER = frozenset({500, 502, 504})
_METHODS = ("POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "post", "P\x00ST", "")
_PATHS = (
    *PATHS,
    "/",
    "/health",
    "/ui/",
    "/ui/gradio_api/run/predict",
    "/v1/load",
    "/v1/search",
    "/docs",
    "*",
    "//",
    "/%",
)
_NAMES = (
    "content-length", "transfer-encoding", "content-encoding", "content-type", "expect", "connection", "upgrade", "te",
    "trailer", "host", "authorization", "x-request-id", "traceparent", "tracestate", "x-forwarded-host", "cookie",
    "x-forwarded-prefix", "x-forwarded-proto", "x-reranker-timeout-s", "range", "if-none-match", "accept-encoding",
    "origin", "via", "x", "X" * 300, "", "a b", "ü",
)  # fmt: skip
_VALUES = (
    "", "0", "1", "-1", "+1", "0x10", "1e3", "9" * 30, "chunked", "chunked, gzip", "identity", "gzip", "deflate", "br",
    "100-continue", "close", "keep-alive", "websocket", "h2c", "[", "a b", "a:abc", "nan", "1e99", "../../etc/passwd",
    "a" * 5_000, "\x7f", "é", "\t", "a, b, c" * 50, "bytes=0-", "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
)  # fmt: skip


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    yield Attack("mutated-bodies", partial(_bodies, 400, 60), "grammar", with_key=True, quick=True)
    yield Attack("mutated-heads", partial(_heads, 800, 60), "grammar", with_key=True, quick=True)
    yield Attack("mutated-heads-without-key", partial(_heads, 400, 60, known=False), "grammar", quick=True)


def body(chance: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """A path, a body whose fields hold anything of any size, and what its head says of it."""
    path = chance.choice(list(PATHS))
    dialect = PATHS[path] or chance.choice(DIALECTS)
    fields: dict[str, Any] = dict(chance.choice(list(dialect.examples.values())))  # Any: JSON
    known = [*dialect.body.model_fields, "image", "extra"]
    for name in chance.sample(known, min(len(known), chance.randrange(1, 4))):
        fields[name] = value(chance, 3)
    made = json.dumps(fields, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    headers = {"content-type": "application/json"}
    if chance.random() < 0.2:
        made, headers["content-encoding"] = gzip.compress(made, 1, mtime=0), "gzip"
    return path, made, headers


def value(chance: random.Random, depth: int) -> Any:  # Any: JSON
    """Anything, at times very much of it."""
    kind = chance.randrange(10 if depth else 6)
    size = int(10 ** chance.uniform(0, 6.3 if depth == 3 else 3))
    if kind == 0:
        return bodies.TEXTS[chance.choice(list(bodies.TEXTS))].decode() * max(1, size // 8)
    if kind == 1:
        return hostile_text(chance) * max(1, size // 50)
    if kind == 2:
        return chance.choice([None, True, False, 0, -1, 1, 2**31, 2**63, -(10**30), 1e308, 0.1, float("nan")])
    if kind == 3:
        return chance.choice(["left", "right", "truncate", "windows", "max", "bulk", "off", "read", "@medical", ""])
    if kind == 4:
        return f"data:image/png;base64,{'iVBOR' * (size // 5)}"
    if kind == 5:
        return [chance.choice(["a", "", 1, None])] * min(size, 20_000)
    if kind < 8:
        return [value(chance, depth - 1) for _ in range(chance.randrange(1, 12))]
    return {hostile_text(chance, 3) or "text": value(chance, depth - 1) for _ in range(chance.randrange(1, 12))}


def request(chance: random.Random, key: str) -> list[bytes]:
    """A request's bytes, in the parts in which they are sent; its head is odd and its chunks may be wrong."""
    content = b'{"query":"q","documents":["a"]}' * chance.choice([1, 1, 2, 1_000])
    lines = [f"{chance.choice(_METHODS)} {chance.choice(_PATHS)}{chance.choice(['', '', '?a=b', '#x'])} HTTP/1.1"]
    lines.append("host: attack")
    if key and chance.random() < 0.7:
        lines.append(f"authorization: Bearer {key}")
    chunks = chance.random() < 0.4
    if chance.random() < 0.8:
        lines.append("transfer-encoding: chunked" if chunks else f"content-length: {len(content)}")
    lines += [
        f"{chance.choice(_NAMES)}{chance.choice([':', ': ', ' : ', ''])}{chance.choice(_VALUES)}"
        for _ in range(chance.randrange(6))
    ]
    chance.shuffle(rest := lines[1:])
    end = chance.choice(["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"])
    made = end.join([lines[0], *rest, "", ""]).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        at = chance.randrange(len(made))
        made = made[:at] + chance.randbytes(chance.randrange(1, 9)) + made[at:]
    return [made, *(_chunks(content, chance) if chunks else [content])]


def _chunks(content: bytes, chance: random.Random) -> Iterator[bytes]:
    for _ in range(chance.randrange(1, 5)):
        size = chance.choice([len(content), len(content), 0, 1, len(content) + 1, 2**40, 2**64])
        extension = chance.choice([b"", b"", b";a=b", b";" + b"a" * 2_000, b" "])
        yield b"%x%s\r\n%s\r\n" % (size, extension, content)
    trailer = chance.choice([b"", b"", b"authorization: Bearer x\r\n", b"x: y\r\n" * 2_000, b"\x00\r\n"])
    yield chance.choice([b"0\r\n%s\r\n", b"0\r\n%s", b"%s\r\n", b"00000\r\n%s\r\n"]) % trailer


def _bodies(count: int, seconds: float, target: Target) -> Outcome:
    """Those of `make fuzz`, which are small, among them."""
    outcome = Outcome()
    chance, small = target.chance(), fuzz.attempts(target.seed)

    def next_one() -> tuple[str, bytes, dict[str, str]]:
        if chance.random() < 0.3:
            one = next(small)
            return one.path, one.body, one.headers
        return body(chance)

    def job(path: str, made: bytes, headers: dict[str, str]) -> Answer:
        fields = headers | target.authorized | {"content-length": str(len(made))}
        return exchange(target.address, [head("POST", path, fields), made], _TIMEOUT_S)

    until_s = time.monotonic() + target.seconds(seconds)
    for first in range(0, target.count(count), _AT_ONCE):
        if time.monotonic() > until_s:
            break
        jobs = [partial(job, *next_one()) for _ in range(_AT_ONCE)]
        for number, answer in enumerate(at_once(jobs, _AT_ONCE), start=first):
            outcome.take(answer, {*IN_TIME, 408, 415}, f"seed {target.seed}, body {number}:")
    return outcome


def _heads(count: int, seconds: float, target: Target, *, known: bool = True) -> Outcome:
    """An answer that is no bug of ours, or the end of the connection; what is not complete waits a second for it."""
    outcome = Outcome()
    chance = target.chance()
    until_s = time.monotonic() + target.seconds(seconds)
    for first in range(0, target.count(count), 2 * _AT_ONCE):
        if time.monotonic() > until_s:
            break
        made = [request(chance, target.key if known else "") for _ in range(2 * _AT_ONCE)]
        jobs = [partial(exchange, target.address, one, 1.0) for one in made]
        for number, answer in enumerate(at_once(jobs, 2 * _AT_ONCE), start=first):
            outcome.take(answer)
            if answer.status in _NEVER or (answer.status == 200 and not known and answer.body.startswith(b'{"id"')):
                outcome.blame(f"seed {target.seed}, head {number}: {answer.status}")
    return outcome
