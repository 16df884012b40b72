"""Keys, limits and bad manners against the running service, over real connections: always JSON, never a crash."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from reranker.client import RerankerClient
from reranker.errors import UnauthorizedError
from tests.integration.conftest import NARROW_KEY, NARROW_KEYS, Service
from tests.integration.traffic import documents, wait_until

BODY = {"query": "capital of China", "documents": ["Beijing is the capital of China.", "The sky is blue."]}
AUTHORIZED = {"authorization": f"Bearer {NARROW_KEY}"}


def _raw(service: Service, *parts: bytes, pause_s: float = 0) -> tuple[int, dict[str, Any]]:
    """Send bytes as they are, and give status and JSON of the answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        reader = connection.makefile("rb")
        status = int(reader.readline().split()[1])
        length = 0
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, json.loads(reader.read(length))


def _head(target: str, length: int, *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "host: door", f"content-length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/rerank",
        "/V1/rerank",
        "//v1/rerank",
        "/v1/rerank/",
        "/%76%31/rerank",
        "/v1%2frerank",
        "/health/../v1/rerank",
    ],
)
def test_nothing_answers_without_a_key(narrow: Service, target: str) -> None:
    status, answer = _raw(narrow, _head(target, 2) + b"{}")
    assert (status, answer["error_type"]) == (401, "unauthorized")


def test_client_gets_in_with_a_key_and_is_told_when_it_has_none(narrow: Service) -> None:
    with RerankerClient(narrow.url, api_key=NARROW_KEY) as client:
        assert len(client.rerank(BODY["query"], BODY["documents"])) == 2  # type: ignore[arg-type]  # mixed values
    with RerankerClient(narrow.url, api_key="wrong") as client, pytest.raises(UnauthorizedError, match="not known"):
        client.rerank("q", ["a"])


def test_key_is_exchanged_without_a_restart(narrow: Service) -> None:
    file = narrow.folder / "keys.yaml"
    new = {"authorization": "Bearer the-next-key"}
    assert httpx.get(f"{narrow.url}/info", headers=new).status_code == 401
    try:
        file.write_text(f"tests: [{NARROW_KEY}, the-next-key]\n")
        wait_until(lambda: httpx.get(f"{narrow.url}/info", headers=new).status_code == 200)
    finally:
        file.write_text(NARROW_KEYS)
    wait_until(lambda: httpx.get(f"{narrow.url}/info", headers=new).status_code == 401)


def test_keys_own_limits_are_429_with_a_time_to_come_back(narrow: Service) -> None:
    one, few = ({"authorization": f"Bearer key-of-{name}"} for name in ("one", "few"))
    with ThreadPoolExecutor(1) as pool:
        occupying = pool.submit(narrow.post, "q", documents(400, words=(3, 10)), headers=one)
        wait_until(lambda: narrow.load()["lists"] > 0)
        second = narrow.post("q", ["a"], headers=one)
        assert occupying.result().status_code == 200
    assert (second.status_code, second.json()["error_type"], second.headers["retry-after"]) == (
        429,
        "quota_exceeded",
        "1",
    )
    assert narrow.post("q", ["a"] * 3, headers=few).status_code == 200
    again = narrow.post("q", ["a"], headers=few)
    assert again.status_code == 429
    assert int(again.headers["retry-after"]) > 10
    narrow.wait_until_idle()


def test_slow_sender_is_given_up(narrow: Service) -> None:
    """Two seconds in this service; the head came at once, the body comes a byte at a time."""
    head = _head("/v1/rerank", 1_000, f"authorization: Bearer {NARROW_KEY}")
    status, answer = _raw(narrow, head, *[b" "] * 25, pause_s=0.1)
    assert (status, answer["error_type"]) == (408, "slow_request")


def test_body_too_large_is_refused_at_once_and_its_connection_lives(narrow: Service) -> None:
    """Declared, before a byte of it; undeclared, once it is too much. The client may go on sending."""
    status, answer = _raw(narrow, _head("/v1/rerank", 10**12, f"authorization: Bearer {NARROW_KEY}"))
    assert (status, answer["error_type"]) == (413, "request_too_large")

    def parts() -> Iterator[bytes]:
        for _ in range(70):
            yield b" " * 2**20

    response = httpx.post(f"{narrow.url}/v1/rerank", content=parts(), headers=AUTHORIZED, timeout=60)
    assert response.status_code == 413


