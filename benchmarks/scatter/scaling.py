"""Scaling: one list of 1,000 documents (about 130 tokens each, template included) on 1, 2, 4 and 8 idle replicas.

Simulated replicas at the default cost, so that the figure is about what we add: reading the request, tokenizing,
planning, hops, merging, the answer. Tokenizing is that of the real Qwen3 tokenizer, on this machine's cores, which the
simulated replicas and the load generator share.

Limit: the median latency on 8 replicas is at most 1.15 times an eighth of that on one, plus 15 ms. Several lists one
after the other per size, no two the same; sizes in alternating rounds, each on a service of its own.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

from benchmarks.scatter.client import Client, require_ok
from benchmarks.scatter.report import Result, percentiles, say
from benchmarks.scatter.service import cpu_s, running
from benchmarks.scatter.stages import device_s, stages_ms, work_tokens
from benchmarks.scatter.workload import Lists, qwen_folder

SIZES = (1, 2, 4, 8)
DOCUMENTS, WORDS = 1_000, 91
"""91 words are 122 tokens of Qwen3's in the mean; 9 more are the template's behind the document."""
_PAUSE_S = 0.3


def run(folder: Path, *, quick: bool) -> Result:
    """Measure every size; see the module's first lines."""
    rounds, lists_per_round = (1, 4) if quick else (3, 8)
    args: dict[str, Any] = {"model": {"name": str(qwen_folder(folder))}}
    result = Result(
        "How much faster do 8 replicas answer one list of 1,000 documents than one?",
        {"documents": DOCUMENTS, "words_per_document": WORDS, "rounds": rounds, "lists_per_round": lists_per_round}
        | {"replicas": SIZES, "simulated": "default cost", "tokenizer": "Qwen3"},
    )
    latencies: dict[int, list[float]] = {size: [] for size in SIZES}
    work: dict[int, dict[str, float]] = {}
    for number in range(rounds):
        for size in SIZES:
            with running(folder, args, size) as service:
                lists = Lists(1_000 * number + size)
                bodies = [lists.body(DOCUMENTS, WORDS) for _ in range(lists_per_round)]
                warm = [lists.body(DOCUMENTS, WORDS) for _ in range(2)]

                async def measure(url: str, warm: list[bytes], bodies: list[bytes]) -> tuple[list[float], float, Any]:
                    async with Client(url) as client:
                        require_ok(await client.one_by_one(warm, _PAUSE_S))
                        before_s = cpu_s(service.fronts())
                        answers = await client.one_by_one(bodies, _PAUSE_S)
                        spent_s = cpu_s(service.fronts()) - before_s
                        require_ok(answers)
                        return [one.took_s for one in answers], spent_s / len(bodies), answers[-1].json()

                took_s, front_cpu_s, last = asyncio.run(measure(service.url, warm, bodies))
            latencies[size] += took_s
            work[size] = {"shards": last["meta"]["shards"], "front_cpu_s_per_list": front_cpu_s}
            median_ms = statistics.median(took_s) * 1e3
            say(f"round {number + 1}, {size} replicas: median {median_ms:.0f} ms, meta {last['meta']}")
    _conclude(result, latencies, work, qwen_folder(folder))
    return result


def _conclude(
    result: Result, latencies: dict[int, list[float]], work: dict[int, dict[str, float]], model: Path
) -> None:
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
    result.raw["stages_ms"] = stages
    result.raw["speedup"] = {str(size): median[1] / median[size] for size in SIZES}
    result.check("latency of 8 replicas", median[8], "<=", 1.15 * median[1] / 8 + 0.015, "s")
