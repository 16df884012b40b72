"""What somebody with a key can send that costs more than it should: texts, objects, pairs, bombs of every size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from typing import Any

from tests.attacks import bodies
from tests.attacks.attack import ANSWERED, IN_TIME, LATER, REFUSED, Attack, Outcome, Target, at_once, post, posted
from tests.attacks.wire import Answer, exchange, head

_LARGE_MB = 60.0
_EIGHT = 8
_QUICK_TEXTS = frozenset({("query", "letter"), ("documents", "punctuation")})
_FULL_WINDOWS = frozenset(("windows", "chunks"))
_FIELDS: dict[str, Callable[..., bytes]] = {
    "query": bodies.query,
    "documents": bodies.documents,
    "instruction": bodies.instruction,
}


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    for kind in bodies.TEXTS:
        for field in _FIELDS:
            quick = (field, kind) in _QUICK_TEXTS
            fact = "K2" if field == "documents" else "K1"
            yield _attack(f"{field}-{kind}", partial(_text, field, kind, _LARGE_MB, 1), fact, quick=quick)
    for size_mb in (1.0, 4.0, 16.0):
        for field, kind in (("query", "letter"), ("query", "words"), ("documents", "punctuation"), ("query", "emoji")):
            yield _attack(f"{field}-{kind}-{size_mb:.0f}mb", partial(_text, field, kind, size_mb, 1), "K1")
    kinds = cycle(("letter", "punctuation", "combining", "words", "spaces", "digits"))
    for mode, kind in zip(bodies.MODES, kinds, strict=False):
        # Windows as long as the model reads: who asks besides waits for a whole one, which no engine interrupts.
        yield _attack(
            f"documents-{mode}-{kind}",
            partial(_mode, mode, kind, 1),
            "K2",
            quick=mode == "small-windows",
            overloads=mode in _FULL_WINDOWS,
        )
    for field, kind in (("query", "letter"), ("documents", "punctuation"), ("instruction", "words")):
        run = partial(_text, field, kind, _LARGE_MB, _EIGHT)
        yield _attack(f"eight-{field}", run, "K1", quick=field == "documents")
    yield _attack("eight-windows", partial(_mode, "windows", "words", _EIGHT), "K2", overloads=True)
    for name, (fact, path, make, quick) in _STRUCTURED.items():
        yield _attack(name, partial(_structured, path, make, 1), fact, quick=quick)
        yield _attack(f"eight-{name}", partial(_structured, path, make, _EIGHT), fact)
    yield _attack("gzip-beyond-the-limit", _too_large_unpacked, "K8", quick=True)
    yield _attack("gzip-sixty", partial(_packed, 60), "K8")
    yield _attack("gzip-members", _members, "K8")
    yield _attack("tiny-chunks", _tiny_chunks, "K4", quick=True)
    yield _attack("spaces-while-others-ask", _spaces, "K11", quick=True)
    yield _attack("odd-bodies", _odd_bodies, "held", quick=True)
    yield _attack("events-of-the-playground", _events, "K3", quick=True, needs="ui")
    yield _attack("admin-reads", _admin_reads, "K12", needs="admin")
    yield _attack("overload-and-hang-up", _overload, "held", overloads=True)


def _attack(name: str, run: Callable[[Target], Outcome], fact: str, **more: Any) -> Attack:
    return Attack(name, run, fact, with_key=True, **more)


def _text(field: str, kind: str, size_mb: float, copies: int, target: Target) -> Outcome:
    can_be_cut = field == "documents"  # the others are never cut: so long a one can never fit
    allowed = IN_TIME if can_be_cut or copies > 1 else REFUSED
    return posted(target, _FIELDS[field](kind, target.mb(size_mb)), copies=copies, allowed=allowed)


def _mode(mode: str, kind: str, copies: int, target: Target) -> Outcome:
    body = bodies.documents(kind, target.mb(20), 10, **bodies.MODES[mode])
    return posted(target, body, copies=copies)


def _many_documents(**options: Any) -> Callable[[Target], bytes]:
    return lambda target: bodies.documents("words", target.mb(_LARGE_MB), target.count(10_000), **options)


_STRUCTURED: dict[str, tuple[str, str, Callable[[Target], bytes], bool]] = {
    "score-pairs": ("K6", "/score", lambda target: bodies.score_pairs(target.count(10_000)), True),
    "rank-fields": (
        "K6",
        "/v1/rerank",
        lambda target: bodies.rank_fields(target.count(10_000), target.count(10_000)),
        True,
    ),
    "rank-fields-different": ("K6", "/v1/rerank", lambda _: bodies.rank_fields_different(2_000, 5_000), False),
    "small-objects": ("K6", "/v1/rerank", lambda target: bodies.small_objects(target.mb(3)), True),
    "small-objects-many": ("K6", "/v1/rerank", lambda target: bodies.small_objects(target.mb(_LARGE_MB)), False),
    "object-documents": ("K6", "/v1/rerank", lambda target: bodies.object_documents(target.mb(7)), False),
    "object-documents-1mb": ("K6", "/v1/rerank", lambda target: bodies.object_documents(target.mb(1)), False),
    "deep-objects": ("K6", "/v1/rerank", lambda target: bodies.deep_objects(target.mb(4)), False),
    "long-keys": ("K6", "/v1/rerank", lambda target: bodies.long_keys(target.mb(20)), False),
    "data-uris": ("K6", "/v1/rerank", lambda target: bodies.images(target.mb(_LARGE_MB), plain=True), False),
    "image-objects": ("K6", "/v1/rerank", lambda target: bodies.images(target.mb(_LARGE_MB), plain=False), False),
    "query-batch": ("K6", "/score", lambda target: bodies.query_batch(1_000, target.mb(_LARGE_MB)), False),
    "many-documents": ("K2", "/v1/rerank", _many_documents(), False),
    "many-documents-returned": ("K2", "/v1/rerank", _many_documents(return_documents=True, top_n=0), False),
    "whitespace": ("K11", "/v1/rerank", lambda target: bodies.whitespace(target.mb(_LARGE_MB)), False),
}


def _structured(path: str, make: Callable[[Target], bytes], copies: int, target: Target) -> Outcome:
    return posted(target, make(target), path, copies)


def _gzipped(target: Target) -> dict[str, str]:
    return target.authorized | {"content-encoding": "gzip"}


def _too_large_unpacked(target: Target) -> Outcome:
    """What can never fit is 413, and no time to come back is named."""
    outcome = Outcome()
    for size_mib in (65, 500, 2_000):
        answer = post(target, "/v1/rerank", bodies.bomb(size_mib * bodies.MIB), _gzipped(target))
        outcome.take(answer, {413}, f"{size_mib} MiB in gzip")
        if "retry-after" in answer.headers:
            outcome.blame(f"{answer.status} says Retry-After: {answer.headers['retry-after']}")
    return outcome


def _packed(size_mib: int, target: Target) -> Outcome:
    body = bodies.bomb(size_mib * bodies.MIB, b'{"query":"q","documents":["a"]}')
    return posted(target, body, copies=_EIGHT, headers=_gzipped(target))


def _members(target: Target) -> Outcome:
    return posted(target, bodies.many_members(target.count(500_000)), headers=_gzipped(target))


def _tiny_chunks(target: Target) -> Outcome:
    """A body of some MB, each byte a chunk of its own: six bytes sent and an event for each."""
    outcome = Outcome()
    body = bodies.query("letter", target.mb(5))
    fields = {"transfer-encoding": "chunked", "content-type": "application/json"} | target.authorized
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    outcome.take(exchange(target.address, [head("POST", "/v1/rerank", fields), chunks], 90), ANSWERED)
    return outcome


def _spaces(target: Target) -> Outcome:
    """The same estimate as an enormous list, and no work: who asks besides must not be refused for it."""
    outcome = Outcome()
    body = bodies.documents("spaces", target.mb(20))
    for _ in range(3):
        outcome.take(post(target, "/v1/rerank", body), ANSWERED)
    return outcome


def _odd_bodies(target: Target) -> Outcome:
    outcome = Outcome()
    for name, body in bodies.odd().items():
        answer = post(target, "/v1/rerank", body)
        outcome.take(answer, {200, *REFUSED}, name)
    return outcome


def _events(target: Target) -> Outcome:
    """What the playground's page sends, and what it never would: of events that there are not, wide, deep, broken."""
    outcome = Outcome()
    inside = [b"", b"null", b'"a"' + b',"a"' * 10_000, b"[" * 900 + b"]" * 900, b'"%s"' % (b"a" * target.mb(7))]
    made = [b'{"fn_index":%d,"data":[%s]}' % (number, data) for number in (-1, 0, 1, 2, 10**6) for data in inside]
    made += [b"", b"[]", b"{", b'{"data":1}', b'{"fn_index":{},"session_hash":[],"data":{}}', b"[" * 100_000]
    headers = target.authorized | {"content-type": "application/json"}
    jobs = [partial(post, target, "/ui/gradio_api/run/predict", one, headers, 60.0) for one in made]
    for answer in at_once(jobs, _EIGHT):
        outcome.take(answer)
    return outcome


def _admin_reads(target: Target) -> Outcome:
    outcome = Outcome()
    request = head("GET", "/v1/cache", target.authorized)
    jobs = [lambda: exchange(target.address, [request])] * target.count(200)
    for answer in at_once(jobs, 16):
        outcome.take(answer, {200, *LATER})
    return outcome


def _overload(target: Target) -> Outcome:
    """Twice what the engines can do, a tenth of the clients hanging up; small lists of others go first."""
    outcome = Outcome()
    body = bodies.documents("words", 400_000, 1_000)
    until_s = time.monotonic() + target.seconds(20)

    def work(number: int) -> list[tuple[Answer, bool]]:
        answers: list[tuple[Answer, bool]] = []
        while time.monotonic() < until_s:
            hangs_up = (number + len(answers)) % 10 == 0
            answer = post(target, "/v1/rerank", body, timeout_s=0.2 if hangs_up else 60)
            answers.append((answer, hangs_up))
            if answer.status in LATER:
                time.sleep(0.5)
        return answers

    with ThreadPoolExecutor(_EIGHT) as pool:
        for answers in pool.map(work, range(_EIGHT)):
            for answer, hangs_up in answers:
                outcome.take(answer, None if hangs_up else IN_TIME)
    return outcome
