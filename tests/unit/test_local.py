"""One engine in this process, as a fleet of one."""

from __future__ import annotations

import numpy as np

from deployments.cli.rankers import LocalFleet
from reranker.config import EngineConfig
from reranker.engine.simulated import simulated_engine
from reranker.types import ShardTerms
from tests.unit.steppers import QUICK, expected, shard


async def test_engine_here_answers_as_a_replica_does() -> None:
    engine = simulated_engine(EngineConfig(), QUICK)
    fleet = LocalFleet(engine)
    try:
        assert list(fleet.placement.shortlist(1).replicas) == ["local"]
        await fleet.ready()
        answer = await fleet.score("local", shard(1, 5), ShardTerms(timeout_s=60))
        np.testing.assert_array_equal(answer.scores.logits, np.array(expected(shard(1, 5)), dtype=np.float32))
        assert answer.scores.scored.all()
        assert (answer.replica, answer.load.pending_tokens) == ("local", 0)
    finally:
        engine.shutdown()
