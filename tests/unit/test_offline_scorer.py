"""A partition is scored as the service scores a list: same prompts, same engine, same arithmetic, equal scores."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from deployments.cli.rankers import LocalFleet
from reranker.config import LongDocumentsConfig, ModelConfig, RerankerConfig
from reranker.engine.loop import Engine
from reranker.engine.simulated import simulated_engine
from reranker.errors import EngineFailedError, InvalidRequestError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import PromptRenderer
from reranker.offline import Row, scorer
from reranker.offline.scorer import PartitionScorer, for_throughput, report_lines, summarize
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, RankRequest
from tests.unit.steppers import QUICK, GatedStepper

CONFIG = for_throughput(
    RerankerConfig(
        model=ModelConfig(max_pair_tokens=200), long_documents=LongDocumentsConfig(mode="windows", overlap_tokens=10)
    )
)
RENDERER = PromptRenderer(DEMO_MODEL, 200, CONFIG.model.instruction)
DOCUMENTS = ["", "Beijing is the capital.", "北京", "long " * 400, "<|im_end|>"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = simulated_engine(CONFIG.engine, QUICK)
    yield engine
    engine.shutdown()


async def _score(engine: Engine, rows: list[Row], instruction: str | None = None) -> list[Row]:
    scored, _ = await PartitionScorer(engine, RENDERER, CONFIG, instruction, "").score(iter(rows), str)
    return scored


async def _as_the_service(engine: Engine, query: str, instruction: str) -> dict[int, tuple[float, float, bool]]:
    ranker = Ranker(CONFIG, RENDERER, LocalFleet(engine))
    request = RankRequest(query, tuple(DOCUMENTS), instruction=instruction)
    [ranking] = await ranker.rank([request], ANONYMOUS, RequestRecord())
    return {one.index: (one.relevance_score, one.log_odds, one.truncated) for one in ranking.results}


async def test_scores_are_exactly_the_services(engine: Engine) -> None:
    queries = ["capital of China", "什么是重力?"]
    rows = [Row(i, (str(i),), queries[i % 2], DOCUMENTS[i // 2]) for i in range(2 * len(DOCUMENTS))]
    scored = await _score(engine, rows, "@medical")
    assert [one.number for one in scored] == list(range(len(rows)))
    for i, query in enumerate(queries):
        served = await _as_the_service(engine, query, "@medical")
        assert {one.number // 2: (one.score, one.log_odds, one.truncated) for one in scored[i::2]} == served


async def test_rows_with_problems_keep_their_place(engine: Engine) -> None:
    rows = [
        Row(3, ("a",), error="missing_query", message="none"),
        Row(4, ("b",), "too long " * 300, "d"),
        Row(5, ("c",), "q", "d"),
        Row(6, ("d",), "too long " * 300, "e"),
    ]
    scored = await _score(engine, rows)
    assert [(one.number, one.keys, one.score is None) for one in scored] == [
        (3, ("a",), True),
        (4, ("b",), True),
        (5, ("c",), False),
        (6, ("d",), True),
    ]
    assert [one.error for one in scored] == [
        "missing_query",
        "query_too_long",
        None,
        "query_too_long",
    ]


async def test_logits_that_are_no_numbers_are_their_rows_problem(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = engine.score

    async def spoilt(shard: object) -> np.ndarray:
        logits = await honest(shard)  # type: ignore[arg-type]
        logits[1] = np.nan
        return logits

    monkeypatch.setattr(engine, "score", spoilt)
    scored = await _score(engine, [Row(i, (), "q", f"d{i}") for i in range(3)])
    assert [one.error for one in scored] == [None, "invalid_score", None]


async def test_rows_of_a_query_go_to_the_engine_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head is computed once then, and found in the prefix cache by the others."""
    monkeypatch.setattr(scorer, "_CHUNK_ROWS", 4)
    monkeypatch.setattr(scorer, "_GATHERED_CHARACTERS", 40)
    rows = [Row(i, (), "ab"[i % 2], "dd") for i in range(20)]
    chunks = list(scorer._chunks(iter(rows)))
    assert sorted(row.number for chunk in chunks for row in chunk) == list(range(20))
    assert [len(chunk) for chunk in chunks] == [4, 4, 4, 2, 4, 2]
    assert ["".join(row.query for row in chunk) for chunk in chunks[:4]] == ["aaaa", "aaab", "bbbb", "bb"]


async def test_an_engine_that_fails_is_said_so() -> None:
    stepper = GatedStepper()
    stepper.fail = True
    stepper.let()
    engine = Engine(lambda: stepper)
    with pytest.raises(EngineFailedError):
        await _score(engine, [Row(i, (), f"q{i}", "d") for i in range(3)])
    engine.shutdown()


def test_an_instruction_that_is_unknown_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="no instruction of this name"):
        PartitionScorer(engine, RENDERER, CONFIG, "@cooking", "")


async def test_costs_say_what_was_scored_and_how_long_the_engine_had_work(engine: Engine) -> None:
    partition_scorer, began_s = PartitionScorer(engine, RENDERER, CONFIG, None, ""), time.monotonic()
    await partition_scorer.score(iter([Row(0, (), "q", "d")]), str)
    [row], costs = await partition_scorer.score(iter([Row(1, (), "q", "d")]), str)
    assert (row.query, row.document, row.error) == ("", "", None)
    assert costs["pairs"] == 1
    assert 0 < costs["work_tokens"] <= costs["prompt_tokens"] <= 200
    assert 0 < costs["busy_s"] <= time.monotonic() - began_s


def test_report_sums_up_partitions_and_engines() -> None:
    spent = {"pairs": 10, "prompt_tokens": 300, "work_tokens": 200, "read_s": 1, "render_s": 2, "write_s": 3, "rows": 9}
    records = [
        spent | {"begun_s": 101, "done_s": 120, "engine": "a", "ready_s": 100, "busy_s": 15},
        spent | {"begun_s": 100, "done_s": 110, "engine": "a", "ready_s": 100, "busy_s": 9},
        spent | {"begun_s": 105, "done_s": 115, "engine": "b", "ready_s": 95, "busy_s": 17},
    ]
    report = summarize(records, 50, 2, started_s=90, finish_s=1)
    assert [report[name] for name in ("start_s", "scoring_s", "engines", "rows_now")] == [10, 20, 2, 27]
    assert (report["pairs_per_s"], report["engine_busy"]) == (1.5, 0.8)
    assert report_lines(report)[1] == "1.5 pairs/s, 45 tokens/s on 2 engines, at work 80% of the time"
    nothing = summarize([], 50, 2, started_s=90, finish_s=1)
    assert nothing["pairs_per_s"] is None
    assert report_lines(nothing) == ["50 rows, 2 without a score (errors.jsonl); 0 scored now"]
