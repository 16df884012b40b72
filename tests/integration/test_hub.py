"""MODEL=<hub id>: fetched from a hub (a small one on this machine, which speaks the hub's protocol) and served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from reranker.model.checkpoint import DEMO_MODEL
from tests.integration.conftest import configuration, started

pytestmark = pytest.mark.slow

HUB_ID = "some-team/lexical-reranker"
COMMIT = hashlib.sha1(b"the only commit").hexdigest()  # noqa: S324 - a git commit's form
FILES = {
    path.relative_to(DEMO_MODEL).as_posix(): path.read_bytes()
    for path in DEMO_MODEL.rglob("*.*")
    if path.suffix in (".json", ".jinja", ".safetensors")
}


class HubHandler(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks for one public model; everything else is 404, as for an unknown model."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, *, send_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        files = {f"/{HUB_ID}/resolve/{revision}/{name}": name for revision in ("main", COMMIT) for name in FILES}
        if path in files:
            body, kind = FILES[files[path]], "application/octet-stream"
        elif path.startswith(f"/api/models/{HUB_ID}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(body), "oid": COMMIT} for name, body in FILES.items()]
            body, kind = json.dumps(tree).encode(), "application/json"
        elif path.startswith(f"/api/models/{HUB_ID}"):
            siblings = [{"rfilename": name, "size": len(body)} for name, body in FILES.items()]
            model = {"id": HUB_ID, "modelId": HUB_ID, "sha": COMMIT, "private": False, "siblings": siblings}
            body, kind = json.dumps(model).encode(), "application/json"
        else:
            self.send_response(404)
            self.send_header("x-error-code", "RepoNotFound" if HUB_ID not in path else "EntryNotFound")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub, and an empty cache; gives the paths it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (HubHandler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield asked
        server.shutdown()


def test_model_from_the_hub_is_served(hub: list[str], tmp_path: Path) -> None:
    args = {"model": {"name": HUB_ID, "dtype": "float32"}}
    with started(configuration(args=args), tmp_path) as service:
        answer = service.rerank("capital of China", ["Gravity attracts.", "Beijing is the capital of China."], top_n=1)
    assert answer["model"] == HUB_ID
    assert answer["results"][0]["index"] == 1
    assert any(path.endswith("/model.safetensors") for path in hub)
