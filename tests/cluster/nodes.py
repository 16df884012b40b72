"""A Ray cluster of several nodes: a head, nodes for ingress replicas, nodes for one simulated engine each.

Each node is a host of its own (`network.Switch`): address, link, PIDs, /tmp and /dev/shm. Its PID 1 is
`ray start --block`, as with KubeRay, and the variables are those that KubeRay sets.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from deployments import ENGINE_DEPLOYMENT, INGRESS_DEPLOYMENT, SERVE_FLAGS
from tests.cluster.network import ROOT, Switch, start_host
from tests.integration.conftest import TLS, configuration, deployment

PORT, HEAD_PORT, DASHBOARD_PORT, EXPORTER_PORT = 8000, 6379, 8265, 8080
REDIS_PORT = 6379
HEAD, REDIS = "head", "redis"
START_TIMEOUT_S = 180
GRACE_S = {INGRESS_DEPLOYMENT: 30, ENGINE_DEPLOYMENT: 20}
"""`graceful_shutdown_timeout_s`; and all other times of a drain are a fraction of those of k8s/, too."""
DRAIN_S = (90, 30)
"""Arguments of drain.sh."""
Role = Literal["head", "ingress", "engine"]
_NUMBERS, _REDIS_NUMBER = {"head": 1, "ingress": 10, "engine": 20}, 50
"""The last part of the first address of a role, less one where there may be more than one."""


class ClusterError(RuntimeError):
    """The cluster does not do what is waited for."""


@dataclass(slots=True)
class Node:
    """A host that runs Ray, or did."""

    name: str
    role: Role
    number: int
    """The last part of its address."""
    address: str = ""
    process: subprocess.Popen[bytes] | None = None
    hung: list[psutil.Process] = field(default_factory=list)
    """What was stopped, and not continued."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """All that it runs, its PID 1 first."""
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def replicas(self, deployment: str = "") -> list[psutil.Process]:
        """Its replicas; those of one deployment."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:reranker:{deployment}" in " ".join(process.cmdline()):
                    found.append(process)
        return found