def test_bomb_is_refused_and_gzip_is_read(narrow: Service) -> None:
    compressed = AUTHORIZED | {"content-encoding": "gzip"}
    bomb = gzip.compress(b'{"query": "' + bytes(80 * 2**20))
    response = httpx.post(f"{narrow.url}/v1/rerank", content=bomb, headers=compressed, timeout=60)
    assert response.status_code == 413
    body = gzip.compress(json.dumps(BODY).encode())
    assert httpx.post(f"{narrow.url}/v1/rerank", content=body, headers=compressed).status_code == 200


def test_head_that_is_too_large_or_no_http_is_refused_in_json(narrow: Service) -> None:
    assert _raw(narrow, _head("/v1/rerank", 0, "x-much: " + "a" * 40_000))[0] == 431
    assert _raw(narrow, _head("/v1/rerank?" + "a" * 9_000, 0))[0] == 414
    assert _raw(narrow, b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000)[0] == 431
    assert _raw(narrow, b"\x16\x03\x01\x00\r\n\r\n")[0] == 400


def test_score_answers_pairs_in_their_order(service: Service) -> None:
    """One to many, and one to one with different queries, score as the same pairs do in a ranking."""
    queries = ["capital of China", "colour of the sky", "capital of China"]
    texts = ["Beijing is the capital of China.", "The sky is blue.", "The sky is blue."]
    ranked = {
        (query, text): result["relevance_score"]
        for query in set(queries)
        for text in set(texts)
        for result in service.rerank(query, [text])["results"]
    }
    one = httpx.post(f"{service.url}/score", json={"queries": queries, "documents": texts}).json()
    assert [entry["score"] for entry in one["data"]] == pytest.approx(
        [ranked[pair] for pair in zip(queries, texts, strict=True)], abs=1e-5
    )
    many = httpx.post(f"{service.url}/v1/score", json={"text_1": queries[0], "text_2": texts}).json()
    assert [entry["score"] for entry in many["data"]] == pytest.approx(
        [ranked[queries[0], text] for text in texts], abs=1e-5
    )
    assert one["usage"]["prompt_tokens"] > 0


def test_every_dialect_gives_the_same_scores(service: Service) -> None:
    query, texts = BODY["query"], BODY["documents"]
    scores = {result["index"]: result["relevance_score"] for result in service.rerank(query, texts)["results"]}  # type: ignore[arg-type]  # mixed values
    voyage = httpx.post(f"{service.url}/v1/rerank", json=BODY | {"top_k": None}).json()["data"]
    tei = httpx.post(f"{service.url}/rerank", json={"query": query, "texts": texts}).json()
    infinity = httpx.post(f"{service.url}/infinity/rerank", json=BODY | {"return_documents": True}).json()["results"]
    assert {one["index"]: one["relevance_score"] for one in voyage} == pytest.approx(scores, abs=1e-5)
    assert {one["index"]: one["score"] for one in tei} == pytest.approx(scores, abs=1e-5)
    assert {one["index"]: one["document"] for one in infinity} == dict(enumerate(texts))


def test_duplicates_are_counted_in_usage(service: Service) -> None:
    answer = service.rerank("capital of China", ["one text", "one text", "another"])
    assert (answer["usage"]["deduplicated_pairs"], answer["meta"]["pairs"]) == (1, 2)


def test_nothing_a_client_sent_is_in_the_log(narrow: Service) -> None:
    """Neither its query, nor a document, nor its key; also when it is refused."""
    secrets = ("very-secret-query", "very-secret-document", "very-secret-key")
    body: dict[str, Any] = {"query": secrets[0], "documents": [secrets[1], 3]}
    for key in (NARROW_KEY, secrets[2]):
        headers = {"authorization": f"Bearer {key}"}
        response = httpx.post(f"{narrow.url}/v1/rerank", json=body, headers=headers)
        assert response.status_code in (400, 401)
        assert not any(secret in response.text for secret in secrets)
    log = narrow.log.read_text()
    assert "refused" in log
    assert not any(secret in log for secret in secrets)
