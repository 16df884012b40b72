"""`reranker score` and the Python client, against a real HTTP server that answers what each test says."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import rankers
from deployments.cli.main import main
from reranker.client import AsyncRerankerClient, RelevantSpan, RerankerClient, ScoredDocument, rebuild_error
from reranker.config import RerankerConfig
from reranker.dialects.answers import error_body
from reranker.errors import (
    ClientError,
    CommandError,
    DeviceError,
    InvalidRequestError,
    OverloadedError,
    QueryTooLongError,
    RerankerError,
    ServiceError,
    UnauthorizedError,
    UnreachableError,
)


class FakeService:
    """Scores a document by its length, after the answers queued in `first`."""

    def __init__(self) -> None:
        self.first: list[tuple[int, dict[str, str], str]] = []
        """Status, headers and body of the answers before the first ranking."""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        """What came as Authorization."""
        self.models: dict[str, Any] = {"data": [{"id": "demo"}, {"id": "medical"}]}
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet; in two, the second waits for an acknowledgement

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.requests.append(request)
                service.keys.append(self.headers["authorization"])
                status, headers, body = service.first.pop(0) if service.first else (200, {}, service.rank(request))
                self._answer(status, headers, body)

            def do_GET(self) -> None:
                self._answer(200, {}, json.dumps(service.models))

            def _answer(self, status: int, headers: dict[str, str], body: str) -> None:
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def rank(request: dict[str, Any]) -> str:
        lengths = [len(document) for document in request["documents"]]
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])[: request.get("top_n")]
        return json.dumps({"results": [{"index": i, "relevance_score": 1 - 1 / (1 + lengths[i])} for i in order]})

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.stop()


@pytest.fixture
def waits() -> list[float]:
    """What the client slept, instead of sleeping."""
    return []


@pytest.fixture
def client(service: FakeService, waits: list[float]) -> Iterator[RerankerClient]:
    with RerankerClient(service.url + "/", retries=2, sleep=waits.append) as client:
        yield client


def test_client_sends_what_was_given_and_reads_the_ranking(client: RerankerClient, service: FakeService) -> None:
    assert client.rerank("q", ["a", "abc"], top_n=1, instruction="do") == [ScoredDocument(1, 0.75)]
    assert service.requests == [{"query": "q", "documents": ["a", "abc"], "top_n": 1, "instruction": "do"}]


def test_client_asks_for_spans_and_reads_them(client: RerankerClient, service: FakeService) -> None:
    span = {"start": 1, "end": 2, "score": 0.5}
    results = [{"index": 0, "relevance_score": 0.75, "relevant_spans": [span]}]
    service.first = [(200, {}, json.dumps({"results": results}))] * 2
    for asked, sent in ((True, {}), ({"max_spans": 1}, {"max_spans": 1})):
        [found] = client.rerank("q", ["abc"], relevant_spans=asked)
        assert found.relevant_spans == (RelevantSpan(1, 2, 0.5),)
        assert service.requests[-1]["relevant_spans"] == {"mode": "enabled", **sent}


def test_score_marks_what_made_a_document_relevant(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """It asks once more, for those that are shown: lists may be long."""
    ranked = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.5}]
    marked = [{"index": 0, "relevance_score": 0.75, "relevant_spans": [{"start": 4, "end": 7, "score": 0.5}]}]
    command = ["score", "--url", service.url, "--query", "q", "--document", "a", "--document", "one two", "--evidence"]
    for more, shown in (([], "one **two**"), (["--json"], '"relevant_spans": [{"start": 4, "end": 7, "score": 0.5}]')):
        service.first = [(200, {}, json.dumps({"results": results})) for results in (ranked, marked)]
        assert main([*command, "--top-n", "1", *more]) == 0
        assert shown in capsys.readouterr().out
        assert service.requests[-1]["documents"] == ["one two"]


@pytest.mark.parametrize("status", [429, 503])
def test_client_waits_as_long_as_retry_after_says(
    client: RerankerClient, service: FakeService, waits: list[float], status: int
) -> None:
    service.first = [(status, {"retry-after": "7"}, "{}"), (status, {}, "{}")]
    assert len(client.rerank("q", ["a"])) == 1
    assert waits[0] == 7
    assert 0 < waits[1] <= 1  # without the header: a moment


def test_retry_after_may_be_a_date_and_never_keeps_us_for_hours(
    client: RerankerClient, service: FakeService, waits: list[float]
) -> None:
    service.first = [
        (503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "{}"),
        (503, {"retry-after": "86400"}, "{}"),
    ]
    client.rerank("q", ["a"])
    assert waits == [0, 30]


@pytest.mark.parametrize("said", ["nan", "-1", "soon", ""])
def test_retry_after_that_is_no_time_is_as_none(
    client: RerankerClient, service: FakeService, waits: list[float], said: str
) -> None:
    service.first = [(503, {"retry-after": said}, "{}"), (429, {"retry-after": said}, "{}")]
    client.rerank("q", ["a"])
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1


def test_client_gives_up_with_the_last_error(client: RerankerClient, service: FakeService, waits: list[float]) -> None:
    busy = json.dumps({"message": "too much to do", "error_type": "overloaded"})
    service.first = [(429, {"retry-after": "1"}, busy)] * 3
    with pytest.raises(OverloadedError, match="too much to do") as caught:
        client.rerank("q", ["a"])
    assert (caught.value.status_code, caught.value.code, waits) == (429, "overloaded", [1, 1])
    assert caught.value.retry_after_s == 1


def test_a_lost_connection_is_not_tried_again(waits: list[float]) -> None:
    """Whether the list was scored is not known: asking again may have it scored twice."""
    with RerankerClient("http://127.0.0.1:1", sleep=waits.append) as client, pytest.raises(UnreachableError):
        client.rerank("q", ["a"])
    assert waits == []


async def test_async_client_gives_whole_answers_and_sends_each_request_s_key(service: FakeService) -> None:
    service.first = [(429, {"retry-after": "0"}, "{}")]
    client = AsyncRerankerClient(service.url)
    response = await client.request("POST", "/v1/rerank", {"query": "q", "documents": ["abc"]}, api_key="mine")
    assert response.json()["results"] == [{"index": 0, "relevance_score": 0.75}]
    assert service.keys == ["Bearer mine"] * 2, "the first was refused for now"
    assert (await client.request("GET", "/v1/models")).json() == service.models
    await client.aclose()


async def test_async_client_raises_our_errors(service: FakeService) -> None:
    busy = json.dumps({"message": "too much to do", "error_type": "overloaded"})
    service.first = [(429, {"retry-after": "3"}, busy)]
    client = AsyncRerankerClient(service.url, retries=0)
    with pytest.raises(OverloadedError, match="too much to do") as caught:
        await client.request("POST", "/v1/rerank", {"query": "q", "documents": []})
    assert caught.value.retry_after_s == 3
    await client.aclose()


@pytest.mark.parametrize("key", ["k\u00e9y", "a\nb"])
async def test_a_key_that_no_header_can_carry_is_refused_and_not_quoted(service: FakeService, key: str) -> None:
    client = AsyncRerankerClient(service.url)
    with pytest.raises(UnauthorizedError, match="no API key") as caught:
        await client.request("GET", "/v1/models", api_key=key)
    assert key not in str(caught.value)
    with pytest.raises(UnauthorizedError, match="no API key"):
        RerankerClient(service.url, api_key=key)


@pytest.mark.parametrize("error", [QueryTooLongError(900, 800), InvalidRequestError("query", "must not be empty")])
def test_client_raises_the_class_the_service_raised(
    client: RerankerClient, service: FakeService, error: RerankerError
) -> None:
    service.first = [(error.status_code, {}, json.dumps(error_body(error)))]
    with pytest.raises(type(error)) as caught:
        client.rerank("q", ["a"])
    assert str(caught.value) == str(error)
    assert caught.value.field == "query"


def test_api_key_is_sent_from_the_environment(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as an argument: on the command line others on the machine could read it."""
    arguments = ["score", "--url", service.url, "--query", "q", "--document", "d"]
    assert main(arguments) == 0
    monkeypatch.setenv("RERANKER_API_KEY", "a-key")
    assert main(arguments) == 0
    assert service.keys == [None, "Bearer a-key"]


