"""Replicas that follow a load which rises, bursts and falls: our policy beside Ray's, on the same trace.

python -m benchmarks.autoscaling --policy queue_time default_tuned_1 --rounds 6   seven minutes each; adds to results
python -m benchmarks.autoscaling --policy queue_time --lists mixed      lists of 10, 60 and 150 documents, not all of 60
python -m benchmarks.autoscaling --table                  the results so far, over the rounds
python -m benchmarks.autoscaling --plot --seed 12         draws those of one round

Real Serve with simulated engines of 10,000 tokens a second. Replicas here start within seconds, where a GPU's take a
minute: times are not those of a cluster, but both policies have the same.
"""

import asyncio
import itertools
import json
import random
import statistics
import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import results
from benchmarks.load import Answer, Client, require_ok
from benchmarks.results import say
from benchmarks.service import ENGINE, Server, configuration, running
from benchmarks.texts import Lists
from deployments import ENGINE_DEPLOYMENT

RESULTS = results.RESULTS / "autoscaling.json"
SPEED = 10_000
"""Tokens per second of one engine."""
TARGET_S = 2.0
"""The latency that 95 of 100 lists are to stay below: a queue of 1 s, and the list's own time."""
WINDOW_S = 5
# (from second, engines that the load keeps busy); between two of them it changes evenly.
TRACE = [(0, 0.4), (60, 0.4), (150, 2.0), (180, 2.0), (180, 5.0), (225, 5.0), (225, 2.0), (285, 0.4), (360, 0.4)]
BURST_S = 180
SIZES = {"equal": ((60, 1.0),), "mixed": ((10, 0.50), (60, 0.35), (150, 0.15))}
"""Documents of a list, and how many of the lists have so many: about the same work a list on average."""
WORDS = 30
WARM_UP, LISTS = 20, 3_072
"""Lists before the trace, to learn what work a list is, and lists in all: none comes twice, as scores are cached."""
_BOUNDS = {"min_replicas": 1, "max_replicas": 8, "metrics_interval_s": 1}
_KEEP_S = 30
"""In place of minutes, as the trace is short: for both policies."""


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


def summary(answers: list[dict[str, float]], counts: list[tuple[float, int]]) -> dict[str, Any]:
    """The figures of a run: of `sent_s`, `took_s` and `status` of each list, and the engines there were at moments."""
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
    return {
        "lists": len(answers),
        "refused": sum(one["status"] == 429 for one in answers),
        "failed": sum(one["status"] not in (200, 429) for one in answers),
        "p95_s": round(statistics.quantiles(ranked, n=20)[-1], 3),
        "burst_first_scaled_after_s": round(scaled_s - BURST_S, 1) if judged else None,
        "seconds_in_target_after_it": round(statistics.mean(judged), 3) if judged else None,
        "seconds_in_target": round(statistics.mean(p95 <= TARGET_S for _, p95 in seconds), 3),
        "replica_seconds": round(sum((end - start) * engines for (start, engines), (end, _) in pairs), 1),
        "most_replicas": max(engines for _, engines in counts),
    }


def _ours(target_queue_s: float) -> dict[str, Any]:
    kwargs = {"target_queue_s": target_queue_s, "keep_s": _KEEP_S}
    policy = {"policy_function": "deployments.autoscaling:QueueTime", "policy_kwargs": kwargs}
    return _BOUNDS | {"policy": policy, "look_back_period_s": 5, "upscale_delay_s": 0, "downscale_delay_s": 0}


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


def _work_tokens(service: Server) -> float:
    """Tokens that engines have computed so far; of a shard's head once, as the engine does."""
    page = httpx.get(f"{service.url}/metrics", timeout=30).raise_for_status().text
    families = text_string_to_metric_families(page)
    return sum(one.value for family in families for one in family.samples if one.name == "reranker_scored_tokens_total")


def _wait_for_one_engine(service: Server) -> None:
    """What the first lists brought is to be gone before the trace, and it may still be coming."""
    time.sleep(2 * WINDOW_S)
    while len(service.processes(ENGINE)) > 1:
        time.sleep(0.5)
    time.sleep(WINDOW_S)


