"""Vectors from an OpenAI-compatible /v1/embeddings: a real HTTP server on a free port, in its good and bad moods."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deployments.cli.main import main
from deployments.search import Indexes
from reranker.config import EmbeddingConfig, SearchConfig
from reranker.errors import ConfigurationError, RetrievalError
from reranker.search.embedding import EMBEDDING_KEY, HttpEmbedder, simulated_vectors
from reranker.search.first_stages import Query
from reranker.search.index import IndexFolder, IndexInfo
from tests.indexes import DOCUMENTS

KEY = {EMBEDDING_KEY: "right"}
TEXTS = [f"text number {number}" for number in range(70)]


class EmbeddingServer:
    """Embeds as `simulated_vectors` does, unless it is told to do something else."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.statuses: list[int] = []
        """Answers of the next calls, before one that succeeds."""
        self.retry_after: str | None = None
        self.pause_s = 0.0
        self.answer: Any = None
        """In place of embeddings."""
        self.dimensions = 256
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body as one write: else each answer waits 40 ms for the client's ACK

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.calls.append(body)
                server.authorizations.append(self.headers["authorization"])
                time.sleep(server.pause_s)
                status = server.statuses.pop(0) if server.statuses else 200
                if self.path != "/v1/embeddings":
                    status = 404
                self._answer(status, server.embed(body["input"]) if status == 200 else {"error": {"message": "no"}})

            def _answer(self, status: int, content: Any) -> None:
                written = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(written)))
                if server.retry_after is not None and status != 200:
                    self.send_header("retry-after", server.retry_after)
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *arguments: object) -> None:
                """Be quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def embed(self, texts: list[str]) -> Any:  # Any: JSON
        if self.answer is not None:
            return self.answer
        rows = 3 * simulated_vectors(texts)[:, : self.dimensions]  # not of length 1
        data = [{"object": "embedding", "index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]
        return {"object": "list", "model": "m", "data": data[::-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}}

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    one = EmbeddingServer()
    yield one
    one.close()


@asynccontextmanager
async def _embedder(
    url: str, secrets: Mapping[str, str] = KEY, dimensions: int | None = None, **settings: Any
) -> AsyncIterator[HttpEmbedder]:
    embedder = HttpEmbedder(EmbeddingConfig(url=url, **{"model": "m"} | settings), secrets, dimensions)
    try:
        yield embedder
    finally:
        await embedder.aclose()


@pytest.mark.parametrize("end", ["", "/", "/embeddings"])
async def test_every_text_gets_its_vector_of_length_1_in_batches(server: EmbeddingServer, end: str) -> None:
    fields = {"truncate_prompt_tokens": -1}
    async with _embedder(server.url + end, max_batch_texts=32, request_fields=fields) as embedder:
        vectors = await embedder.embed(TEXTS, "document")
    np.testing.assert_allclose(vectors, simulated_vectors(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert sorted(len(call["input"]) for call in server.calls) == [6, 32, 32]
    assert all((call["model"], call["truncate_prompt_tokens"]) == ("m", -1) for call in server.calls)
    assert set(server.authorizations) == {"Bearer right"}


async def test_key_of_another_service_is_not_sent(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another's")
    async with _embedder(server.url, secrets={}) as embedder:
        await embedder.embed(["a"], "document")
    assert server.authorizations == ["Bearer EMPTY"]


@pytest.mark.parametrize(
    ("model", "instruction", "sent"),
    [
        ("m", None, "whale"),
        ("m", "query: ", "query: whale"),
        ("Qwen/Qwen3-Embedding-0.6B", "Find whales", "Instruct: Find whales\nQuery:whale"),
    ],
)
async def test_query_gets_its_instruction_and_a_document_none(
    server: EmbeddingServer, model: str, instruction: str | None, sent: str
) -> None:
    async with _embedder(server.url, model=model, query_instruction=instruction) as embedder:
        await embedder.embed(["whale"], "query")
        await embedder.embed(["whale"], "document")
    assert [call["input"] for call in server.calls] == [[sent], ["whale"]]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_failure_that_may_pass_is_tried_again(server: EmbeddingServer, status: int) -> None:
    server.statuses, server.retry_after = [status, status], "0.01"
    async with _embedder(server.url) as embedder:
        assert (await embedder.embed(["a"], "document")).shape == (1, 256)
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "calls", "said"),
    [
        (401, 1, f"answered 401: the key in {EMBEDDING_KEY} is missing or wrong"),
        (404, 1, "answered 404: there is no such path or no such model"),
        (400, 1, "answered 400: a text may be too long"),
        (503, 3, "answered 503"),
    ],
)
async def test_failure_that_stays_is_said_in_a_sentence(
    server: EmbeddingServer, status: int, calls: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.retry_after = "0.01"
    for call, error in ((HttpEmbedder.call, ConfigurationError), (HttpEmbedder.embed, RetrievalError)):
        server.statuses, server.calls = [status] * 3, []
        async with _embedder(server.url) as embedder:
            with caplog.at_level(logging.WARNING), pytest.raises(error) as caught:
                await call(embedder, ["a secret text"], "query")
        assert said in (str(caught.value) if error is ConfigurationError else caplog.text)
        assert "secret" not in str(caught.value) + caplog.text
        assert len(server.calls) == calls
        server.statuses = []


async def test_server_that_hangs_costs_its_time_out(server: EmbeddingServer) -> None:
    server.pause_s = 0.5
    async with _embedder(server.url, timeout_s=0.05) as embedder:
        with pytest.raises(ConfigurationError, match=r"did not answer \(.*Timeout"):
            await embedder.call(["a"], "query")


async def test_server_that_is_away_is_named(server: EmbeddingServer) -> None:
    server.close()
    async with _embedder(server.url) as embedder:
        with pytest.raises(ConfigurationError, match=rf"{server.url}/embeddings did not answer \(ConnectError\)"):
            await embedder.call(["a"], "query")


@pytest.mark.parametrize(
    "answer",
    [
        "<html>",
        [],
        {"data": []},
        {"data": [{"index": 0, "embedding": [1.0, None]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": ["NaN"]}]},
        {"data": [{"index": 0}]},
    ],
)
async def test_answer_that_is_no_vector_for_each_text_is_refused(server: EmbeddingServer, answer: Any) -> None:
    server.answer = answer
    async with _embedder(server.url) as embedder:
        with pytest.raises(ConfigurationError, match="embeddings"):
            await embedder.call(["a"], "query")


async def test_vectors_of_other_dimensions_than_the_index_are_refused(server: EmbeddingServer) -> None:
    async with _embedder(server.url, dimensions=384) as embedder:
        with pytest.raises(ConfigurationError, match="256 dimensions, and the index has 384"):
            await embedder.call(["a"], "query")


def test_index_is_built_and_added_to_and_searched_through_a_url(
    server: EmbeddingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(EMBEDDING_KEY, "right")
    lines, more, index = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "index"
    lines.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS))
    more.write_text(json.dumps({"id": "new", "text": "a bottle of rum"}))
    built = ["index", "build", str(lines), "--out", str(index), "--embedding", "m", "--embedding-url", server.url]
    assert main(built) == 0
    assert main(["index", "add", str(index), str(more)]) == 0  # the index knows its URL
    embedding = IndexInfo.read(IndexFolder(index).current()).embedding
    assert embedding is not None
    assert (embedding.model, embedding.url, embedding.dimensions) == ("m", server.url, 256)

    settings = {"indexes": {"a": {"path": str(index)}}, "embedding": {"model": "m", "url": server.url}}
    config = SearchConfig.model_validate(settings)

    async def search() -> list[str]:
        async with _embedder(server.url) as embedder:
            found = await Indexes(config, embedder, {}).search(Query("bottle of rum", 1, "a", "dense"))
        return [one.chunk.id for one in found.candidates]

    assert asyncio.run(search()) == ["new"]
    server.dimensions = 128  # another model behind the same name
    with pytest.raises(RetrievalError):
        asyncio.run(search())
    assert "of 256 dimensions, and the query's vector has 128" in caplog.text
    assert main(["index", "add", str(index), str(lines)]) != 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "m", "url": "host:8000"}, "must be like http"),
        ({"model": "m", "url": "ftp://host/v1"}, "must be like http"),
        ({"model": "m", "url": "http://me:secret@host/v1"}, EMBEDDING_KEY),
        ({"url": "http://host/v1"}, "url needs model"),
    ],
)
def test_wrong_urls_stop_the_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EmbeddingConfig.model_validate(settings)
