"""Two ways of holding vLLM in a replica, measured side by side: AsyncLLM, and its engine core in process on a thread.

    python -m benchmarks.engine_holding --shape nano --rounds 3 --out nano.json

Each round starts each holding in a fresh process, gives it the same shards (random token ids; a shared head, as the
pairs of one list have) and prints pairs per second. Rounds alternate, so that a busy moment of the machine hits both.
"""

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.models import QWEN_VOCABULARY, SHAPES, checkpoint
from benchmarks.results import say
from benchmarks.service import isolated
from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine, engine_args
from reranker.model.checkpoint import find_checkpoint
from reranker.types import FloatArray, Shard

HEAD_TOKENS, DOCUMENT_TOKENS, TAIL_TOKENS = 100, 84, 9  # 193 a pair: a short query, a 60-word document
WORKLOADS = {"16 x 20": (16, 20, 6), "1 x 1000": (1, 1000, 2), "1 x 1": (1, 1, 60)}  # at once, pairs, repeats
HOLDINGS = ("async_llm", "in_process")


class AsyncLlmHolding:
    """AsyncLLM as it is meant to be used, without a task per pair: add them all, then collect one after the other."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = {k: v for k, v in arguments.items() if k != "distributed_executor_backend"}
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._requests = 0

    async def score(self, shard: Shard) -> FloatArray:
        from vllm import PoolingParams

        parameters = PoolingParams(task="classify", use_activation=False)
        collectors = []
        for i in range(len(shard)):
            document = shard.tokens[shard.offsets[i] : shard.offsets[i + 1]]
            prompt = {"prompt_token_ids": np.concatenate([shard.head, document, shard.tail]).tolist()}
            self._requests += 1
            collectors.append(await self._engine.add_request(str(self._requests), prompt, parameters))
        return np.array([(await collector.get()).outputs.data.item() for collector in collectors], dtype=np.float32)

    def shutdown(self) -> None:
        """Stop the engine's process."""
        self._engine.shutdown()


def make_shard(pairs: int, rng: np.random.Generator) -> Shard:
    """Random token ids under one random head."""
    tokens = rng.integers(0, QWEN_VOCABULARY, (pairs, DOCUMENT_TOKENS), dtype=np.int32)
    head = rng.integers(0, QWEN_VOCABULARY, HEAD_TOKENS, dtype=np.int32)
    tail = np.arange(TAIL_TOKENS, dtype=np.int32)
    return Shard(head, tail, tokens.reshape(-1), np.arange(pairs + 1, dtype=np.int32) * DOCUMENT_TOKENS)


async def measure(engine: Any) -> dict[str, float]:
    """Pairs per second of each workload; for single pairs the median seconds."""
    rng = np.random.default_rng(0)
    await engine.score(make_shard(64, rng))  # warm
    results = {}
    for name, (concurrent, pairs, repeats) in WORKLOADS.items():
        times = []
        for _ in range(repeats):
            shards = [make_shard(pairs, rng) for _ in range(concurrent)]
            started = time.perf_counter()
            await asyncio.gather(*(engine.score(shard) for shard in shards))
            times.append(time.perf_counter() - started)
        results[name] = concurrent * pairs / statistics.median(times)
    return results


def measured(holding: str, folder: Path) -> dict[str, float]:
    model, config = find_checkpoint(ModelConfig(name=str(folder))), EngineConfig(device="cpu")

    async def go() -> dict[str, float]:
        engine: Any
        if holding == "async_llm":
            engine = AsyncLlmHolding(engine_args(model, config, device="cpu"))
        else:
            engine = VllmEngine(model, config, device="cpu")
        try:
            return await measure(engine)
        finally:
            engine.shutdown()

    return asyncio.run(go())


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="nano")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of the engine (%(default)s)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {holding: [] for holding in HOLDINGS}
    folder = checkpoint(arguments.shape, "bytes")
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": str(arguments.threads)}
    for number in range(arguments.rounds):
        for holding in HOLDINGS:
            rounds[holding].append(isolated(measured, holding, folder))
            say(f"round {number + 1} {holding:>10} { {k: round(v) for k, v in rounds[holding][-1].items()} }")
    for workload in WORKLOADS:
        medians = {h: statistics.median(r[workload] for r in rounds[h]) for h in HOLDINGS}
        ratio = medians["in_process"] / medians["async_llm"]
        print(f"{workload:>9}: " + ", ".join(f"{h} {v:.0f} pairs/s" for h, v in medians.items()) + f"; x{ratio:.2f}")
    if arguments.out:
        results.write(arguments.out, {"shape": arguments.shape, "threads": arguments.threads, "rounds": rounds})


if __name__ == "__main__":
    main()
