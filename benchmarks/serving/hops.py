"""What each hop costs a list, from client byte to client byte: times of one list at a time, and bytes.

No clock inside the service: its parts are told apart by what is asked of it. A request that stops at validation gives
the way in; a simulated engine that takes no time gives everything but the engine; the real one gives all. What the
ingress computes is measured stage by stage in this process (benchmarks/stages.py); the hop from the ingress to
a replica and back is what remains. So the rows add up to the whole, and their noise is in the last difference.
"""

import http.client
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

from benchmarks import models, results
from benchmarks.results import RESULTS, SCRATCH, describe, say
from benchmarks.service import running
from benchmarks.stages import shards_of, stages_ms
from benchmarks.texts import Lists
from reranker.transport.frames import pack_shard
from reranker.types import ShardTerms

OUT = RESULTS / "hops.json"
SIZES = {1: 150, 1_000: 15}
"""Documents of a list, and how often it is sent."""
_SHAPE, _WORDS = "nano", 60
_FREE = {"tokens_per_s": 1e12, "step_s": 0, "jitter": 0}


def run(*, quick: bool) -> None:
    """Measure, and write the result."""
    checkpoint = models.checkpoint(_SHAPE)
    found: dict[int, dict[str, float]] = {size: {} for size in SIZES}
    sizes: dict[int, dict[str, int]] = {size: {} for size in SIZES}
    for name, engine in {"simulated": {"simulated": _FREE}, "real": {"startup_check": False}}.items():
        args = {"model": {"name": str(checkpoint)}, "engine": engine}
        with running(args, 1, simulated=name == "simulated") as service:
            for size, repeats in SIZES.items():
                times, answer_bytes = _times(service.url, size, max(3, repeats // (5 if quick else 1)))
                found[size] |= {f"{name}, {what}": one for what, one in times.items()}
                sizes[size]["answer"] = answer_bytes
                say(f"{name}, {size} documents: {times}")
    result: dict[str, Any] = describe() | {"shape": _SHAPE, "quick": quick, "lists": {}}
    for size in SIZES:
        raw = Lists(0).body(size, _WORDS)
        shards = shards_of(checkpoint, raw)
        packed = sum(len(bytes(pack_shard(0, one, ShardTerms()))) for one in shards)
        sizes[size] |= {"request": len(raw), "shards": packed}
        hops = _hops(found[size], stages_ms(checkpoint, raw, replicas=1))
        result["lists"][str(size)] = {"hops_ms": hops, "bytes": sizes[size], "measured_ms": found[size]}
    out = SCRATCH / OUT.name if quick else OUT
    results.write(out, result)
    say(f"wrote {out}")


def _times(url: str, size: int, repeats: int) -> tuple[dict[str, float], int]:
    """Median milliseconds of each kind of request, and the bytes of an answer."""
    lists, answer = Lists(size), b""
    times: dict[str, list[float]] = {"nothing": [], "refused": [], "ranked": []}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    for number in range(-2, repeats):  # the first two are not counted
        kinds = {
            "nothing": ("GET", "/v1/models", None, 200),
            "refused": ("POST", "/v1/rerank", lists.body(size, _WORDS, top_n=-1), 400),
            "ranked": ("POST", "/v1/rerank", lists.body(size, _WORDS), 200),
        }
        for kind, (method, path, body, status) in kinds.items():
            started_s = time.perf_counter()
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if number >= 0:
                times[kind].append(time.perf_counter() - started_s)
            if response.status != status:
                raise RuntimeError(f"{kind}: {response.status} {answer[:200]!r}")
    connection.close()
    return {kind: round(statistics.median(one) * 1e3, 2) for kind, one in times.items()}, len(answer)


def _hops(found: dict[str, float], stages: dict[str, float]) -> dict[str, float]:
    tokenized = stages["tokenize and lay out"]
    planned = sum(stages[one] for one in ("plan", "cut out the shards"))
    answered = sum(stages[one] for one in ("merge", "rank", "answer", "write the answer as JSON"))
    to_replica = found["simulated, ranked"] - found["simulated, refused"] - tokenized - planned - answered
    hops = {
        "client, ingress, and back, with nothing to do": found["simulated, nothing"],
        "the body on its way in, read and validated": found["simulated, refused"] - found["simulated, nothing"],
        "tokenize": tokenized,
        "plan and cut into shards": planned,
        "to the replica and back": to_replica,
        "engine": found["real, ranked"] - found["simulated, ranked"],
        "merge, rank, write the answer": answered,
    }
    return {name: round(ms, 2) for name, ms in hops.items()} | {"all": found["real, ranked"]}
