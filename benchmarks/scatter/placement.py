"""Placement: do the 4 shards of one list reach 4 idle replicas, every time?

100 lists of 4 shards, one after the other, on 4 simulated replicas that have nothing to do; each answer says how many
replicas worked on it. With Ray's default router, which draws two replicas at random for each shard and takes the one
with the shorter queue, 6 of 100 did (fa69ca6; shards have gone past Ray's routers since).

Limit: 100 of 100 lists on 4 replicas.
"""

import asyncio
from collections import Counter
from typing import Any

from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import running
from benchmarks.texts import Lists

REPLICAS, DOCUMENTS, WORDS = 4, 120, 100
"""About 12,000 tokens: enough for 4 shards of more than planning.min_shard_tokens, one portion."""


def run(quick: bool) -> Result:
    lists = 20 if quick else 100
    # Quick devices: an idle one is what counts here. Without hedging, which would add a replica to some lists.
    args: dict[str, Any] = {"engine": {"simulated": {"tokens_per_s": 200_000}}, "scatter": {"hedge_after": None}}
    result = Result(
        "Do the 4 shards of one list reach 4 idle replicas, every time?",
        {"lists": lists, "replicas": REPLICAS, "documents": DOCUMENTS, "words_per_document": WORDS, "args": args},
    )
    with running(args, REPLICAS) as service:
        answers = asyncio.run(_measure(service.url, lists))
    metas = [answer.json()["meta"] for answer in answers]
    reached = Counter(meta["replicas"] for meta in metas)
    result.raw |= {
        "lists_by_replicas_reached": {str(count): reached[count] for count in sorted(reached)},
        "shards": dict(Counter(str(meta["shards"]) for meta in metas)),
        "latency_s": percentiles(took(answers)),
    }
    say(result.raw)
    result.check("share of the lists that reached 4 of 4 replicas", reached[REPLICAS] / lists, ">=", 1.0)
    return result


async def _measure(url: str, lists: int) -> list[Answer]:
    draw = Lists(1)
    bodies = [draw.body(DOCUMENTS, WORDS) for _ in range(lists + 4)]
    async with Client(url) as client:
        require_ok(await client.one_by_one(bodies[lists:]))  # the first calls find their way
        answers = await client.one_by_one(bodies[:lists], pause_s=0.02)
    require_ok(answers)
    return answers
