"""Starts a cluster of real Ray nodes on this machine, keeps lists coming, and breaks what it is told to.

make cluster      or python -m tests.cluster [--ingresses 2] [--engines 3] [--redis]; as root, on Linux

kill NODE [ingress|engine]          its processes at once, or only a replica's
cut NODE [NODE]                     lose its packets, or theirs to each other
hang NODE                           stop its replicas (SIGSTOP)
slow NODE MS [%]                    delay its packets; lose some
drain NODE                          as Kubernetes ends a pod
heal NODE                           undo all that; start what has ended
deploy [INGRESSES ENGINES [SEED]]   another number of replicas, another model
status, quit
"""

from __future__ import annotations

import argparse
import contextlib
import readline  # noqa: F401 - `input` takes the keys from it
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from deployments import ENGINE_DEPLOYMENT, INGRESS_DEPLOYMENT
from tests.cluster.load import Load, summary
from tests.cluster.network import NetworkError, refusal
from tests.cluster.nodes import ClusterError, RayCluster
from tests.integration.traffic import ListOfAnyModel

SEEDS = {"simulated": 0, "simulated-1": 1}
_RATE_PER_S = 2
_DEPLOYMENTS = {"ingress": INGRESS_DEPLOYMENT, "engine": ENGINE_DEPLOYMENT}


class Console:
    """Does what it is told, and shows who runs what."""

    def __init__(self, cluster: RayCluster, load: Load) -> None:
        self._cluster, self._load, self._shown_s = cluster, load, time.monotonic()

    def do(self, words: Sequence[str]) -> None:
        """One command; ValueError: it is none."""
        cluster, (command, *rest) = self._cluster, words
        if command in {"kill", "cut", "hang", "slow", "drain", "heal"}:
            if not rest or any(name not in cluster.nodes for name in rest[: 2 if command == "cut" else 1]):
                raise ValueError(f"{command} takes a node: {', '.join(cluster.nodes)}")
            name, *more = rest
            if command == "kill" and more:
                for process in cluster.nodes[name].replicas(_DEPLOYMENTS.get(more[0], more[0])):
                    process.kill()
            elif command == "slow":
                delay_ms, loss, *_ = [float(one.rstrip("%")) for one in [*more, "0", "0"]]
                cluster.switch.slow(name, delay_ms / 1_000, loss / 100)
            elif command == "drain":
                print(f"ended after {cluster.drain(name):.0f} s")
            else:
                getattr(cluster, command)(name, *more)
        elif command == "deploy":
            ingresses, engines, seed = [*(int(one) for one in rest), *[0, 0, 0][len(rest) :]]
            cluster.deploy(cluster.configuration(ingresses or None, engines or None, seed=seed), wait=False)
        elif command != "status":
            raise ValueError(f"there is no command {command}")
        self.show()

    def show(self) -> None:
        """Who runs what, and how the lists have fared since this was last shown."""
        for node in self._cluster.nodes.values():
            line = f"  {node.name:6} {node.address:12} {'' if node.alive else 'has ended'}"
            for name in (INGRESS_DEPLOYMENT, ENGINE_DEPLOYMENT):
                for process in node.replicas(name):
                    with contextlib.suppress(psutil.Error):
                        stopped = process.status() == psutil.STATUS_STOPPED
                        line += f" {name} ({'stopped, ' if stopped else ''}PID {process.pid})"
            print(line)
        with contextlib.suppress(httpx.HTTPError, KeyError):
            print(f"  Serve says {self._cluster.application()['status']}")
        found, self._shown_s = summary(self._load.since(self._shown_s)), time.monotonic()
        took = " ".join(f"{n} documents at most {one['max']:.2f} s;" for n, one in found["took_s"].items())
        print(f"  {found['lists']} lists since: {found['lost']} lost, {found['wrong']} wrong; {took}", end=" ")
        print(f"{found['asked_a_second_address']} asked a second ingress {found['as'] or ''}")
        for problem in found["first_problems"]:
            print(f"    {problem}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingresses", type=int, default=2)
    parser.add_argument("--engines", type=int, default=3)
    parser.add_argument("--redis", action="store_true", help="keep the head's state, so that it may be killed")
    options = parser.parse_args()
    if (why := refusal()) is not None:
        print(why, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="reranker-cluster-") as folder, contextlib.suppress(KeyboardInterrupt):
        print(f"Starting {1 + options.ingresses + options.engines} nodes; their logs: {folder}", flush=True)
        with RayCluster(Path(folder), options.ingresses, options.engines, redis=options.redis) as cluster:
            cluster.deploy(cluster.configuration())
            cluster.wait("every ingress knows every engine", cluster.complete)
            lists = [ListOfAnyModel.of(n, 10 if n % 4 else 300, SEEDS) for n in range(8)]
            with Load(cluster.urls(), lists, _RATE_PER_S) as load:
                console = Console(cluster, load)
                print(__doc__.partition("\n\nkill")[2].join(["kill", ""]))
                print("Ask it yourself:", *cluster.urls().values())
                console.show()
                _converse(console)
    return 0


def _converse(console: Console) -> None:
    while True:
        try:
            words = shlex.split(input("> "))
        except EOFError:
            return
        if words and words[0] in {"quit", "exit"}:
            return
        try:
            if words:
                console.do(words)
        except (
            ValueError,
            TypeError,
            ClusterError,
            NetworkError,
            httpx.HTTPError,
            subprocess.SubprocessError,
        ) as error:
            print(error)


if __name__ == "__main__":
    sys.exit(main())
