"""A real redis-server, as Debian packages it: on a free port, in memory, ended with its test."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from tests.integration.conftest import free_port
from tests.programs import program

_START_TIMEOUT_S = 10


class RedisServer:
    """One server process. Started again, it has the same port and nothing in it.

    `first` is what comes before all other options: the configuration that a sentinel needs.
    """

    def __init__(self, folder: Path, *options: str, first: tuple[str, ...] = (), tls_port: bool = False) -> None:
        self.port = free_port()  # below 55,535, as a cluster asks
        self._folder = folder
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls_port else ("--port", str(self.port))
        files = () if first else ("--save", "", "--appendonly", "no")
        self._options = (*first, "--bind", "127.0.0.1", *files, "--dir", str(folder), *ports, *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [program("redis-server"), *self._options]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.01)

    def client(self) -> Any:  # Any: redis-py types its answers for every setting at once
        """A client of the test's own."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty server."""
    with RedisServer(tmp_path) as server:
        yield server
