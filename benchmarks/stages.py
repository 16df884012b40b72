"""What a list costs in the ingress, stage by stage, and on the imagined devices: each stage alone, in this process."""

import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson

from reranker.config import EngineConfig, LimitsConfig, ModelConfig, PlanningConfig, SimulatedConfig
from reranker.dialects.parse import parse
from reranker.engine.cards import settings_for
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking import scoring
from reranker.ranking.planning import plan
from reranker.record import RequestRecord
from reranker.transport import frames
from reranker.transport.frames import FrameReader
from reranker.types import EngineScores, Ranking, RankRequest, Shard, ShardTerms

T = TypeVar("T")
_REPEATS = 7


def milliseconds(work: Callable[[], object], times: int) -> list[float]:
    """What it takes, so many times."""
    moments = [time.perf_counter()]
    for _ in range(times):
        work()
        moments.append(time.perf_counter())
    return [(end - start) * 1e3 for start, end in itertools.pairwise(moments)]


@cache
def _renderer(model: Path) -> PromptRenderer:
    config = ModelConfig(name=str(model))
    return PromptRenderer.of(find_checkpoint(config), config)


def _prompts(model: Path, request: RankRequest) -> Shard:
    return _renderer(model).render(request.query, request.documents).prompts


def stages_ms(model: Path, raw: bytes, replicas: int = 8) -> dict[str, float]:
    """Milliseconds of each stage of a body, planned for so many idle replicas: the median of a few."""
    found: dict[str, float] = {}

    def timed(name: str, stage: Callable[[], T]) -> T:
        found[name] = round(statistics.median(milliseconds(stage, _REPEATS)), 2)
        return stage()

    call = timed("read the body", lambda: parse(raw, None, LimitsConfig()))
    [request] = call.lists
    prompts = timed("tokenize and lay out", lambda: _prompts(model, request))
    shards = timed("plan", lambda: plan(prompts.pair_tokens, [0] * replicas, PlanningConfig()))
    parts = timed("cut out the shards", lambda: [prompts.select(indices) for indices in shards])
    sent = timed("pack the shards", lambda: [bytes(frames.pack_shard(0, part, ShardTerms())) for part in parts])
    timed("unpack the shards", lambda: [frames.unpack_shard(one) for part in sent for one in FrameReader().feed(part)])
    scores = [EngineScores(np.ones(len(s), np.float32), np.ones(len(s), np.bool_)) for s in shards]
    merged = timed("merge", lambda: scoring.merge(list(zip(shards, scores, strict=True)), len(prompts)))
    ones = np.ones(len(prompts), dtype=np.intp)
    ranked = timed("rank", lambda: scoring.rank(merged.logits.astype(np.float64), frozenset(), ones))
    ranking = Ranking(ranked, prompt_tokens=prompts.prompt_tokens)
    answer = timed("answer", lambda: call.write([ranking], "simulated", RequestRecord()))
    timed("write the answer as JSON", lambda: orjson.dumps(answer))
    return found


def work_tokens(model: Path, raw: bytes) -> int:
    """Tokens the engines compute for a list, on one replica."""
    [request] = parse(raw, None, LimitsConfig()).lists
    return _prompts(model, request).work_tokens


def shards_of(model: Path, raw: bytes) -> list[Shard]:
    """A list as it is sent to one idle replica."""
    [request] = parse(raw, None, LimitsConfig()).lists
    prompts = _prompts(model, request)
    return [prompts.select(indices) for indices in plan(prompts.pair_tokens, [0], PlanningConfig())]


def device_s(tokens: int, replicas: int) -> float:
    """Seconds a list of so many tokens takes on imagined devices if all get the same and nothing else takes time."""
    costs, limits = SimulatedConfig(), EngineConfig()
    step_tokens = settings_for(limits, None).max_batch_tokens
    if limits.target_step_s is not None:
        step_tokens = min(step_tokens, int((limits.target_step_s - costs.step_s) * costs.tokens_per_s))
    share = tokens / replicas
    return share / costs.tokens_per_s + math.ceil(share / step_tokens) * costs.step_s
