"""One engine in this process, as a fleet of one."""

from __future__ import annotations

from collections import Counter

import numpy as np

from deployments.cli.local import LocalFleet
from reranker.config import EngineConfig
from reranker.engine.simulated import simulated_engine
from reranker.ranking.placement import Route
from tests.unit.steppers import QUICK, expected, shard


async def test_engine_here_answers_as_a_replica_does() -> None:
    engine = simulated_engine(EngineConfig(), QUICK)
    fleet = LocalFleet(engine)
    try:
        assert list(fleet.survey(1).loads) == [0]
        answer = await fleet.score(shard(1, 5), 1.0, 60, Route(Counter()))
        np.testing.assert_array_equal(answer.scores.logits, np.array(expected(shard(1, 5)), dtype=np.float32))
        assert answer.scores.scored.all()
        assert (answer.replica, answer.load.pending_tokens) == ("local", 0)
    finally:
        engine.shutdown()
