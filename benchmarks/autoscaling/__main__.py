"""Replicas that follow a load which rises, bursts and falls: our policy beside Ray's, on the same trace.

python -m benchmarks.autoscaling --policy queue_time default_tuned_1 --rounds 6   seven minutes each; adds to results
python -m benchmarks.autoscaling --policy queue_time --lists mixed      lists of 10, 60 and 150 documents, not all of 60
python -m benchmarks.autoscaling --table                  the results so far, over the rounds
python -m benchmarks.autoscaling --plot --seed 12         draws those of one round

Real Serve with simulated engines of 10,000 tokens a second. Replicas here start within seconds, where a GPU's take a
minute: times are not those of a cluster, but both policies have the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.autoscaling.report import RESULTS, draw, summary, tabulate
from benchmarks.autoscaling.trace import SIZES, SPEED, TRACE, WINDOW_S, moments
from benchmarks.scatter.client import Answer, Client, require_ok
from benchmarks.scatter.report import say
from benchmarks.scatter.service import Service, configuration
from benchmarks.scatter.workload import Lists
from benchmarks.signals import heed_sigterm
from deployments import ENGINE_DEPLOYMENT

WORDS = 30
WARM_UP, LISTS = 20, 3_072
"""Lists before the trace, to learn what work a list is, and lists in all: none comes twice, as scores are cached."""
_BOUNDS = {"min_replicas": 1, "max_replicas": 8, "metrics_interval_s": 1}
_KEEP_S = 30
"""In place of minutes, as the trace is short: for both policies."""


def _ours(target_queue_s: float) -> dict[str, Any]:
    return _BOUNDS | {
        "policy": {
            "policy_function": "deployments.autoscaling:QueueTime",
            "policy_kwargs": {"target_queue_s": target_queue_s, "keep_s": _KEEP_S},
        },
        "look_back_period_s": 5,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
    }


def _rays(target: float, **others: float) -> dict[str, Any]:
    policy = {"policy_function": "benchmarks.rays_rule:ongoing_shards"}
    return _BOUNDS | {"policy": policy, "target_ongoing_requests": target} | others


# Any: YAML.
POLICIES: dict[str, dict[str, Any]] = {
    "queue_time": _ours(1),
    **{f"queue_time_{target}": _ours(target) for target in (0.25, 0.5)},
    # Ray's own numbers: a mean over 30 s, up after 30 s, down after 600 s.
    "default": _rays(2),
    # As fast as ours may be, with targets to find the one that holds the latency.
    **{
        f"default_tuned_{target}": _rays(target, look_back_period_s=5, upscale_delay_s=0, downscale_delay_s=_KEEP_S)
        for target in (0.5, 0.75, 1, 1.5, 2, 4)
    },
}


def _configuration(policy: dict[str, Any]) -> dict[str, Any]:
    args = {"engine": {"max_batch_tokens": 1_000, "simulated": {"tokens_per_s": SPEED, "seed": 1}}}
    config = configuration(args)
    [application] = config["applications"]
    [engine] = [one for one in application["deployments"] if one["name"] == ENGINE_DEPLOYMENT]
    engine["autoscaling_config"] = policy
    return config


def _bodies(kind: str) -> list[bytes]:
    """Lists of the sizes that a kind has, in random order."""
    lists, draw = Lists(seed=7), random.Random(13)
    sizes, shares = zip(*SIZES[kind], strict=True)
    return [lists.body(size, WORDS) for size in draw.choices(sizes, shares, k=LISTS)]


def _work_tokens(service: Service) -> float:
    """Tokens that engines have computed so far; of a shard's head once, as the engine does."""
    page = httpx.get(f"{service.url}/metrics", timeout=30).raise_for_status().text
    families = text_string_to_metric_families(page)
    return sum(one.value for family in families for one in family.samples if one.name == "reranker_scored_tokens_total")


def _wait_for_one_engine(service: Service) -> None:
    """What the first lists brought is to be gone before the trace, and it may still be coming."""
    time.sleep(2 * WINDOW_S)
    while len(service.engines()) > 1:
        time.sleep(0.5)
    time.sleep(WINDOW_S)


async def _play(service: Service, kind: str, seed: int) -> tuple[list[Answer], list[tuple[float, int]], float]:
    """Send the trace, and count the engines' processes twice a second; returns the latter with their moments."""
    bodies = _bodies(kind)
    async with Client(service.url, timeout_s=60) as client:
        before = _work_tokens(service)
        require_ok([await client.rerank(body) for body in bodies[:WARM_UP]])
        tokens = (_work_tokens(service) - before) / WARM_UP
        await asyncio.to_thread(_wait_for_one_engine, service)
        plan = moments(tokens, seed)
        say(f"{len(plan)} lists of {tokens:.0f} tokens")
        if len(plan) > len(bodies) - WARM_UP:
            raise SystemExit("more lists than there are: raise LISTS")
        started_s = time.perf_counter()
        counts: list[tuple[float, int]] = []

        async def count() -> None:
            while time.perf_counter() - started_s < TRACE[-1][0]:
                engines = await asyncio.to_thread(service.engines)
                counts.append((time.perf_counter() - started_s, len(engines)))
                await asyncio.sleep(0.5)

        counting = asyncio.create_task(count())
        tasks = []
        for moment_s, body in zip(plan, bodies[WARM_UP:], strict=False):
            await asyncio.sleep(max(0.0, started_s + moment_s - time.perf_counter()))
            tasks.append(asyncio.create_task(client.rerank(body)))
        answers = list(await asyncio.gather(*tasks))
        await counting
    return answers, counts, started_s


def run(name: str, kind: str, seed: int) -> None:
    """Play the trace with one policy, and add what came out to the results; a second run stands beside the first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(_configuration(POLICIES[name])), encoding="utf-8")
        service = Service(path, None, Path(folder), simulated=True)
        try:
            service.wait_until_ready(1)
            answers, counts, started_s = asyncio.run(_play(service, kind, seed))
        finally:
            service.stop()
    raw = [
        {"sent_s": round(one.sent_s - started_s, 2), "took_s": round(one.took_s, 3), "status": one.status}
        for one in answers
    ]
    rounded = [(round(at_s, 1), engines) for at_s, engines in counts]
    found = summary(raw, rounded)
    say(f"{name}: {found}")
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    key = name if kind == "equal" else f"{name}, {kind} lists"
    runs = 1 + sum(one.partition(" (")[0] == key for one in results)
    results[key if runs == 1 else f"{key} ({runs})"] = {
        "policy": POLICIES[name],
        "seed": seed,
        "summary": found,
        "replicas": rounded,
        "answers": raw,
    }
    RESULTS.write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")


def main() -> None:
    """Run one policy, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=())
    parser.add_argument("--lists", choices=SIZES, default="equal")
    parser.add_argument("--seed", type=int, default=11, help="of the moments at which lists come; of the first round's")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed, and all the policies in turn")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", action="store_true")
    parsed = parser.parse_args()
    heed_sigterm()
    for seed in range(parsed.seed, parsed.seed + parsed.rounds):
        for policy in parsed.policy:
            run(policy, parsed.lists, seed)
    if parsed.table:
        tabulate()
    if parsed.plot:
        draw(parsed.seed)


if __name__ == "__main__":
    main()
