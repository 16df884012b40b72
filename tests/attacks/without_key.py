"""What somebody without a key can send that costs more than a refusal: bombs, trailers, odd hosts, large bodies."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.attacks import bodies
from tests.attacks.attack import REFUSED, Attack, Outcome, Target, at_once, for_a_while, post
from tests.attacks.wire import Answer, chunked, exchange, head, read_all, send, statuses

_EVENT = "/ui/gradio_api/run/predict"
_HOSTS = ("[", "a b", "a:abc", "", "héllo", "a:99999999999", "[::1", "a\tb", "a/../b", "@", "%00", "a" * 5_000)
_FORWARDED = (
    {"x-forwarded-host": "["},
    {"x-forwarded-host": "a b, c"},
    {"x-forwarded-prefix": "/../.."},
    {"x-forwarded-prefix": "/" + "a/" * 3_000},
    {"x-forwarded-proto": "javascript"},
    {"x-forwarded-for": "[" * 100},
)
_PLACES = ("/ui/", "/ui", "/", "/health", "/docs", "/nothing", "/v1/rerank", "/ui/config", "/ui/nothing")


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    yield _attack("bombs-to-the-playground", partial(_bombs, _EVENT), "K3", quick=True, needs="ui")
    yield _attack("bombs-to-the-api", partial(_bombs, "/v1/rerank"), "K3", quick=True)
    yield _attack("playground-joins", _joins, "K3", needs="ui")
    yield _attack("trailers-many", partial(_trailers, "/v1/rerank", False), "K4")
    yield _attack("trailers-many-open-path", partial(_trailers, "/health", False), "K4", quick=True)
    yield _attack("trailers-many-playground", partial(_trailers, _EVENT, False), "K4", needs="ui")
    yield _attack("trailer-endless", partial(_trailers, "/v1/rerank", True), "K4")
    yield _attack("trailer-endless-open-path", partial(_trailers, "/health", True), "K4", quick=True)
    yield _attack("trailer-as-key", _key_in_trailer, "K4", quick=True)
    yield _attack("hosts", _hosts, "K5", quick=True)
    yield _attack("hosts-forwarded", _forwarded, "K5", quick=True)
    yield _attack("bodies-to-the-playground", _held_bodies, "K10", quick=True, needs="ui")
    yield _attack("large-bodies-without-key", _large_bodies, "K10")
    yield _attack("streams-of-the-playground", _streams, "K10", quick=True, needs="ui")
    yield _attack("pipelined-requests", _pipelined, "held", quick=True)
    yield _attack("tiny-chunks-without-key", _tiny_chunks, "K4")
    yield _attack("heads-of-every-size", _heads, "held")
    for path in ("/", "/health", "/docs", "/openapi.json", "/v1/cluster/auth"):
        yield _attack(f"open-page-{path.strip('/').replace('/', '-') or 'root'}", partial(_page, path), "held")


def _attack(name: str, run: Callable[[Target], Outcome], fact: str, **more: Any) -> Attack:
    return Attack(name, run, fact, **more)


def _bombs(path: str, target: Target) -> Outcome:
    """8 KB that become 8 MiB, on 32 connections."""
    outcome = Outcome()
    body = bodies.bomb(8 * bodies.MIB - 4_096, b'{"fn_index":0,"session_hash":"attack","data":["', b'"]}')
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    job = partial(post, target, path, body, headers, 30.0)
    for_a_while(target.seconds(20), 32, lambda _: [job()], outcome)
    return outcome


def _joins(target: Target) -> Outcome:
    """Plain bodies to the queue, each of a session of its own that nobody listens to."""
    outcome = Outcome()
    filler = b"a" * 200_000

    def job(number: int) -> list[Answer]:
        session = f"{number}-{time.monotonic_ns()}".encode()
        body = b'{"fn_index":0,"session_hash":"%s","data":["%s"]}' % (session, filler)
        return [post(target, _EVENT, body, {}, 30)]

    for_a_while(target.seconds(20), 16, job, outcome)
    return outcome


def _chunked_head(path: str, headers: dict[str, str] | None = None) -> bytes:
    return head("POST", path, {"transfer-encoding": "chunked", "content-type": "application/json"} | (headers or {}))


def _trailers(path: str, endless: bool, target: Target) -> Outcome:
    """40 MB of trailers, or one whose value has 100 MB."""
    outcome = Outcome()

    def parts() -> Iterator[bytes]:
        yield _chunked_head(path)
        yield from chunked([b"{}"])
        yield b"0\r\n"
        if endless:
            yield b"x-trailer: "
            for _ in range(target.mb(100) // 1_000_000):
                yield b"a" * 1_000_000
        else:
            for part in range(target.mb(40) // 100_000):
                yield b"".join(b"x-%d-%d: a\r\n" % (part, number) for number in range(7_000))
        yield b"\r\n\r\n"

    answer = exchange(target.address, parts(), 60, stubborn=True)
    outcome.take(answer, {0, 200, 400, 401, 403, 404, 405, 413, 422, 431})
    return outcome


def _key_in_trailer(target: Target) -> Outcome:
    """A trailer is no header: whoever checks heads in front of the service has not seen it."""
    outcome = Outcome()
    key = f"authorization: Bearer {target.key}\r\n\r\n".encode()
    for path in ("/v1/rerank", "/v1/load", "/score"):
        parts = [_chunked_head(path), *chunked([b'{"query":"q","documents":["a"]}']), b"0\r\n", key]
        outcome.take(exchange(target.address, parts, 30), {0, 400, 401}, f"{path} with its key in a trailer")
    return outcome


def _with_host(target: Target, path: str, host: str, headers: dict[str, str] | None = None) -> Answer:
    return exchange(target.address, [head("GET", path, headers, host)], 30)


def _hosts(target: Target) -> Outcome:
    """400 in one line: what its client wrote cannot be a bug of ours."""
    outcome = Outcome()
    wrong: dict[str, list[str]] = {}
    for _ in range(1 if target.quick else 5):
        for host in _HOSTS:
            for path in _PLACES:
                answer = _with_host(target, path, host)
                outcome.take(answer)
                if answer.status >= 500 or not answer.status:
                    wrong.setdefault(f"{answer.shown} at {path}", []).append(host[:9])
    for where, hosts in wrong.items():
        outcome.blame(f"{where} for {len(hosts)} hosts such as {hosts[0]!r}")
    return outcome


def _forwarded(target: Target) -> Outcome:
    outcome = Outcome()
    for headers in _FORWARDED:
        for path in _PLACES:
            answer = _with_host(target, path, "attack", headers)
            outcome.take(answer)
            if answer.status >= 500 or not answer.status:
                outcome.blame(f"{next(iter(headers))} at {path}: {answer.shown}")
    return outcome


def _held_bodies(target: Target) -> Outcome:
    """60 connections that send 8 MiB less one byte, and then wait."""
    outcome = Outcome()
    size = 8 * bodies.MIB - 64
    hold_s = target.seconds(15)
    body = b"a" * (size - 1)
    paths = ("/ui/x", _EVENT)

    def job(number: int) -> Answer:
        parts = [head("POST", paths[number % 2], {"content-length": str(size)}), body]
        return exchange(target.address, parts, hold_s, stubborn=True)

    for answer in at_once([partial(job, number) for number in range(60)], 60):
        outcome.take(answer)
    return outcome


def _large_bodies(target: Target) -> Outcome:
    """60 MB to every path, with no key: nobody has asked for them."""
    outcome = Outcome()
    body = b'{"query":"%s"}' % (b"a" * target.mb(60))
    paths = ("/v1/rerank", "/health", "/docs", "/nothing", "/score", "/metrics", "/v1/search", "/v1/cluster/auth")
    for answer in at_once([partial(post, target, path, body, {}, 60) for path in paths], len(paths)):
        outcome.take(answer)
    return outcome


def _streams(target: Target) -> Outcome:
    """Streams of events as its framework has them, never ending. The service has no such paths: none is held open."""
    outcome = Outcome()
    hold_s = target.seconds(15)
    paths = ("/ui/gradio_api/heartbeat/attack-{}", "/ui/gradio_api/queue/data?session_hash=attack-{}")

    def job(number: int) -> Answer:
        answer = Answer(error="stream")
        with contextlib.suppress(OSError), target.address.connect(30) as connection:
            connection.sendall(head("GET", paths[number % 2].format(number)))
            stream, _ = read_all(connection, time.monotonic() + hold_s)
            answer.status = next(iter(statuses(stream)), 0)
        return answer

    for answer in at_once([partial(job, number) for number in range(target.count(300))], 300):
        outcome.take(answer)
    return outcome


def _pipelined(target: Target) -> Outcome:
    """Requests one after the other, without reading an answer: none is begun before its turn, or kept."""
    outcome = Outcome()
    sent = head("GET", "/v1/load") * 1_000
    seconds = target.seconds(10)

    def job() -> list[Answer]:
        stream, closed = b"", False
        with contextlib.suppress(OSError), target.address.connect(30) as connection:
            with contextlib.suppress(OSError):  # time is up
                send(connection, itertools.repeat(sent, 1_000), time.monotonic() + seconds, stubborn=True)
            stream, closed = read_all(connection, time.monotonic() + 2)
        return [Answer(one) for one in statuses(stream)] or [Answer(error="closed" if closed else "silence")]

    for answers in at_once([job] * target.count(20), 20):
        for answer in answers:
            outcome.take(answer)
        outcome.requests += 32  # of each connection's thousands, those that are begun at least
    return outcome


def _tiny_chunks(target: Target) -> Outcome:
    outcome = Outcome()
    for path in ("/v1/rerank", _EVENT):
        chunks = b"1\r\na\r\n" * target.mb(5) + b"0\r\n\r\n"
        outcome.take(exchange(target.address, [_chunked_head(path), chunks], 60, stubborn=True))
    return outcome


def _page(path: str, target: Target) -> Outcome:
    """What everybody may have costs no more than a refusal does."""
    outcome = Outcome()
    jobs = [partial(exchange, target.address, [head("GET", path, {"connection": "close"})], 30)] * target.count(2_000)
    for answer in at_once(jobs, 8):
        outcome.take(answer)
    return outcome


def _heads(target: Target) -> Outcome:
    """Heads that are large in one way each."""
    outcome = Outcome()
    made = [
        head("GET", "/health", {f"x-{number}": "a" for number in range(5_000)}),
        head("GET", "/health", {"x": "a" * 1_000_000}),
        head("GET", "/" + "a" * 1_000_000),
        head("GET", "/health?" + "a=b&" * 100_000),
        head("A" * 100_000, "/health"),
        head("GET", "/health", {"a" * 500_000: "b"}),
        b"\r\n" * 500_000 + head("GET", "/health"),
    ]
    jobs = [partial(exchange, target.address, [one], 45) for one in made for _ in range(target.count(20))]
    for answer in at_once(jobs, 8):
        outcome.take(answer, {0, 200, *REFUSED, 401, 404, 405, 408, 414, 431, 501})
    return outcome
