"""Starts the real service, as a user does: `reranker serve`, its own Ray, its own vLLM, a free port."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """A running service, and what it answered while it started."""

    def __init__(self, config: Path, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [
            str(Path(sys.executable).parent / "reranker"),
            "serve",
            "--config",
            str(config),
            "--port",
            str(self.port),
        ]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        self.startup_answers: list[tuple[int, str]] = []
        """Status and content type of every answer of /health, from the first that came."""

    def wait_until_ready(self, replicas: int = 1) -> None:
        """Poll /health until it is 200 with so many replicas."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()[-4000:]}"
            with contextlib.suppress(httpx.TransportError):
                response = httpx.get(f"{self.url}/health", timeout=30)
                self.startup_answers.append((response.status_code, response.headers["content-type"]))
                if response.status_code == 200 and response.json()["replicas"] >= replicas:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready after {START_TIMEOUT_S} s:\n{self.log.read_text()[-4000:]}")

    def rerank(self, query: str, documents: list[str], **fields: Any) -> dict[str, Any]:
        """Ask for a ranking that must succeed."""
        body = {"query": query, "documents": documents, **fields}
        response = httpx.post(f"{self.url}/v1/rerank", json=body, timeout=120)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def processes(self) -> list[psutil.Process]:
        """Everything this service runs on the machine now."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and wait; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=90)


@contextlib.contextmanager
def running(folder: Path, replicas: int | None = None, args: dict[str, Any] | None = None) -> Iterator[Service]:
    """Run the service with serve_config.yaml, changed.

    Args:
        folder: For its configuration and log.
        replicas: A fixed number of engine replicas, instead of autoscaling.
        args: Replaces the application's `args`.
    """
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    [application] = config["applications"]
    if replicas is not None:
        [deployment] = [one for one in application["deployments"] if one["name"] == "EngineReplica"]
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = replicas
    if args is not None:
        application["args"] = args
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    service = Service(path, folder / "service.log")
    try:
        service.wait_until_ready(replicas or 1)
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service as `make serve` starts it, shared by all tests that change nothing in it."""
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service
