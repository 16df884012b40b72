"""An engine in this process, for the commands that need no service."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reranker.config import RerankerConfig
from reranker.engine.loop import Engine
from reranker.engine.vllm import VllmEngine, environment
from reranker.model.checkpoint import Checkpoint, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking.placement import Placement
from reranker.types import Shard, ShardScores, ShardTerms


@dataclass(frozen=True, slots=True)
class LocalReranker:
    """A model loaded here. Close it when done: `with contextlib.closing(open_local(config)) as local`."""

    checkpoint: Checkpoint
    renderer: PromptRenderer
    engine: Engine

    def close(self) -> None:
        """Stop the engine and free its device."""
        self.engine.shutdown()


class LocalFleet:
    """One engine in this process, as a fleet of one. A `scatter.Fleet`."""

    def __init__(self, engine: Engine) -> None:
        """Send shards to this engine."""
        self._engine = engine
        self.placement = Placement()
        self.placement.set_live(["local"])

    async def ready(self) -> None:
        """It always is."""

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Score one shard here."""
        scores = await self._engine.score_within(shard, terms.weight, terms.timeout_s)
        return ShardScores(scores, replica, self._engine.load)


def open_local(config: RerankerConfig) -> LocalReranker:
    """Load the model in this process; takes as long as a replica's start.

    Raises:
        ConfigurationError: The model is not there, or not one we can serve.
        Exception: Whatever vLLM raises when it cannot load the model.
    """
    checkpoint = find_checkpoint(config.model)
    renderer = PromptRenderer.of(checkpoint, config.model)
    variables = environment(config.engine.cpus, config.engine.cpu_threads)
    os.environ.update(variables | dict(os.environ))
    where = device() if config.engine.device == "auto" else config.engine.device
    engine = VllmEngine(checkpoint, config.engine, device=where)
    return LocalReranker(checkpoint, renderer, engine)


def device() -> str:
    """The device of this machine, for `device: auto`."""
    return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
