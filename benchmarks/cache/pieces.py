"""What each piece of a known list costs, in this process: so that the key is made of texts and not of tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.cache.redis import redis_server
from benchmarks.scatter.report import Result, say
from benchmarks.serving.models import checkpoint
from benchmarks.serving.texts import make_list
from reranker.cache.entry import Entry, pack, unpack
from reranker.cache.keys import ListTerms, document_keys
from reranker.cache.memory import MemoryStore
from reranker.cache.redis import RedisLink, RedisStore, redis_client
from reranker.config import RedisConfig
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.types import EngineScores

DOCUMENTS = 1_000


def run(folder: Path, *, quick: bool) -> Result:
    """Time every piece; the best of several."""
    times = 3 if quick else 15
    result = Result("What does each piece of a known list cost?", {"documents": DOCUMENTS, "words": 60, "times": times})
    texts = make_list("words", DOCUMENTS, "cache")
    renderer = PromptRenderer(checkpoint("small"), 8_192, "instruction")
    terms = ListTerms("model", renderer.fingerprint, "", "instruction", texts.query, CuttingPolicy())
    found: dict[str, float] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        found[name] = min(_seconds(call) for _ in range(times)) * 1e3
        say(f"{name}: {found[name]:.2f} ms")

    timed("tokenize, and lay out prompts", lambda: renderer.render(texts.query, texts.documents))
    timed("make keys", lambda: document_keys(terms, texts.documents))
    rendered = renderer.render(texts.query, texts.documents)
    pairs = len(rendered.prompts)
    scores = EngineScores(np.linspace(-5, 5, pairs, dtype=np.float32), np.ones(pairs, dtype=np.bool_))
    timed("pack scores", lambda: pack(rendered, scores))
    keys = document_keys(terms, texts.documents)
    entries = {key: entry for key, entry in zip(keys, pack(rendered, scores), strict=True) if entry is not None}
    timed("unpack scores", lambda: unpack(list(entries.values())))
    memory = MemoryStore(2**26)
    timed("write to memory", lambda: memory.put_many(entries))
    timed("read from memory", lambda: asyncio.run(memory.get_many(keys)))
    asyncio.run(_redis(folder, entries, times, found))
    result.raw = {"ms": found, "tokens": rendered.prompts.prompt_tokens}
    ratio = found["tokenize, and lay out prompts"] / found["make keys"]
    result.check("keys of texts against tokenizing, times faster", ratio, ">=", 10)
    return result


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


async def _redis(folder: Path, entries: dict[bytes, Entry], times: int, found: dict[str, float]) -> None:
    with redis_server(folder) as url:
        config = RedisConfig(url=url, budget_s=2)
        store = RedisStore(RedisLink(redis_client(config, None), config.budget_s, "benchmark"), config)
        keys = list(entries)
        await store.get_many(keys)
        for name in ("write to Redis, in the background", "read from Redis"):
            took_s = []
            for _ in range(times):
                started_s = time.perf_counter()
                if name.startswith("write"):
                    store.put_many(entries)
                    await store.written()
                else:
                    assert None not in await store.get_many(keys)  # noqa: S101 - else it would be quick
                took_s.append(time.perf_counter() - started_s)
            found[name] = min(took_s) * 1e3
            say(f"{name}: {found[name]:.2f} ms")
        await store.aclose()
