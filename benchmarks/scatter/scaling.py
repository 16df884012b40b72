"""Scaling: one list of 1,000 documents (about 130 tokens each, template included) on 1, 2, 4 and 8 idle replicas.

Simulated replicas at the default cost, so that the figure is about what we add: reading the request, tokenizing,
planning, hops, merging, the answer. Tokenizing is that of the real Qwen3 tokenizer, on this machine's cores, which the
simulated replicas and the load generator share.

Limit: the median latency on 8 replicas is at most 1.15 times an eighth of that on one, plus 15 ms. Several lists one
after the other per size, no two the same; sizes in alternating rounds, each on a service of its own.
"""

import asyncio
import itertools
import statistics
from typing import Any

from benchmarks import models
from benchmarks.load import Client, require_ok
from benchmarks.results import Result, percentiles, say
from benchmarks.service import INGRESS, Server, running
from benchmarks.stages import device_s, stages_ms, work_tokens
from benchmarks.texts import Lists

SIZES = (1, 2, 4, 8)
DOCUMENTS, WORDS = 1_000, 91
"""91 words are 122 tokens of Qwen3's in the mean; 9 more are the template's behind the document."""
_PAUSE_S = 0.3


def run(quick: bool) -> Result:
    rounds, lists_per_round = (1, 4) if quick else (3, 8)
    model = models.checkpoint("nano")
    result = Result(
        "How much faster do 8 replicas answer one list of 1,000 documents than one?",
        {"documents": DOCUMENTS, "words_per_document": WORDS, "rounds": rounds, "lists_per_round": lists_per_round}
        | {"replicas": SIZES, "simulated": "default cost", "tokenizer": "Qwen3"},
    )
    latencies: dict[int, list[float]] = {size: [] for size in SIZES}
    work: dict[int, dict[str, float]] = {}
    for number, size in itertools.product(range(rounds), SIZES):
        with running({"model": {"name": str(model)}}, size) as service:
            took_s, front_cpu_s, meta = asyncio.run(_measure(service, Lists(1_000 * number + size), lists_per_round))
        latencies[size] += took_s
        work[size] = {"shards": meta["shards"], "front_cpu_s_per_list": front_cpu_s}
        say(f"round {number + 1}, {size} replicas: median {statistics.median(took_s) * 1e3:.0f} ms, meta {meta}")
    median = {size: statistics.median(times) for size, times in latencies.items()}
    sample = Lists(99).body(DOCUMENTS, WORDS)
    tokens = work_tokens(model, sample)
    result.parameters["tokens_per_document"] = tokens / DOCUMENTS
    stages = stages_ms(model, sample)
    say(f"stages, each alone in one process, ms: {stages}")
    for size in SIZES:
        result.raw[f"{size} replicas"] = {
            "latency_s": percentiles(latencies[size]),
            "devices_alone_s": device_s(tokens, size),
            "besides_s": median[size] - device_s(tokens, size),
            **work[size],
        }
    result.raw |= {"stages_ms": stages, "speedup": {str(size): median[1] / median[size] for size in SIZES}}
    result.check("latency of 8 replicas", median[8], "<=", 1.15 * median[1] / 8 + 0.015, "s")
    return result


async def _measure(service: Server, lists: Lists, count: int) -> tuple[list[float], float, Any]:
    """Seconds of each list, the ingress' processor seconds for one, and the last one's meta data."""
    bodies = [lists.body(DOCUMENTS, WORDS) for _ in range(count)]
    async with Client(service.url) as client:
        require_ok(await client.one_by_one([lists.body(DOCUMENTS, WORDS) for _ in range(2)], _PAUSE_S))
        before_s = service.cpu_s()[INGRESS]
        answers = await client.one_by_one(bodies, _PAUSE_S)
        spent_s = service.cpu_s()[INGRESS] - before_s
    require_ok(answers)
    return [one.took_s for one in answers], spent_s / count, answers[-1].json()["meta"]
