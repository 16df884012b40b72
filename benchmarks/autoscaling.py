"""Replicas that follow a load which rises, bursts and falls: our policy beside Ray's, on the same trace.

python -m benchmarks.autoscaling --policy queue_time      about three minutes each; adds to the results
python -m benchmarks.autoscaling --policy queue_time --lists mixed      lists of 10, 60 and 150 documents, not all of 60
python -m benchmarks.autoscaling --plot --seed 12         draws those of one seed

Real Serve with simulated engines of 10,000 tokens a second. Replicas here start within seconds, where a GPU's take a
minute: times are not those of a cluster, but both policies have the same.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.scatter.client import Answer, Client, require_ok
from benchmarks.scatter.report import ROOT, say
from benchmarks.scatter.service import Service, configuration
from benchmarks.scatter.workload import Lists
from benchmarks.signals import heed_sigterm
from reranker.launcher import ENGINE_DEPLOYMENT
from reranker.metrics.catalog import SCORED_TOKENS

RESULTS = ROOT / "benchmarks" / "results" / "autoscaling.json"
PICTURE = ROOT / "benchmarks" / "results" / "autoscaling.svg"
SPEED = 10_000
"""Tokens per second of one engine."""
SIZES = {"equal": ((60, 1.0),), "mixed": ((10, 0.50), (60, 0.35), (150, 0.15))}
"""Documents of a list, and how many of the lists have so many: about the same work a list on average."""
WORDS = 30
WARM_UP, LISTS = 20, 1_024
"""Lists before the trace, to learn what work a list is, and lists in all: none comes twice, as scores are cached."""
TARGET_S = 2.0
"""The latency that 95 of 100 lists are to stay below: a queue of 1 s, and the list's own time."""
WINDOW_S = 5
# (from second, engines that the load keeps busy); between two of them it changes evenly.
TRACE = [(0, 0.4), (20, 0.4), (50, 2.0), (60, 2.0), (60, 5.0), (75, 5.0), (75, 2.0), (95, 0.4), (120, 0.4)]
BURST_S = 60
_BOUNDS = {"min_replicas": 1, "max_replicas": 8, "metrics_interval_s": 1}
_KEEP_S = 10
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


def engines_wanted(second: float) -> float:
    """Engines that the trace keeps busy at a moment."""
    for (start_s, start), (end_s, end) in itertools.pairwise(TRACE):
        if start_s <= second < end_s:
            return start + (end - start) * (second - start_s) / (end_s - start_s)
    return TRACE[-1][1]


def moments(tokens_per_list: float, seed: int) -> list[float]:
    """When lists are sent: a Poisson process of the trace's rate (by thinning)."""
    draw = random.Random(seed)
    most = max(engines for _, engines in TRACE) * SPEED / tokens_per_list
    found, now_s = [], 0.0
    while (now_s := now_s + draw.expovariate(most)) < TRACE[-1][0]:
        if draw.random() < engines_wanted(now_s) * SPEED / tokens_per_list / most:
            found.append(now_s)
    return found


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
    return sum(one.value for family in families for one in family.samples if one.name == SCORED_TOKENS.name)


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


def summary(answers: list[dict[str, float]], counts: list[tuple[float, int]]) -> dict[str, Any]:
    """The figures of a run (Any: JSON).

    Args:
        answers: `sent_s`, `took_s` and `status` of each list.
        counts: Engines' processes at moments.
    """
    seconds = []
    for second in range(WINDOW_S, TRACE[-1][0]):
        late = [
            one["took_s"] if one["status"] == 200 else float("inf")
            for one in answers
            if second - WINDOW_S <= one["sent_s"] < second
        ]
        seconds.append((second, sorted(late)[int(0.95 * len(late))] if late else 0.0))
    before = max((engines for at_s, engines in counts if at_s <= BURST_S), default=1)
    scaled_s = next((at_s for at_s, engines in counts if at_s > BURST_S and engines > before), float("inf"))
    judged = [p95 <= TARGET_S for second, p95 in seconds if second - WINDOW_S >= scaled_s]
    pairs = itertools.pairwise(counts)
    ranked = [one["took_s"] for one in answers if one["status"] == 200]  # a refusal is quick, and no help
    everything = [p95 <= TARGET_S for _, p95 in seconds]
    return {
        "lists": len(answers),
        "refused": sum(one["status"] == 429 for one in answers),
        "failed": sum(one["status"] not in (200, 429) for one in answers),
        "p95_s": round(statistics.quantiles(ranked, n=20)[-1], 3),
        "burst_first_scaled_after_s": round(scaled_s - BURST_S, 1) if judged else None,
        "seconds_in_target_after_it": round(statistics.mean(judged), 3) if judged else None,
        "seconds_in_target": round(statistics.mean(everything), 3),
        "replica_seconds": round(sum((end - start) * engines for (start, engines), (end, _) in pairs), 1),
        "most_replicas": max(engines for _, engines in counts),
    }


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


def draw(seed: int) -> None:
    """Draw load, replicas and latency of the runs with these moments, one column each."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    results = {
        name: one for name, one in json.loads(RESULTS.read_text(encoding="utf-8")).items() if one["seed"] == seed
    }
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reranker", "font.size": 9}):
        figure, rows = pyplot.subplots(
            2,
            len(results),
            figsize=(3.6 * len(results), 5),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for column, (name, one) in enumerate(results.items()):
            above, below = rows[0][column], rows[1][column]
            at_s, engines = zip(*one["replicas"], strict=True)
            above.step(at_s, engines, where="post", color="#1f6fb4", label="replicas")
            load = [engines_wanted(second) for second in range(TRACE[-1][0])]
            above.plot(load, color="#999999", linestyle="--", label="load, in replicas")
            above.set_title(f"{name}\n{one['summary']['replica_seconds']:.0f} replica-seconds", fontsize=9)
            answered = [each for each in one["answers"] if each["status"] == 200]
            refused = [each["sent_s"] for each in one["answers"] if each["status"] != 200]
            below.plot([each["sent_s"] for each in answered], [each["took_s"] for each in answered], ".", markersize=2)
            below.plot(refused, [0] * len(refused), "x", color="#c03030", markersize=4, label="refused (429)")
            below.axhline(TARGET_S, color="#c03030", linewidth=0.8)
            below.set_xlabel("seconds")
        rows[0][0].legend(frameon=False)
        rows[1][0].legend(frameon=False)
        rows[0][0].set_ylabel("replicas")
        rows[1][0].set_ylabel("latency of a list, s")
        figure.savefig(PICTURE, metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    """Run one policy, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=())
    parser.add_argument("--lists", choices=SIZES, default="equal")
    parser.add_argument("--seed", type=int, default=11, help="of the moments at which lists come")
    parser.add_argument("--plot", action="store_true")
    parsed = parser.parse_args()
    heed_sigterm()
    for policy in parsed.policy:
        run(policy, parsed.lists, parsed.seed)
    if parsed.plot:
        draw(parsed.seed)


if __name__ == "__main__":
    main()
