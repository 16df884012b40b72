"""What clients see when a process is killed, and when a configuration is changed: under load, one after the other.

python -m benchmarks.outages        half an hour; adds to benchmarks/results/outages.json
python -m benchmarks.outages --only "1 engine, max_surge_percent 100"

One and two ingress replicas with three simulated engines, and one engine with and without room for a second, on one
machine. Each process is killed with SIGKILL while lists keep coming at a fixed rate, each over a connection of its own
or one that is kept, as the client's pool has it; a list that fails is not sent again. Serve's proxies are off
(docs/decisions/0006-no-proxy.md): there is none to kill.
"""

import asyncio
import copy
import os
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import results
from benchmarks.load import Answer, Client
from benchmarks.results import say
from benchmarks.service import ENGINE, INGRESS, Server, configuration, running
from benchmarks.texts import Lists
from tests.broken_models import broken_copy, swap_yes_and_no

RESULTS = results.RESULTS / "outages.json"
RATE_PER_S = 8
QUIET_S, WATCH_S = 2.0, 14.0
"""Before a kill, and after it."""
REPLICAS = 3
PROCESSES = (ENGINE, INGRESS, "controller")
SETTLED = {"RUNNING", "DEPLOY_FAILED", "UNHEALTHY"}
SETTLE_S = 180


@dataclass(frozen=True)
class Setup:
    """What is running when something is done to it."""

    ingresses: int
    engines: int = REPLICAS
    max_surge_percent: int | None = None
    """Of the engines: how many more there may be while they are replaced. None: Serve's own choice."""
    kills: bool = True

    def configuration(self, tokens_per_s: int = 40_000) -> dict[str, Any]:  # Any: YAML
        """As Serve takes it."""
        config = configuration({"engine": {"simulated": {"tokens_per_s": tokens_per_s}}})
        ingress, engine = config["applications"][0]["deployments"]
        for deployment, replicas in ((ingress, self.ingresses), (engine, self.engines)):
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = replicas
        if self.max_surge_percent is not None:
            engine["max_surge_percent"] = self.max_surge_percent
        return config


SETUPS = {
    "1 ingress replica": Setup(1),
    "2 ingress replicas": Setup(2),
    "1 engine": Setup(1, engines=1, kills=False),
    "1 engine, max_surge_percent 100": Setup(1, engines=1, max_surge_percent=100, kills=False),
}


def _broken(setup: Setup, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, change in (
        ("import error", {"import_path": "deployments.app:no_such_application"}),
        ("unknown key", {"args": {"engine": {"max_batch_token": 1}}}),
        ("no such model", {"args": {"model": {"name": "/no/such/model"}}}),
        ("model that fails its check", {"args": {"model": {"name": str(broken_copy(folder, swap_yes_and_no))}}}),
    ):
        config = setup.configuration()
        config["applications"][0] |= change
        yield name, config


class Outage:
    """Lists that keep coming while something is done to the service."""

    def __init__(self, service: Server, client: Client, token: str) -> None:
        self.service, self.client = service, client
        said = re.search(r"dashboard at \S*?(http://[\d.:]+)", service.log.read_text())
        if said is None:
            raise RuntimeError("Ray did not say where its dashboard is")
        headers = {"Authorization": f"Bearer {token}"}
        self._serve: dict[str, Any] = {"url": f"{said[1]}/api/serve/applications/", "headers": headers, "timeout": 60}
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
        reasons = Counter(str(one.status) if one.status else re.sub(r"\(.*", "", one.body.decode()) for one in failed)
        found = {
            "lists": len(answers),
            "failed": len(failed),
            "as": dict(reasons),
            "failed_were_sent_from_to_s": _span([one.sent_s - began_s for one in failed]),
            "slowest_ranked_s": round(max((one.took_s for one in answers if one.ok), default=0.0), 2),
        }
        say(str(found))
        return found

    async def deploy(self, config: dict[str, Any]) -> str:
        """Hand over a configuration, as `serve deploy` does; what Serve says once it has done with it, or at last."""
        config = copy.deepcopy(config)
        config["http_options"]["port"] = int(self.service.url.rpartition(":")[2])
        (await asyncio.to_thread(httpx.put, json=config, **self._serve)).raise_for_status()
        await asyncio.sleep(1)
        deadline_s = time.perf_counter() + SETTLE_S
        while True:
            answer = await asyncio.to_thread(httpx.get, **self._serve)
            status = str(answer.json()["applications"]["reranker"]["status"])
            if status in SETTLED or time.perf_counter() > deadline_s:
                return status
            await asyncio.sleep(0.5)

    def engines(self) -> set[int]:
        return {process.pid for process in self.service.processes(ENGINE)}


async def _kills(outage: Outage, found: dict[str, Any]) -> None:
    for part in PROCESSES:
        say(f"kill -9 of the {part}")

        async def kill(part: str = part) -> None:
            [victim, *_] = outage.service.processes(part)
            victim.kill()

        killed = found[f"kill {part}"] = await outage.during(kill, WATCH_S)
        before_s = time.perf_counter()
        await asyncio.to_thread(outage.service.wait_until_ready, REPLICAS)
        killed["replicas_complete_after_s"] = f"at most {WATCH_S + time.perf_counter() - before_s:.0f}"


async def _deployments(outage: Outage, setup: Setup, folder: Path, found: dict[str, Any]) -> None:
    async def deploy(config: dict[str, Any]) -> dict[str, Any]:
        """Deploy under load until Serve has settled, and five seconds more."""
        before, started_s = outage.engines(), time.perf_counter()
        deploying = asyncio.create_task(outage.deploy(config))

        async def go_on() -> None:
            return None

        parts = []
        while not deploying.done():
            parts.append(await outage.during(go_on, 3))
        parts.append(await outage.during(go_on, 5))
        return {
            "status": await deploying,
            "took_s": round(time.perf_counter() - started_s - 5, 1),
            "lists": sum(one["lists"] for one in parts),
            "failed": sum(one["failed"] for one in parts),
            "as": dict(sum((Counter(one["as"]) for one in parts), Counter())),
            "slowest_ranked_s": max(one["slowest_ranked_s"] for one in parts),
            "engines_kept": f"{len(before & outage.engines())} of {len(before)}",
        }

    for name, config in (("deploy a change", setup.configuration(50_000)), *_broken(setup, folder)):
        say(name)
        found[name] = await deploy(config)
        say(f"{name}: {found[name]}")
        if found[name]["status"] != "RUNNING":
            again = await deploy(setup.configuration(50_000))
            found[name]["the_old_one_again"] = {key: again[key] for key in ("status", "failed", "took_s")}
            say(f"the old one again: {again}")


def _span(moments_s: list[float]) -> list[float] | None:
    return [round(min(moments_s), 2), round(max(moments_s), 2)] if moments_s else None


async def _play(service: Server, setup: Setup, token: str, found: dict[str, Any]) -> None:
    await asyncio.sleep(3)
    with tempfile.TemporaryDirectory() as folder:
        async with Client(service.url, timeout_s=30) as client:
            outage = Outage(service, client, token)
            if setup.kills:
                await _kills(outage, found)
            await _deployments(outage, setup, Path(folder), found)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=SETUPS, default=list(SETUPS))
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_TOKEN"] = token = secrets.token_hex()
    for name in arguments.only:
        setup, found = SETUPS[name], dict[str, Any]()
        with running(setup.configuration(), setup.engines, count=False) as service:
            asyncio.run(_play(service, setup, token, found))
        results.write(RESULTS, results.read(RESULTS) | {name: found})


if __name__ == "__main__":
    main()