def test_rebuilt_error_survives_pickle() -> None:
    """Errors of ours cross process borders; a worker pool around the client must not break them."""
    error = pickle.loads(pickle.dumps(rebuild_error("query_too_long", 400, "too long", "query")))  # noqa: S301
    assert isinstance(error, QueryTooLongError)
    assert str(error) == "too long"


def test_unknown_error_type_is_classed_by_its_status() -> None:
    assert isinstance(rebuild_error("brand_new", 422, "no"), ClientError)
    assert isinstance(rebuild_error("brand_new", 500, "no"), ServiceError)


@pytest.mark.parametrize("answer", [(200, {}, "<html>"), (200, {}, "{}"), (200, {}, "[]"), (502, {}, "Bad Gateway")])
def test_another_service_at_the_url_is_named_as_that(
    client: RerankerClient, service: FakeService, answer: tuple[int, dict[str, str], str]
) -> None:
    service.first = [answer]
    with pytest.raises(UnreachableError, match=service.url):
        client.rerank("q", ["a"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://127.0.0.1", "nonsense", "http://[", "http://a:b"])
def test_unusable_url_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--query", "q", "--document", "d", "--url", url]) == 1
    assert capsys.readouterr().err.startswith(f"reranker: no reranking service at {url} (")


def test_table_has_the_best_first(service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "documents.txt"
    file.write_text("a\n\nabc\n北京\x1b[2J\n", encoding="utf-8")
    assert main(["score", "--query", "q", str(file), "--url", service.url, "--top-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "score   index  text",
        "0.8571      2  北京 [2J",  # no control character reaches the terminal
        "0.7500      1  abc",
    ]


def test_json_lines_come_from_standard_input(
    service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b'\xef\xbb\xbf{"text": "a", "id": 7}\n"plain\\nstring"\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["score", "--query", "q", "-", "--json", "--url", service.url]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"index": 1, "relevance_score": 1 - 1 / 13, "text": "plain\nstring"},
        {"index": 0, "relevance_score": 0.5, "text": "a"},
    ]


def test_long_input_is_sent_in_parts_and_merged(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rankers, "PART_DOCUMENTS", 3)
    monkeypatch.setattr(rankers, "PART_CHARACTERS", 10)
    documents = ["1", "22", "1", "4444", "55555", "88888888", "1" * 20, "1"]
    arguments = [part for document in documents for part in ("--document", document)]
    assert main(["score", "--query", "q", *arguments, "--json", "--url", service.url]) == 0
    assert [len(request["documents"]) for request in service.requests] == [3, 2, 1, 1, 1]
    ranked = [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()]
    assert ranked == [6, 5, 4, 3, 1, 0, 2, 7]


def test_cascade_gets_the_whole_list_and_keeps_its_order(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In parts the second model would rank the best of each part, and documents below it are level in its answer."""
    monkeypatch.setattr(rankers, "PART_DOCUMENTS", 2)
    service.models["data"].append({"id": "careful", "cascade": ["demo", "medical"]})
    level = [{"index": index, "relevance_score": 0.5} for index in (2, 0, 1)]
    service.first = [(200, {}, json.dumps({"results": level}))]
    arguments = [part for document in "abc" for part in ("--document", document)]
    assert main(["score", "--query", "q", *arguments, "--model", "careful", "--json", "--url", service.url]) == 0
    assert [(one["model"], one["documents"]) for one in service.requests] == [("careful", ["a", "b", "c"])]
    assert [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()] == [2, 0, 1]


def test_search_names_the_model_too(service: FakeService) -> None:
    service.first = [(200, {}, '{"results": []}')]
    with RerankerClient(service.url, model="medical") as client:
        assert client.search("q", index="books") == []
    assert service.requests == [{"query": "q", "index": "books", "rerank": True, "model": "medical"}]


def test_check_tells_a_name_that_the_service_does_not_have(service: FakeService) -> None:
    asked = argparse.Namespace(local=False, url=service.url, model="medical", adapter="", config=None)
    rankers.check(asked)
    asked.model = "medcial"
    with pytest.raises(CommandError, match="no model 'medcial'; it has demo, medical"):
        rankers.check(asked)
    assert service.requests == []


def test_check_tells_a_model_that_is_not_here(tmp_path: Path) -> None:
    asked = argparse.Namespace(local=True, model="demo", adapter="", config=None)
    rankers.check(asked)
    for wrong, said in (
        ({"adapter": "x"}, "engine.lora_adapters has no 'x'"),
        ({"model": str(tmp_path)}, "config.json"),
    ):
        with pytest.raises(RerankerError, match=said):
            rankers.check(argparse.Namespace(**vars(asked) | wrong))


def test_documents_that_rules_exclude_are_counted(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    service.first = [(200, {}, '{"results": [{"index": 1, "relevance_score": 0.5}]}')]
    assert main(["score", "--query", "q", "--document", "a", "--document", "b", "--url", service.url]) == 0
    assert "1 of 2 documents are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either a FILE"),
        (["file", "--document", "d"], "give either a FILE"),
        (["missing.txt"], "missing.txt: No such file or directory"),
        (["--document", "d", "--adapter", "a"], "--config and --adapter need --local"),
        (["--document", "d", "--local", "--config", "missing.yaml"], "missing.yaml"),
        (["--document", "d", "--local", "--model", "/no/such"], "model '/no/such'"),
        (["--document", "d", "--query", " "], "--query is empty"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["score", "--query", "q", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("reranker: ")
    assert sentence in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.txt", b"", ": holds no document"),
        ("a.txt", b" \n\n", ": holds no document"),
        ("a.txt", b"good\n\xff\xfe\n", ":2: is not UTF-8"),
        ("a.jsonl", b'"ok"\n{"text": 5}\n', ":2: has no string `text`"),
        ("a.jsonl", b"plain text\n", ":1: is not JSON"),
        ("a.jsonl", b'"ok"\n\n[1]\n', ":3: must be a string or an object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', ":1: holds half of a surrogate pair"),
        ("a.jsonl", b"[" * 100_000, ":1: is not JSON"),
        ("a.txt", b'{"text": "JSON after all"}\nplain\n', ":2: is not JSON"),
    ],
)
def test_malformed_file_is_named_with_the_line(
    name: str, content: bytes, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["score", "--query", "q", str(path)]) == 1
    assert f"reranker: {path}{where}" in capsys.readouterr().err


def test_text_that_only_looks_like_json_is_text(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text('{not json\n{"no": "text"}\n5\n')
    assert main(["score", "--query", "q", str(path), "--url", service.url]) == 0
    assert service.requests[0]["documents"] == ["{not json", '{"no": "text"}', "5"]


@pytest.mark.parametrize(
    ("line", "width", "cut"), [("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("北京中国", 6, "北京…")]
)
def test_lines_are_cut_to_terminal_cells(line: str, width: int, cut: str) -> None:
    assert rankers._cut(line, width) == cut


def test_local_engine_computes_on_all_cores_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def engine(*_: object, **__: object) -> None:
        seen.append((os.environ["OMP_NUM_THREADS"], os.environ["GOMP_SPINCOUNT"]))
        raise DeviceError("no device", "none")

    monkeypatch.setattr(rankers, "VllmEngine", engine)
    monkeypatch.setattr(rankers, "machine_cores", lambda: 8)
    for own in ({}, {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "7"}):
        others = {name: value for name, value in os.environ.items() if "OMP_" not in name}
        monkeypatch.setattr(os, "environ", others | own)
        with pytest.raises(DeviceError), rankers.open_local(RerankerConfig()):
            pass
    assert seen == [("8", "1000"), ("3", "7")]
