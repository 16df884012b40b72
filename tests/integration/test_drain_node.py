"""A node that is drained, as before its pod ends (k8s/drain.sh), gives its replicas away first: no request is lost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import configuration, free_port
from tests.integration.traffic import documents, wait_until

RAY = str(Path(sys.executable).parent / "ray")
DEADLINE_S = 60


class Cluster:
    """A head and workers on this machine, each a `ray start --block` of ours, as each pod has one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._environment = os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(), "RAY_AUTH_MODE": "token"}
        self.port, self.dashboard_port, self.http_port = free_port(), free_port(), free_port()

    def head(self) -> None:
        """Start the head: no engines there."""
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1"]
        self._start("--head", "--num-cpus=0", '--resources={"front": 10}', f"--temp-dir={self._folder}", *ports)

    def worker(self) -> None:
        """Start a node with room for one engine."""
        self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1", '--resources={"engine": 1}')

    def _start(self, *arguments: str) -> None:
        command = [RAY, "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", *arguments]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
        with (self._folder / f"node-{len(self._nodes)}.log").open("wb") as log:
            self._nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self._environment))

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask the dashboard."""
        headers = {"Authorization": f"Bearer {self._environment['RAY_AUTH_TOKEN']}"}
        return httpx.request(
            method, f"http://127.0.0.1:{self.dashboard_port}{path}", headers=headers, timeout=30, **arguments
        )

    def engine_nodes(self) -> list[str]:
        """Nodes of the running engine replicas."""
        applications = self.ask("GET", "/api/serve/applications/").json()["applications"]
        engines = applications["reranker"]["deployments"].get("EngineReplica", {"replicas": []})
        return [replica["node_id"] for replica in engines["replicas"] if replica["state"] == "RUNNING"]

    def drain(self, node: str) -> None:
        """What k8s/drain.sh does."""
        command = [RAY, "drain-node", "--address", f"127.0.0.1:{self.port}", "--node-id", node]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is ending"]
        command += ["--deadline-remaining-seconds", str(DEADLINE_S)]
        subprocess.run(command, check=True, env=self._environment, capture_output=True)

    def alive(self, node: str) -> bool:
        """Whether a node is still part of the cluster."""
        nodes = self.ask("GET", "/nodes?view=summary").json()["data"]["summary"]
        return any(one["raylet"]["nodeId"] == node and one["raylet"]["state"] == "ALIVE" for one in nodes)

    def stop(self) -> None:
        """End every node, the head last, and whatever they started."""
        for node in reversed(self._nodes):
            left = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
            for insist in (psutil.Process.terminate, psutil.Process.kill):
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        insist(process)
                _, left = psutil.wait_procs(left, timeout=10)
            node.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Ray's sockets are in it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        started = Cluster(Path(folder))
        try:
            started.head()
            wait_until(lambda: _answers(started), timeout_s=60)
            for _ in range(3):
                started.worker()
            yield started
        finally:
            started.stop()


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.ask("GET", "/api/version").status_code == 200
    except httpx.TransportError:
        return False


def _configuration(port: int) -> dict[str, Any]:
    config = configuration(2, simulated={"tokens_per_s": 10_000})
    config["http_options"]["port"] = port
    variables = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
    variables["RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE"] = "0"
    places = {"Ingress": {"front": 1}, "EngineReplica": {"engine": 1}}
    for deployment in config["applications"][0]["deployments"]:
        deployment["ray_actor_options"] = {
            "num_cpus": 0,
            "resources": places[deployment["name"]],
            "runtime_env": {"env_vars": variables},
        }
    return config


def test_drained_node_loses_no_request(cluster: Cluster) -> None:
    cluster.ask("PUT", "/api/serve/applications/", json=_configuration(cluster.http_port)).raise_for_status()
    wait_until(lambda: len(cluster.engine_nodes()) == 2, timeout_s=120)
    url = f"http://127.0.0.1:{cluster.http_port}/v1/rerank"
    body = json.dumps({"query": "a river", "documents": documents(100)})
    statuses: list[int] = []
    ending = threading.Event()

    def client() -> None:
        with httpx.Client(timeout=60) as http:
            while not ending.is_set():
                statuses.append(http.post(url, content=body, headers={"content-type": "application/json"}).status_code)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        wait_until(lambda: len(statuses) > 8)
        victim, _ = cluster.engine_nodes()
        cluster.drain(victim)
        wait_until(lambda: len(nodes := cluster.engine_nodes()) == 2 and victim not in nodes, timeout_s=DEADLINE_S)
        wait_until(lambda: not cluster.alive(victim), timeout_s=DEADLINE_S + 30)
        seen = len(statuses)
        wait_until(lambda: len(statuses) > seen + 8)
    finally:
        ending.set()
        for one in clients:
            one.join()
    assert set(statuses) == {200}
