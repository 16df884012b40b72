"""A redis-server for a benchmark, and what can happen to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.system import UnavailableError


class RedisProcess:
    """One server on a free port, in memory. Started again, it is empty."""

    def __init__(self, folder: Path) -> None:
        """Start it.

        Raises:
            UnavailableError: There is none, or it does not start.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self.process = self._started()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it again, after it was killed."""
        self.process = self._started()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        try:
            process = subprocess.Popen([*command, str(self._folder)], stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise UnavailableError("no redis-server here: apt-get install redis-server") from None
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return process
            time.sleep(0.01)
        raise UnavailableError("redis-server does not listen")


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a server for as long as the block lasts; gives its URL."""
    server = RedisProcess(folder)
    try:
        yield server.url
    finally:
        server.kill()
