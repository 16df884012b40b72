"""Starts the real service, as a user does: `reranker serve`, its own Ray, its own vLLM, a free port.

Most tests share one such process, the `cluster`: each configuration is deployed into its Ray when a test needs it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from reranker.search.embedding import SIMULATED
from tests.indexes import DOCUMENTS, build
from tests.integration.collector import Collector

SHARED = ("watched", "service", "simulated", "narrow", "attacked")
"""Fixtures that several files use. Their tests run in this order; the last three are configurations of the cluster."""

ROOT = Path(__file__).parents[2]
TLS = ssl.create_default_context()
"""For requests that are made again and again without a client: to make one takes longer than they do."""
START_TIMEOUT_S = 240
SETTLE_TIMEOUT_S = 60
SLOW_S = 0.5
"""From then on a request is slow, in `simulated`."""
NARROW_TOKENS, NARROW_TIMEOUT_S = 100_000, 6
NARROW_KEY = "key-of-the-tests"
NARROW_KEYS = f"""\
tests: {NARROW_KEY}
one-at-a-time: {{key: key-of-one, max_in_flight: 1}}
few-tokens: {{key: key-of-few, tokens_per_minute: 100}}
"""


def free_port() -> int:
    """A port nobody listens on now: below those that the system gives to connections, which it might do in between."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Service:
    """A running service, and what it answered while it started."""

    def __init__(self, config: Path, log: Path, key: str | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.folder = log.parent
        """Where the files of its configuration are."""
        command = [
            str(Path(sys.executable).parent / "reranker"),
            "serve",
            "--config",
            str(config),
            "--port",
            str(self.port),
            "--verbose",  # the log is read for what replicas said
        ]
        self._ray_token = secrets.token_hex()  # else Ray makes one, which we would have to look for
        environment = os.environ | {"RAY_AUTH_TOKEN": self._ray_token}
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        self._http = httpx.Client(base_url=self.url, timeout=120, verify=TLS)
        self.headers: dict[str, str] = {}
        self._use_key(key)
        self.startup_answers: list[tuple[int, str]] = []
        """Status and content type of every answer of /health, from the first that came."""
        self.startup_stages: set[str] = set()
        """What its replicas were doing meanwhile, as /health said."""

    def _use_key(self, key: str | None) -> None:
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http.headers.pop("authorization", None)
        self._http.headers.update(self.headers)

    def wait_until_ready(self, replicas: int = 1) -> None:
        """Poll /health until it is 200 with so many replicas."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()[-4000:]}"
            with contextlib.suppress(httpx.TransportError):
                response = httpx.get(f"{self.url}/health", timeout=30, verify=TLS)
                self.startup_answers.append((response.status_code, response.headers["content-type"]))
                if response.status_code == 503:
                    self.startup_stages |= {one["stage"] for one in response.json()["replicas"]}
                if response.status_code == 200 and response.json()["replicas"] >= replicas:
                    return
            time.sleep(0.1)
        raise AssertionError(f"not ready after {START_TIMEOUT_S} s:\n{self.log.read_text()[-4000:]}")

    def post(
        self, query: str, documents: list[str], headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Ask for a ranking."""
        body = {"query": query, "documents": documents, **fields}
        return self._http.post("/v1/rerank", json=body, headers=headers)

    def rerank(self, query: str, documents: list[str], **fields: Any) -> dict[str, Any]:
        """Ask for a ranking that must succeed."""
        response = self.post(query, documents, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def load(self) -> dict[str, Any]:
        """What is in flight; fails if what the service counts does not agree."""
        response = self._http.get("/v1/load")
        assert response.status_code == 200, response.text
        load: dict[str, Any] = response.json()
        return load

    def wait_until_idle(self, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Poll /v1/load until nothing is in flight, here and in every replica."""
        deadline = time.monotonic() + timeout_s
        while not _is_idle(load := self.load()):
            assert time.monotonic() < deadline, f"still in flight: {load}"
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Everything this service runs on the machine now."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def replica_processes(self, deployment: str = "EngineReplica") -> set[psutil.Process]:
        """Those of them that are a replica of this deployment; "" for those of all."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if re.search(rf"ServeReplica:\w+:{deployment}", " ".join(process.cmdline())):
                    found.add(process)
        return found

    def deploy(self, config: dict[str, Any]) -> None:
        """Give Serve another configuration, as `serve deploy` does; returns when it has been taken over."""
        config["http_options"]["port"] = self.port
        self._ray("PUT", config)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (status := self.application()["status"]) != "RUNNING":
            assert time.monotonic() < deadline, status
            time.sleep(0.2)

    def application(self, name: str = "reranker") -> dict[str, Any]:
        """How an application is, in Serve's words."""
        found: dict[str, Any] = self._ray("GET").json()["applications"][name]
        return found

    def replace(self, config: dict[str, Any], folder: Path, key: str | None = None) -> None:
        """End what is deployed, then deploy another configuration into the same Ray.

        Args:
            config: What to deploy.
            folder: For its files.
            key: API key to ask it with.
        """
        config["http_options"]["port"] = self.port
        self._ray("PUT", config | {"applications": []})
        deadline = time.monotonic() + START_TIMEOUT_S
        while left := self.replica_processes(""):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        self.folder = folder
        self._use_key(key)
        self.startup_answers.clear()
        self.startup_stages.clear()
        self._ray("PUT", config)

    def _ray(self, method: str, config: dict[str, Any] | None = None) -> httpx.Response:
        """Ask the dashboard of this service's Ray about its applications."""
        said = re.search(r"dashboard at \S*?(http://[\d.:]+)", self.log.read_text())
        assert said, "Ray did not say where its dashboard is"
        url, headers = f"{said[1]}/api/serve/applications/", {"Authorization": f"Bearer {self._ray_token}"}
        response = httpx.request(method, url, json=config, headers=headers, timeout=60, verify=TLS)
        assert response.status_code == 200, response.text
        return response

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and wait; returns its exit status. Fails if it leaves a process behind."""
        self._http.close()
        processes = []
        if self.process.poll() is None:
            processes = self.processes()
            self.process.send_signal(how)
        status = self.process.wait(timeout=90)
        left = psutil.wait_procs(processes, timeout=2)[1]
        assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
        return status


def _is_idle(load: dict[str, Any]) -> bool:
    here = load["lists"] or load["tokens"] or load["shards"]
    return not here and not any(replica["pending_tokens"] or replica["in_hand"] for replica in load["replicas"])


def configuration(
    replicas: int | None = None,
    args: dict[str, Any] | None = None,
    simulated: dict[str, Any] | None = None,
    ingresses: int = 1,
    ui: bool = False,
) -> dict[str, Any]:
    """serve_config.yaml, changed.

    Args:
        replicas: A fixed number of engine replicas, instead of autoscaling.
        args: Replaces the application's `args`.
        simulated: Simulate the engines at this cost; such a replica takes no core.
        ingresses: A number of ingress replicas.
        ui: With the playground.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":  # the other edge: docs/decisions/0006-no-proxy.md
        config["proxy_location"] = "EveryNode"
    application, _playground = config["applications"]
    if not ui:
        config["applications"] = [application]
    if replicas is not None:
        engine = deployment(config, "EngineReplica")
        del engine["autoscaling_config"]
        engine["num_replicas"] = replicas
    deployment(config, "Ingress")["num_replicas"] = ingresses
    if args is not None:
        application["args"] = args
    if simulated is not None:
        application["args"].setdefault("engine", {})["simulated"] = simulated
    return config


def deployment(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A deployment's part of a configuration, to be changed."""
    found: list[dict[str, Any]] = [one for one in config["applications"][0]["deployments"] if one["name"] == name]
    return found[0]


def _replicas(config: dict[str, Any]) -> int:
    """Engine replicas that a configuration begins with."""
    engine = deployment(config, "EngineReplica")
    return int(engine.get("num_replicas") or engine["autoscaling_config"]["min_replicas"])


@contextlib.contextmanager
def started(config: dict[str, Any], folder: Path, key: str | None = None) -> Iterator[Service]:
    """A service with a Ray of its own, while the block lasts.

    Args:
        config: See `configuration`.
        folder: For its configuration and log.
        key: API key to ask it with.
    """
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    service = Service(path, folder / "service.log", key)
    try:
        service.wait_until_ready(_replicas(config))
        yield service
    finally:
        service.stop()


class Cluster:
    """One Ray for the tests of a session; configurations are deployed into it one after the other."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._ends = contextlib.ExitStack()
        self._service: Service | None = None
        self._name = ""

    def serve(self, name: str, configure: Callable[[Path], dict[str, Any]], key: str | None = None) -> Service:
        """Have a configuration served, unless it is what is served already.

        Args:
            name: Of the configuration.
            configure: Gives it, and writes its files into a folder.
            key: API key to ask it with.
        """
        if name == self._name and self._service is not None:
            return self._service
        folder = self._folders.mktemp(name)
        config, self._name = configure(folder), ""
        if self._service is None:
            self._service = self._ends.enter_context(started(config, folder, key))
        else:
            try:
                self._service.replace(config, folder, key)
                self._service.wait_until_ready(_replicas(config))
            except BaseException:
                self.stop()  # the next one starts anew
                raise
        self._name = name
        return self._service

    def stop(self) -> None:
        """Stop Ray and all that it runs."""
        self._name, self._service = "", None
        self._ends.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started with the first configuration that a test asks for."""
    cluster = Cluster(tmp_path_factory)
    yield cluster
    cluster.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by what is deployed for them; first come those that share nothing.

    Where two processes run them (`--dist loadgroup`), one has those with a group of their own.
    """

    def deployed(item: pytest.Item) -> list[int]:
        used = [number for number, name in enumerate(SHARED) if name in getattr(item, "fixturenames", ())]
        if len(set(used) - {0}) > 1:
            raise pytest.UsageError(f"{item.nodeid} asks for two configurations; the cluster has one at a time")
        return used

    items.sort(key=deployed)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("rest"))


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Service:
    """The service as `make serve` starts it, for all tests that change nothing in it.

    It is not scaled: on a slow machine the tests would be work for two.
    """
    return cluster.serve("service", lambda _: configuration(replicas=1, ui=True))


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Takes the traces of `simulated`."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def simulated(cluster: Cluster, collector: Collector) -> Service:
    """Four simulated replicas of 10,000 tokens a second each, for all tests that change nothing in it.

    Requests are traced whose caller says so; its logs are JSON, in its folder's `logs`. It searches two indexes:
    `books` has vectors, of a simulated model, `plain` has none.
    """

    def configure(folder: Path) -> dict[str, Any]:
        indexes = {
            name: {"path": str(build(folder / name, DOCUMENTS, vectors=name == "books"))} for name in ("books", "plain")
        }
        args = {
            "engine": {"max_batch_tokens": 1_000, "lora_adapters": {"medical": "simulated"}},
            "admission": {"max_queue_s": 60},
            "tracing": {"exporter": "otlp", "endpoint": collector.url, "sample_ratio": 0},
            "observability": {"slow_request_s": SLOW_S},
            "search": {"indexes": indexes, "embedding": {"model": SIMULATED}},
        }
        config = configuration(replicas=4, args=args, simulated={"tokens_per_s": 10_000})
        config["logging_config"] |= {"encoding": "JSON", "logs_dir": str(folder / "logs")}
        return config

    return cluster.serve("simulated", configure)


@pytest.fixture(scope="module")
def narrow(cluster: Cluster) -> Service:
    """One such replica, with low limits, API keys, and an index for one tab of the playground; shared as well."""

    def configure(folder: Path) -> dict[str, Any]:
        (folder / "keys.yaml").write_text(NARROW_KEYS)
        args: dict[str, Any] = {
            "engine": {"max_batch_tokens": 1_000},
            "admission": {"max_queue_s": 2, "max_tokens_in_flight": NARROW_TOKENS},
            "limits": {"timeout_s": NARROW_TIMEOUT_S, "receive_timeout_s": 2},
            "access": {"keys_file": str(folder / "keys.yaml")},
            "search": {"indexes": {"docs": {"path": str(build(folder / "docs", DOCUMENTS, vectors=False))}}},
        }
        return configuration(1, args, {"tokens_per_s": 10_000}, ui=True)

    return cluster.serve("narrow", configure, NARROW_KEY)
