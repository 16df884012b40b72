"""What clients see when a process is killed, and when a configuration is changed: under load, one after the other.

python -m benchmarks.outages        three minutes; writes benchmarks/results/outages.json

Two ingress replicas and three simulated engines on one machine. Each process is killed with SIGKILL while lists keep
coming at a fixed rate; a list that fails is not sent again.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.scatter.client import Answer, Client
from benchmarks.scatter.report import ROOT, say
from benchmarks.scatter.service import Service, configuration
from benchmarks.scatter.workload import Lists

RESULTS = ROOT / "benchmarks" / "results" / "outages.json"
RATE_PER_S = 8
QUIET_S, WATCH_S = 2.0, 14.0
"""Before a kill, and after it."""
REPLICAS = 3
PROCESSES = {
    "engine": "ServeReplica:reranker:EngineReplica",
    "ingress": "ServeReplica:reranker:Ingress",
    "controller": "ServeController",
}


def _configuration(tokens_per_s: int = 40_000) -> dict[str, Any]:  # Any: YAML
    config = configuration({"engine": {"simulated": {"tokens_per_s": tokens_per_s}}})
    ingress, engine = config["applications"][0]["deployments"]
    ingress["num_replicas"] = 2
    del engine["autoscaling_config"]
    engine["num_replicas"] = REPLICAS
    return config


class Outage:
    """Lists that keep coming while something is done to the service."""

    def __init__(self, service: Service, client: Client, log: Path, token: str) -> None:
        self.service, self.client, self.log, self.token = service, client, log, token
        lists = Lists(seed=3)
        self._bodies = [lists.body(40, 30) for _ in range(32)]

    async def during(self, what: Callable[[], Awaitable[None]], watch_s: float) -> dict[str, Any]:
        """Do it after a while, and say how the lists fared until `watch_s` after it."""
        tasks: list[asyncio.Task[Answer]] = []
        started_s = time.perf_counter()
        done_s: float | None = None
        number = 0
        while done_s is None or time.perf_counter() - done_s < watch_s:
            if done_s is None and time.perf_counter() - started_s > QUIET_S:
                began_s = time.perf_counter()
                await what()
                done_s = time.perf_counter()
            tasks.append(asyncio.create_task(self.client.rerank(self._bodies[number % len(self._bodies)])))
            number += 1
            await asyncio.sleep(max(0.0, started_s + number / RATE_PER_S - time.perf_counter()))
        answers = await asyncio.gather(*tasks)
        failed = [one for one in answers if not one.ok]
        kinds = Counter(str(one.status) if one.status else re.sub(r"\(.*", "", one.body.decode()) for one in failed)
        found = {
            "lists": len(answers),
            "failed": len(failed),
            "as": dict(kinds),
            "last_failed_was_sent_after_s": round(max((one.sent_s - began_s for one in failed), default=0), 1),
            "slowest_ranked_s": round(max(one.took_s for one in answers if one.ok), 2),
        }
        say(str(found))
        return found

    def processes(self, part: str) -> list[psutil.Process]:
        """Those of the service that are such a part."""
        found = []
        for process in psutil.Process(self.service._process.pid).children(recursive=True):
            try:
                if PROCESSES[part] in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    async def deploy(self, config: dict[str, Any]) -> None:
        """Hand over a configuration, as `serve deploy` does; wait until it is running or has failed."""
        said = re.search(r"dashboard at \S*?(http://[\d.:]+)", self.log.read_text())
        if said is None:
            raise RuntimeError("Ray did not say where its dashboard is")
        config = copy.deepcopy(config)
        config["http_options"]["port"] = int(self.service.url.rpartition(":")[2])
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as http:
            url = f"{said[1]}/api/serve/applications/"
            (await http.put(url, json=config)).raise_for_status()
            await asyncio.sleep(0.5)

    async def status(self) -> str:
        """What Serve says of the application."""
        said = re.search(r"dashboard at \S*?(http://[\d.:]+)", self.log.read_text())
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.token}"}, timeout=60) as http:
            answer = await http.get(f"{said[1] if said else ''}/api/serve/applications/")
        return str(answer.json()["applications"]["reranker"]["status"])


async def _play(service: Service, log: Path, token: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with Client(service.url, timeout_s=30) as client:
        outage = Outage(service, client, log, token)
        for part in PROCESSES:
            say(f"kill -9 of the {part}")

            async def kill(part: str = part) -> None:
                outage.processes(part)[0].kill()

            found[f"kill {part}"] = await outage.during(kill, WATCH_S)
            await asyncio.to_thread(service.wait_until_ready, REPLICAS)
        say("another configuration")
        found["deploy a change"] = await outage.during(lambda: outage.deploy(_configuration(50_000)), 25)
        found["deploy a change"]["status"] = await outage.status()
        broken = _configuration()
        broken["applications"][0]["args"]["model"] = {"name": "/no/such/model"}
        say("a broken configuration")
        found["deploy a broken one"] = await outage.during(lambda: outage.deploy(broken), 12)
        found["deploy a broken one"]["status"] = await outage.status()
    return found


def main() -> None:
    """Run all, and write what was found."""
    os.environ["RAY_AUTH_TOKEN"] = token = secrets.token_hex()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(_configuration()), encoding="utf-8")
        service = Service(path, None, Path(folder), simulated=True)
        try:
            service.wait_until_ready(REPLICAS)
            time.sleep(3)
            found = asyncio.run(_play(service, Path(folder) / "service.log", token))
        finally:
            service.stop()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