class RayCluster:
    """The nodes, and Serve on them. Use as a context."""

    def __init__(self, folder: Path, ingresses: int = 2, engines: int = 3, *, redis: bool = False) -> None:
        """Start all nodes. `redis`: one beside them keeps the head's state; without it a dead head is the end."""
        self.folder = folder
        self._token = secrets.token_hex(16)
        self.switch = Switch()
        self.nodes = {HEAD: Node(HEAD, "head", _NUMBERS["head"])}
        for role, count, short in (("ingress", ingresses, "ing"), ("engine", engines, "eng")):
            for number in range(1, count + 1):
                name = f"{short}{number}"
                self.nodes[name] = Node(name, role, _NUMBERS[role] + number)  # type: ignore[arg-type]
        self._redis: subprocess.Popen[bytes] | None = None
        try:
            if redis:
                self._start_redis()
            for name in self.nodes:
                self.start(name)
            self.wait("all nodes are there", lambda: len(self.alive()) == len(self.nodes))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for name in self.nodes:
            self.kill(name)
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        self.switch.close()

    # --- nodes

    def of(self, role: Role) -> list[Node]:
        return [node for node in self.nodes.values() if node.role == role]

    def urls(self) -> dict[str, str]:
        """Where clients ask, by the name of the ingress's node."""
        return {node.name: f"http://{node.address}:{PORT}" for node in self.of("ingress")}

    def start(self, name: str) -> None:
        """Start a node that is not there, or has ended."""
        node = self.nodes[name]
        self.kill(name)
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        visible = {str(path) for path in (ROOT, Path(sys.prefix).resolve()) if str(path).startswith("/tmp/")}  # noqa: S108
        head = f"{self.switch.subnet}.{_NUMBERS['head']}"
        address = f"{self.switch.subnet}.{node.number}"
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address", address]
        ray += ["--num-cpus", "0", "--object-store-memory", "80000000", "--include-log-monitor", "False"]
        ray += ["--metrics-export-port", str(EXPORTER_PORT), "--disable-usage-stats"]
        if node.role == "head":
            ray += ["--head", "--port", str(HEAD_PORT), "--dashboard-host", address]
        else:
            ray += ["--address", f"{head}:{HEAD_PORT}", "--resources", f'{{"{node.role}": 1}}']
        with (home / "node.log").open("ab") as log:
            node.process = start_host(
                ["bash", str(Path(__file__).with_name("node.sh")), name, str(home), *sorted(visible), "--", *ray],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environment(head),
            )
        node.address = self.switch.attach(name, node.process.pid, node.number)
        node.hung.clear()

    def _start_redis(self) -> None:
        command = ["redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"]
        self._redis = start_host(command, pid_namespace=False, stdout=subprocess.DEVNULL)
        address = self.switch.attach(REDIS, self._redis.pid, _REDIS_NUMBER)

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((address, REDIS_PORT), timeout=1):
                return True
            return False

        self.wait("Redis listens", listens)

    def _environment(self, head: str) -> dict[str, str]:
        ours = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "FQ_RAY_IP": head,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # as KubeRay sets it where there is a Redis
            "RAY_raylet_start_wait_time_s": "120",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        if self._redis is not None:
            redis = f"{self.switch.address(REDIS)}:{REDIS_PORT}"
            ours |= {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": self._token}
        return os.environ | ours

    # --- what may happen to them

    def kill(self, name: str) -> None:
        """SIGKILL all of a node's processes at once; its kernel still closes their connections."""
        process = self.nodes[name].process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def cut(self, name: str, other: str = "") -> None:
        """Lose all that a node sends and is sent; or all that two nodes send each other."""
        self.switch.part(name, other) if other else self.switch.cut(name)

    def hang(self, name: str) -> None:
        """Stop a node's replicas, which then answer nothing, while their machine answers for them that it has heard."""
        node = self.nodes[name]
        for process in node.replicas():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                node.hung.append(process)

    def heal(self, name: str) -> None:
        """Undo all of that; start the node again where it has ended, as Kubernetes does."""
        node = self.nodes[name]
        self.switch.heal(name)
        for process in node.hung:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        node.hung.clear()
        if not node.alive:
            self.start(name)

    def drain(self, name: str, *limits_s: int) -> float:
        """End a node as a pod ends: its preStop, k8s/drain.sh, then SIGTERM. Gives the seconds that took."""
        node, began_s = self.nodes[name], time.monotonic()
        [one, *_] = node.processes()
        enter = ["nsenter", "-t", str(one.pid), "-n", "-p", "-m"]
        script = ["bash", str(ROOT / "k8s" / "drain.sh"), *(str(limit) for limit in limits_s or DRAIN_S)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = self._environment(f"{self.switch.subnet}.{_NUMBERS['head']}") | {"PATH": path}
        subprocess.run([*enter, *script], env=environment, cwd=ROOT, check=True, capture_output=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGTERM)
        assert node.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.process.wait(timeout=30)
        self.kill(name)
        return time.monotonic() - began_s

    # --- Serve

    def configuration(
        self, ingresses: int | None = None, engines: int | None = None, *, seed: int = 0
    ) -> dict[str, Any]:  # Any: YAML
        """As for a cluster of pods: one ingress replica on a node, one engine on a node, on all addresses.

        How many there are: one for each node made for it, unless said. Engines are simulated; those of another seed
        hold another model, which takes other prompts.
        """
        simulated = {"tokens_per_s": 20_000, "score_seed": seed}
        args: dict[str, Any] = {
            "access": {"allow_anonymous": True},
            "cache": {"enabled": False},
            "limits": {"notice_s": 5},
        }
        args |= {"ingress": {"resources": {"ingress": 0.5}, "one_per_node": True}}
        args |= {"model": {"max_pair_tokens": 8_192 - seed}}
        config = configuration(engines or len(self.of("engine")), args, simulated)
        config["http_options"] |= {"host": "0.0.0.0", "port": PORT}  # noqa: S104 - of the namespace
        ingress, engine = deployment(config, INGRESS_DEPLOYMENT), deployment(config, ENGINE_DEPLOYMENT)
        ingress["num_replicas"] = ingresses or len(self.of("ingress"))
        for one in (ingress, engine):
            one["graceful_shutdown_timeout_s"] = GRACE_S[one["name"]]
        engine["ray_actor_options"] = {
            "num_cpus": 0,
            "resources": {"engine": 1},
            "runtime_env": {"env_vars": dict(SERVE_FLAGS)},
        }
        return config

    def deploy(self, config: dict[str, Any], *, wait: bool = True) -> None:
        """Hand over a configuration, as `serve deploy` does, and wait until it has been taken over."""
        self._dashboard("PUT", "/api/serve/applications/", config)
        if wait:
            time.sleep(1)  # until then the status may be that of the one before
            self.wait("the application runs", self.runs, 2 * START_TIMEOUT_S)

    def application(self) -> dict[str, Any]:  # Any: JSON
        """What Serve says of it."""
        answer = self._dashboard("GET", "/api/serve/applications/")
        found: dict[str, Any] = answer["applications"].get("reranker", {})
        return found

    def runs(self) -> bool:
        status = self.application().get("status")
        if status == "DEPLOY_FAILED":
            raise ClusterError(str(self.application().get("message"))[-2000:])
        return status == "RUNNING"

    def placed(self, deployment: str) -> dict[str, list[str]]:
        """States of a deployment's replicas, by node, as Serve has them; those without a node under an empty name."""
        names = {node.address: node.name for node in self.nodes.values()}
        found: dict[str, list[str]] = {}
        one = self.application().get("deployments", {}).get(deployment, {})
        for replica in one.get("replicas", []):
            found.setdefault(names.get(replica.get("node_ip"), ""), []).append(replica["state"])
        return found

    def alive(self) -> set[str]:
        """Addresses of the nodes that Ray says are alive."""
        answer = self._dashboard("GET", "/nodes?view=summary")
        nodes = answer["data"]["summary"]
        return {one["ip"] for one in nodes if one["raylet"].get("state") == "ALIVE"}

    def health(self, name: str, timeout_s: float = 3.0) -> dict[str, Any] | None:  # Any: JSON
        """What the ingress of a node says of itself. None: nobody answers."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer: dict[str, Any] = httpx.get(f"{self.urls()[name]}/health", timeout=timeout_s, verify=TLS).json()
            return answer
        return None

    def complete(self, ingresses: list[str] | None = None, engines: int | None = None) -> bool:
        """Whether an ingress answers on each of these nodes (all), and knows so many engines (one for each node)."""
        names = [node.name for node in self.of("ingress")] if ingresses is None else ingresses
        wanted = len(self.of("engine")) if engines is None else engines
        answers = [self.health(name) for name in names]
        return all(answer is not None and answer.get("replicas") == wanted for answer in answers)

    def wait(self, what: str, so: Callable[[], object], timeout_s: float = START_TIMEOUT_S) -> float:
        """Ask until it is so; gives the seconds it took. ClusterError: it was not in time."""
        began_s = time.monotonic()
        while True:
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                if so():
                    return time.monotonic() - began_s
            if time.monotonic() - began_s > timeout_s:
                raise ClusterError(f"not so after {timeout_s:.0f} s: {what} (logs: {self.folder})")
            time.sleep(0.25)

    def _dashboard(self, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"http://{self.nodes[HEAD].address}:{DASHBOARD_PORT}{path}"
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = httpx.request(method, url, json=content, headers=headers, timeout=30, verify=TLS)
        answer.raise_for_status()
        return answer.json() if answer.content else {}
