"""Servers under test: each a process of its own on a free port, asked over HTTP, watched, ended with all it started."""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
import yaml

from benchmarks.load import Protocol
from benchmarks.results import ROOT, SCRATCH, say
from benchmarks.texts import TextList

T = TypeVar("T")
ENGINE, INGRESS = "engine", "ingress"
_ROLES = (
    ("ServeReplica:reranker:EngineReplica", ENGINE),
    ("ServeReplica:reranker:Ingress", INGRESS),
    ("ServeController", "controller"),
    ("", "rest of Ray"),
)
_START_TIMEOUT_S, _STOP_TIMEOUT_S = 300, 120
_SETTLE_S, _IDLE_S = 2.0, 5.0


class ServiceError(RuntimeError):
    """A server did not do what the benchmark needs, or cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started and asked."""

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
    """A started server, to be ended with `stop` or as a context."""

    def __init__(self, launch: Launch, name: str) -> None:
        """Start it; `wait_until_ready` waits. The name is that of its log."""
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.launch = launch
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.log = SCRATCH / f"{file_name(name)}.log"
        self.command = [part.replace("{port}", str(self._port)) for part in launch.command]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=launch.folder,
                env=os.environ | launch.environment,
                start_new_session=True,  # Ctrl-C reaches us only, and we stop it in order
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, replicas: int = 0) -> None:
        """Return once it is healthy, and /health counts so many replicas; ServiceError: it ended, or is too slow."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._healthy(replicas):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                lines = self.log.read_text(errors="replace").splitlines()
                errors = [line for line in lines if "Error" in line]
                reason = (errors or lines or ["no output"])[-1].strip()[-300:]
                raise ServiceError(f"does not start: {reason} (all of it: {self.log})")
            time.sleep(0.2)

    def _healthy(self, replicas: int) -> bool:
        with contextlib.suppress(httpx.TransportError, ValueError):
            if replicas:
                return self.live_replicas() >= replicas
            return httpx.get(self.url + self.launch.health, timeout=10).status_code == 200
        return False

    def live_replicas(self) -> int:
        """How many replicas our /health counts."""
        answer = httpx.get(f"{self.url}/health", timeout=30)
        return int(answer.json()["replicas"]) if answer.status_code == 200 else 0

    def scores(self, texts: TextList) -> tuple[list[float], int | None]:
        """Rank one list: the scores in its order, and the prompts' tokens if it says so."""
        protocol = self.launch.protocol
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(self.url + protocol.path, content=protocol.body(texts), headers=headers, timeout=600)
        if answer.status_code != 200:
            raise ServiceError(f"does not rank: status {answer.status_code}: {answer.text[:300]}")
        return protocol.read(answer.content, len(texts.documents))

    def processes(self, role: str = "") -> list[psutil.Process]:
        """Its processes; those of one role."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            every = [process, *process.children(recursive=True)]
            return [one for one in every if self._role(one) == role] if role else every
        return []

    def _role(self, process: psutil.Process) -> str:
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            return next((role for part, role in self.launch.roles if part in line), "other")
        return ""

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds used so far, by role."""
        used: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                role = self._role(process)
                used[role] = used.get(role, 0.0) + cpu_s(process)
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
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                rss, pss = rss + int(memory.rss), pss + int(memory.pss)
        return {"rss": rss / 2**20, "pss": pss / 2**20}

    def stop(self) -> None:
        """End it as a user does, wait, and end what it left behind."""
        below = [process for process in self.processes() if process.pid != self._process.pid]
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


def configuration(args: dict[str, Any], checkout: Path = ROOT) -> dict[str, Any]:
    """Read serve_config.yaml, and give the application other `args`; with the other edge if the environment says so."""
    config: dict[str, Any] = yaml.safe_load((checkout / "serve_config.yaml").read_text(encoding="utf-8"))
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":  # docs/decisions/0006-no-proxy.md
        config["proxy_location"] = "EveryNode"
    application = config["applications"][0] | {"args": args}
    return config | {"applications": [application]}  # without the playground


def write_config(config: dict[str, Any], name: str) -> Path:
    """Write a configuration of Serve's to the scratch folder."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = SCRATCH / f"{file_name(name)}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def ours(
    config: dict[str, Any], name: str, *options: str, replicas: int | None = None, checkout: Path = ROOT, **more: Any
) -> Launch:
    """Our service, as a user starts it: `reranker serve`, from this checkout or another state of it.

    The configuration is Serve's; replicas None: as many engines as it says; `more` are other fields of the launch.
    """
    path = write_config(config, f"serve-{name}")
    serve = checkout / "deployments" / "cli" / "serve.py"
    entry = "deployments.cli.main" if serve.is_file() else "reranker.cli"
    count = ("--replicas", str(replicas)) if replicas is not None else ()
    if serve.is_file() and "--verbose" in serve.read_text(encoding="utf-8"):
        options = (*options, "--verbose")  # else Ray's and vLLM's words go elsewhere
    return Launch(
        command=(sys.executable, "-m", entry, "serve", "--config", str(path), "--port", "{port}", *count, *options),
        protocol=Protocol("/v1/rerank", "rerank"),
        roles=_ROLES,
        environment={"PYTHONPATH": str(checkout)},
        folder=checkout,
        **more,
    )


def started(launch: Launch, name: str, replicas: int = 0) -> Server:
    """Start a server and wait until it is ready; ServiceError: it is not, and has been ended."""
    server = Server(launch, name)
    try:
        server.wait_until_ready(replicas)
    except BaseException:
        server.stop()
        raise
    return server


@contextlib.contextmanager
def running(
    config: dict[str, Any], replicas: int, *, simulated: bool = True, name: str = "service", count: bool = True
) -> Iterator[Server]:
    """Run our service while the block lasts, from when so many replicas can score.

    The configuration is all of Serve's or its `args`; count False: it says itself how many replicas there are.
    """
    config = config if "applications" in config else configuration(config)
    options = ("--simulated",) if simulated else ()
    engine = config["applications"][0]["args"].get("engine", {})
    say(f"starting {replicas} {'simulated ' if simulated else ''}replica(s): {engine}")
    with started(ours(config, name, *options, replicas=replicas if count else None), name, replicas) as server:
        yield server


def cpu_s(*processes: psutil.Process) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def busy_cpu_s() -> float:
    """Processor seconds that all processes of this machine have used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def file_name(name: str) -> str:
    """A name of which only letters and digits are left."""
    return "".join(character if character.isalnum() else "-" for character in name)


def isolated(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own, which has this one's environment and nothing else of it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()