async def _play(service: Server, kind: str, seed: int) -> tuple[list[Answer], list[tuple[float, int]], float]:
    """Send the trace, and count the engines' processes twice a second; returns the latter with their moments."""
    lists, draw = Lists(seed=7), random.Random(13)
    sizes, shares = zip(*SIZES[kind], strict=True)
    bodies = [lists.body(size, WORDS) for size in draw.choices(sizes, shares, k=LISTS)]
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
                engines = await asyncio.to_thread(service.processes, ENGINE)
                counts.append((time.perf_counter() - started_s, len(engines)))
                await asyncio.sleep(0.5)

        counting = asyncio.create_task(count())
        answers, _ = await client.at_moments(bodies[WARM_UP : WARM_UP + len(plan)], plan)
        await counting
    return answers, counts, started_s


def run(name: str, kind: str, seed: int) -> None:
    """Play the trace with one policy, and add what came out to the results; a second run stands beside the first."""
    config = configuration({"engine": {"max_batch_tokens": 1_000, "simulated": {"tokens_per_s": SPEED, "seed": 1}}})
    [engine] = [one for one in config["applications"][0]["deployments"] if one["name"] == ENGINE_DEPLOYMENT]
    engine["autoscaling_config"] = POLICIES[name]
    with running(config, 1, count=False) as service:
        answers, counts, started_s = asyncio.run(_play(service, kind, seed))
    raw = [
        {"sent_s": round(one.sent_s - started_s, 2), "took_s": round(one.took_s, 3), "status": one.status}
        for one in answers
    ]
    rounded = [(round(at_s, 1), engines) for at_s, engines in counts]
    found = summary(raw, rounded)
    say(f"{name}: {found}")
    old = results.read(RESULTS)
    key = name if kind == "equal" else f"{name}, {kind} lists"
    runs = 1 + sum(one.partition(" (")[0] == key for one in old)
    new = {"policy": POLICIES[name], "seed": seed, "summary": found, "replicas": rounded, "answers": raw}
    text = json.dumps(old | {key if runs == 1 else f"{key} ({runs})": new}, separators=(",", ":"))
    RESULTS.write_text(text + "\n", encoding="utf-8")


def tabulate() -> None:
    """Print the means over the rounds of each policy as a table in Markdown; p95 and refusals are of all lists."""
    policies: dict[str, list[dict[str, Any]]] = {}
    for name, one in results.read(RESULTS).items():
        policies.setdefault(name.partition(" (")[0], []).append(one)
    print("| policy | rounds | p95, s | refused | replica-seconds | in target | after the burst's scale-up |")
    for name, runs in policies.items():
        answers = [answer for one in runs for answer in one["answers"]]
        ranked = [answer["took_s"] for answer in answers if answer["status"] == 200]
        found = [one["summary"] for one in runs]
        cost = [one["replica_seconds"] for one in found]
        error = statistics.stdev(cost) / len(cost) ** 0.5 if len(cost) > 1 else 0
        after = [one["seconds_in_target_after_it"] for one in found if one["seconds_in_target_after_it"] is not None]
        held = f"{statistics.mean(after):.1%} ({sum(one >= 0.95 for one in after)} of {len(after)})" if after else "–"
        print(
            f"| {name} | {len(runs)} | {statistics.quantiles(ranked, n=20)[-1]:.2f} |"
            f" {sum(one['refused'] for one in found) / len(answers):.1%} | {statistics.mean(cost):.0f} ± {error:.0f} |"
            f" {statistics.mean(one['seconds_in_target'] for one in found):.1%} | {held} |"
        )


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=())
    parser.add_argument("--lists", choices=SIZES, default="equal")
    parser.add_argument("--seed", type=int, default=11, help="of the moments at which lists come; of the first round's")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed, and all the policies in turn")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        for policy in arguments.policy:
            run(policy, arguments.lists, seed)
    if arguments.table:
        tabulate()
    if arguments.plot:
        from benchmarks.plots import draw_autoscaling

        drawn = {name: one for name, one in results.read(RESULTS).items() if one["seed"] == arguments.seed}
        draw_autoscaling(drawn, RESULTS.with_suffix(".svg"))


if __name__ == "__main__":
    main()
