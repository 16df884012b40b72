"""The service under test: `reranker serve` in a process of its own, on a free port, asked over HTTP."""

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
import yaml

from benchmarks.scatter.report import ROOT, say

_START_TIMEOUT_S = 300
_REPLICA, _INGRESS = "ServeReplica:reranker:EngineReplica", "ServeReplica:reranker:Ingress"


class ServiceError(RuntimeError):
    """The service did not do what the experiment needs."""


class Service:
    """A running service, to be ended with `stop`. Finds its processes by descent."""

    def __init__(self, config: Path, replicas: int | None, folder: Path, *, simulated: bool) -> None:
        """Start it; `wait_until_ready` waits.

        Args:
            config: Serve configuration.
            replicas: Engine replicas. None: as many as the configuration says.
            folder: For its log.
            simulated: Simulate the engines.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "service.log"
        program = str(Path(sys.executable).parent / "reranker")
        command = [program, "serve", "--config", str(config), "--port", str(port)]
        command += ["--replicas", str(replicas)] if replicas is not None else []
        command += ["--simulated"] if simulated else []
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)

    def wait_until_ready(self, replicas: int) -> None:
        """Return once so many replicas can score.

        Raises:
            ServiceError: It ended, or takes too long.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._live_replicas_if_it_answers() < replicas:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise ServiceError(f"the service does not start:\n{self._log.read_text()[-4_000:]}")
            time.sleep(0.2)

    def live_replicas(self) -> int:
        """How many replicas /health counts."""
        answer = httpx.get(f"{self.url}/health", timeout=30)
        return int(answer.json()["replicas"]) if answer.status_code == 200 else 0

    def _live_replicas_if_it_answers(self) -> int:
        try:
            return self.live_replicas()
        except (httpx.TransportError, ValueError):
            return 0

    def load(self) -> dict[str, Any]:
        """What /v1/load says, as JSON (which is why there is an Any)."""
        response = httpx.get(f"{self.url}/v1/load", timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def engines(self) -> list[psutil.Process]:
        """Processes of the engine replicas."""
        return self._named(_REPLICA)

    def fronts(self) -> list[psutil.Process]:
        """Processes that a request passes before it gets to an engine."""
        return self._named(_INGRESS)

    def ingress(self) -> psutil.Process:
        """Process of the ingress."""
        [process] = self._named(_INGRESS)
        return process

    def cpu_s_by_part(self) -> dict[str, float]:
        """Processor seconds that each part has used so far; "the rest" is Ray's own."""
        parts = {"ingress": self._named(_INGRESS), "replicas": self._named(_REPLICA)}
        found = {name: cpu_s(processes) for name, processes in parts.items()}
        everything = cpu_s(psutil.Process(self._process.pid).children(recursive=True))
        return found | {"the rest": everything - sum(found.values())}

    def _named(self, part: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self) -> None:
        """End it, as a user does, and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor seconds that these have used so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def configuration(args: dict[str, Any]) -> dict[str, Any]:
    """Read serve_config.yaml, and give the application other `args`."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    application = config["applications"][0]
    application["args"] = args
    config["applications"] = [application]  # without the playground
    return config


@contextlib.contextmanager
def running(folder: Path, args: dict[str, Any], replicas: int, *, simulated: bool = True) -> Iterator[Service]:
    """Run the service for as long as the block lasts; see `configuration`."""
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(configuration(args)), encoding="utf-8")
    say(f"starting {replicas} {'simulated ' if simulated else ''}replica(s): {args.get('engine', {})}")
    service = Service(path, replicas, folder, simulated=simulated)
    try:
        service.wait_until_ready(replicas)
        yield service
    finally:
        service.stop()
