"""What the playground offers to copy runs as it stands, whatever is in the documents."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from deployments.ui.documents import curl_command, python_program

HOSTILE = [
    "it's",
    "$(touch /tmp/x) `id` $HOME",
    "END_OF_REQUEST",
    "a\nEND_OF_REQUEST\nb",
    'quote " \\ back',
    "北京 🙂",
    {"a": True},
]
BODY: dict[str, Any] = {"query": "what's '$1'?", "documents": HOSTILE, "top_n": 2, "instruction": "'"}


@contextlib.contextmanager
def _echo() -> Iterator[tuple[str, list[tuple[str, Any, str | None]]]]:
    """A server that keeps what it is sent, and answers as ours does."""
    heard: list[tuple[str, Any, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            heard.append((self.path, body, self.headers["authorization"]))
            answer = json.dumps({"results": [{"index": 1, "relevance_score": 0.5}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(("make", "run"), [(curl_command, ["bash", "-c"]), (python_program, [sys.executable, "-c"])])
def test_what_is_copied_sends_the_request_that_was_ranked(make: Callable[..., str], run: list[str], key: bool) -> None:
    with _echo() as (url, heard):
        written = make(url, BODY, key=key)
        done = subprocess.run(
            [*run, written],
            capture_output=True,
            text=True,
            timeout=60,
            env={"RERANKER_API_KEY": "s3cret", "PATH": "/usr/bin:/bin"},
        )
    assert done.returncode == 0, done.stderr
    assert "0.5" in done.stdout
    assert heard == [("/v1/rerank", BODY, "Bearer s3cret" if key else None)]


def test_a_long_list_fits_the_command() -> None:
    """A shell's argument ends at 128 KiB; this is 2 MB."""
    body = {"query": "q", "documents": ["x" * 1_000] * 2_000}
    with _echo() as (url, heard):
        script = curl_command(url, body, key=False)
        subprocess.run(["bash"], input=script, capture_output=True, text=True, timeout=60, check=True)
    assert heard[0][1] == body
