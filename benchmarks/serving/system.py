"""A server under test: started in a process of its own on a free port, asked over HTTP, watched, ended by descent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.serving.machine import ROOT, SCRATCH
from benchmarks.serving.protocols import Protocol
from benchmarks.serving.texts import TextList

_START_TIMEOUT_S = 300
_STOP_TIMEOUT_S = 90
_SETTLE_S, _IDLE_S = 2.0, 5.0


class UnavailableError(RuntimeError):
    """This system cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every system serves."""

    shape: str
    folder: Path
    """The checkpoint, as published models are: Qwen3ForCausalLM."""
    gpu: bool
    dtype: str
    """"auto", or what the demo model needs."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a system is started and asked."""

    command: tuple[str, ...]
    """`{port}` stands for the port."""
    protocol: Protocol
    roles: tuple[tuple[str, str], ...]
    """Part of a process's command line, and what we call it; the first that fits."""
    environment: dict[str, str] = field(default_factory=dict)
    """Besides this process's own."""
    folder: Path = ROOT
    """Where it is started."""
    health: str = "/health"
    required: bool = False
    """Without it the run is worth nothing."""
    notes: tuple[str, ...] = ()


class Server:
    """A started system, to be ended with `stop`."""

    def __init__(self, launch: Launch, name: str) -> None:
        """Start it; `wait_until_ready` waits.

        Args:
            launch: How.
            name: For its log.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.launch = launch
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self._log = SCRATCH / f"{''.join(c if c.isalnum() else '-' for c in name)}.log"
        self.command = [part.replace("{port}", str(self._port)) for part in launch.command]
        environment = os.environ | launch.environment
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=launch.folder,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us only, and we stop it in order
            )

    def wait_until_ready(self) -> None:
        """Return once it is healthy.

        Raises:
            UnavailableError: It ended, or takes too long.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                lines = self._log.read_text(errors="replace").splitlines()
                errors = [line for line in lines if "Error" in line]
                reason = (errors or lines or ["no output"])[-1].strip()[-300:]
                raise UnavailableError(f"does not start: {reason} (all of it: {self._log})")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + self.launch.health, timeout=10).status_code == 200
        return False

    def scores(self, texts: TextList) -> tuple[list[float], int | None]:
        """Rank one list: the scores in its order, and the prompts' tokens if it says so.

        Raises:
            UnavailableError: It does not answer with a ranking.
        """
        protocol = self.launch.protocol
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(self.url + protocol.path, content=protocol.body(texts), headers=headers, timeout=600)
        if answer.status_code != 200:
            raise UnavailableError(f"does not rank: status {answer.status_code}: {answer.text[:300]}")
        return protocol.read(answer.content, len(texts.documents))

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds used so far, by role."""
        used: dict[str, float] = {}
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                role = self._role(process)
                used[role] = used.get(role, 0.0) + times.user + times.system
        return used

    def idle_cores(self) -> float:
        """Cores that it uses when nobody asks it anything."""
        time.sleep(_SETTLE_S)
        before_s = sum(self.cpu_s().values())
        time.sleep(_IDLE_S)
        return max(0.0, sum(self.cpu_s().values()) - before_s) / _IDLE_S

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of all its processes: summed (rss), and with shared pages counted once (pss)."""
        rss = pss = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                rss, pss = rss + int(memory.rss), pss + int(memory.pss)
        return {"rss": rss / 2**20, "pss": pss / 2**20}

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _role(self, process: psutil.Process) -> str:
        line = " ".join(process.cmdline())
        return next((role for part, role in self.launch.roles if part in line), "other")

    def stop(self) -> None:
        """End it as a user does, wait, and end what it left behind."""
        below = [process for process in self._processes() if process.pid != self._process.pid]
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, left = psutil.wait_procs(below, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil checks that the id is still this process's
                process.kill()
        psutil.wait_procs(left, timeout=5)
