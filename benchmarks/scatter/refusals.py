"""What a refusal costs: as the client sees it, in processor time of each part, and in the admission alone.

Lists are refused while one huge list is being scored: it fills the queue alone, and once it is tokenized only the
replicas have to do with it. What the parts use when idle is subtracted.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from typing import Any

from benchmarks.scatter.client import Answer, Client, require_ok
from benchmarks.scatter.report import percentiles
from benchmarks.scatter.service import Service
from benchmarks.scatter.workload import Lists
from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import OverloadedError
from reranker.ranking.admission import Admission
from reranker.types import ReplicaLoad

_CALLS, _REPEATS = 20_000, 5
_IDLE_S, _MEASURED_S = 3.0, 1.5
_HUGE_DOCUMENTS, _LONG_DOCUMENTS = 9_000, 1_000


def microseconds_of_a_refusal() -> float:
    """Of `Admission.require_any_room` with a full queue; the median of a few series."""
    admission = Admission(AdmissionConfig(), PrioritiesConfig())
    full = ReplicaLoad(pending_tokens=10_000_000, tokens_per_s=80_000)
    times_us = []
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        for _ in range(_CALLS):
            with contextlib.suppress(OverloadedError):
                admission.require_any_room(12_000, full)
        times_us.append((time.perf_counter() - started_s) / _CALLS * 1e6)
    return statistics.median(times_us)


async def costs(service: Service, client: Client, lists: Lists, documents: int, words: int) -> dict[str, Any]:
    """Measure lists ranked, lists refused, and long lists refused, one after the other.

    Args:
        service: With nothing to do now.
        client: Its client.
        lists: Draws them.
        documents: Of a list.
        words: Of a document.
    """
    before_s = service.cpu_s_by_part()
    await asyncio.sleep(_IDLE_S)
    idle_cores = {part: (spent_s - before_s[part]) / _IDLE_S for part, spent_s in service.cpu_s_by_part().items()}

    async def measure(name: str, bodies: list[bytes], *, status: int) -> dict[str, Any]:
        answers: list[Answer] = []
        before_s, start_s = service.cpu_s_by_part(), time.perf_counter()
        while (lasted_s := time.perf_counter() - start_s) < _MEASURED_S:
            answers.append(await client.rerank(bodies[len(answers) % len(bodies)]))
        after_s = service.cpu_s_by_part()
        if any(answer.status != status for answer in answers):
            raise RuntimeError(f"{name}: not all answered {status}")
        return {
            "bytes": len(bodies[0]),
            "took_s": percentiles([answer.took_s for answer in answers]),
            "cpu_s_per_list": {
                part: (after_s[part] - before_s[part] - idle_cores[part] * lasted_s) / len(answers) for part in after_s
            },
        }

    short = [lists.body(documents, words) for _ in range(40)]
    long = [lists.body(_LONG_DOCUMENTS, words) for _ in range(4)]
    found = {"idle_cores": idle_cores, "ranked": await measure("ranked", short, status=200)}
    huge = asyncio.create_task(client.rerank(lists.body(_HUGE_DOCUMENTS, words)))
    while await _pending_tokens(service) < _HUGE_DOCUMENTS * words / 2:  # noqa: ASYNC110 - it can only be asked
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # now all of it is tokenized and sent off
    found["refused"] = await measure("refused", short, status=429)
    found["refused, long lists"] = await measure("refused, long lists", long, status=429)
    require_ok([await huge])
    return found


async def _pending_tokens(service: Service) -> int:
    load = await asyncio.to_thread(service.load)
    return sum(one["pending_tokens"] for one in load["replicas"])
