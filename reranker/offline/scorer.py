"""Score a partition as a replica scores a list (same prompts, same arithmetic), and report what that took.

While the engine has some rows, the next are read and rendered. Memory: the texts of a few chunks of rows, and the rows
that are gathered to bring those of the same query together.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from reranker.config import RerankerConfig
from reranker.engine.loop import Engine
from reranker.errors import InvalidRequestError, QueryTooLongError
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.offline import Row
from reranker.ranking import scoring
from reranker.types import RankRequest, RenderedList

_CHUNK_ROWS, _CHUNK_CHARACTERS = 512, 2_000_000
"""What is rendered and goes to the engine together."""
_GATHERED_CHARACTERS = 32_000_000
"""Among so many, rows of one query are brought together; about a whole partition."""
_IN_ENGINE = 2
"""Chunks of a partition in the engine: it has the next when one is done."""
COSTS = ("pairs", "prompt_tokens", "work_tokens", "read_s", "render_s")
"""What a partition takes, summed up in the report. Pairs are prompts: rows, and windows of long documents. Work tokens
are left to compute when pairs of the same query share their head."""


def for_throughput(config: RerankerConfig) -> RerankerConfig:
    """Configure the engine for throughput: full batches, one query after the other."""
    engine = config.engine.model_copy(update={"scheduling": "fcfs", "target_step_s": None})
    return config.model_copy(update={"engine": engine})


def summarize(
    records: Sequence[Mapping[str, Any]], rows: int, failed_rows: int, started_s: float, finish_s: float
) -> dict[str, Any]:  # Any: JSON
    """Make the report of a run of `reranker batch`, as report.json holds it.

    `rows` and `failed_rows` are of the whole input, the rest is of this run: `records` are those of the partitions that
    it scored. It began `started_s` after 1970; errors.jsonl and run.trec took `finish_s`. `start_s` lasts until the
    first partition was begun, `scoring_s` from then until the last was done; reading, rendering and writing overlap in
    it. `engine_busy` is the share of the time in which an engine had work, mean of the engines; None without records.
    """
    last = {(one["engine"], one["ready_s"]): one for one in sorted(records, key=lambda one: one["done_s"])}
    up_s = sum(one["done_s"] - one["ready_s"] for one in last.values())
    begun_s = min((one["begun_s"] for one in records), default=started_s)
    scoring_s = max((one["done_s"] for one in records), default=begun_s) - begun_s
    sums = {name: sum(one[name] for one in records) for name in (*COSTS, "write_s")}
    return sums | {
        "rows": rows,
        "failed_rows": failed_rows,
        "rows_now": sum(one["rows"] for one in records),
        "engines": len(last),
        "start_s": begun_s - started_s,
        "scoring_s": scoring_s,
        "finish_s": finish_s,
        "engine_busy": sum(one["busy_s"] for one in last.values()) / up_s if up_s else None,
        "pairs_per_s": sums["pairs"] / scoring_s if scoring_s else None,
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    lines = ["{rows} rows, {failed_rows} without a score (errors.jsonl); {rows_now} scored now"]
    if report["engine_busy"] is not None:
        tokens_per_s, work_per_s = (report[name] / report["scoring_s"] for name in ("prompt_tokens", "work_tokens"))
        on = f"{{engines}} engine{'s' * (report['engines'] > 1)}, at work {{engine_busy:.0%}} of the time"
        stages = "reading {read_s:.1f}, prompts {render_s:.1f}, writing {write_s:.1f}"
        lines += [
            f"{{pairs_per_s:.1f}} pairs/s, {tokens_per_s:.0f} tokens/s on {on}",
            f"{work_per_s:.0f} tokens/s are left to compute when pairs of a query share their head",
            f"seconds: start {{start_s:.1f}}, scoring {{scoring_s:.1f}} (with {stages}), end {{finish_s:.1f}}",
        ]
    return [line.format(**report) for line in lines]


class PartitionScorer:
    """Scores partitions; several at a time, each from a thread of its own."""

    def __init__(
        self, engine: Engine, renderer: PromptRenderer, config: RerankerConfig, instruction: str | None, adapter: str
    ) -> None:
        """Score with this engine; `instruction` None is the configured one, an empty `adapter` the model itself.

        Raises InvalidRequestError for an instruction that the model does not take, or that is not configured.
        """
        if instruction and not renderer.takes_instruction:
            raise InvalidRequestError("instruction", "this model takes none")
        self._engine, self._renderer, self._adapter = engine, renderer, adapter
        self._instruction = config.model.instruction_text(instruction)
        self._cutting = CuttingPolicy.of(RankRequest("", ()), config.long_documents)
        self._aggregate = config.long_documents.aggregate
        self._busy_before_s = engine.busy_s

    async def score(self, rows: Iterator[Row], advance: Callable[[int], object]) -> tuple[list[Row], dict[str, float]]:
        """Score the rows of a partition; `advance` gets the number of those that are done, now and then.

        Returns the rows by their numbers, without their texts, and `COSTS`, with the seconds in which the engine had
        work until now. Raises EngineFailedError if the engine stops working.
        """
        done: list[Row] = []
        costs: dict[str, float] = dict.fromkeys(COSTS, 0)
        chunks = _chunks(rows)
        room = asyncio.Semaphore(_IN_ENGINE)

        async def score_chunk(chunk: Sequence[Row], lists: Sequence[tuple[list[Row], RenderedList]]) -> None:
            try:
                logits = await asyncio.gather(*(self._engine.score(rendered.prompts) for _, rendered in lists))
            finally:
                room.release()
            for (of_query, rendered), of_list in zip(lists, logits, strict=True):
                costs["pairs"] += len(rendered.prompts)
                costs["prompt_tokens"] += rendered.prompts.prompt_tokens
                costs["work_tokens"] += rendered.prompts.work_tokens
                self._note(of_query, rendered, of_list)
            for row in chunk:
                row.query = row.document = ""  # all texts of a partition of ids may be more than the memory holds
            done.extend(chunk)
            advance(len(done))

        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    started_s = time.perf_counter()
                    chunk = await asyncio.to_thread(next, chunks, None)
                    read_s = time.perf_counter()
                    if chunk is None:
                        break
                    lists = await asyncio.to_thread(self._render, chunk)
                    costs["read_s"] += read_s - started_s
                    costs["render_s"] += time.perf_counter() - read_s
                    group.create_task(score_chunk(chunk, lists))
        except ExceptionGroup as failures:  # several chunks may fail; the first says why
            raise failures.exceptions[0] from None
        busy_s = self._engine.busy_s - self._busy_before_s
        return sorted(done, key=lambda one: one.number), costs | {"busy_s": busy_s}

    def _render(self, chunk: Sequence[Row]) -> list[tuple[list[Row], RenderedList]]:
        """Make lists of one query each; the rows are sorted."""
        lists = []
        for query, of_query in groupby((row for row in chunk if row.error is None), key=lambda row: row.query):
            rows = list(of_query)
            try:
                texts = [row.document for row in rows]
                rendered = self._renderer.render(query, texts, self._instruction, self._cutting)
                lists.append((rows, rendered.for_adapter(self._adapter)))
            except QueryTooLongError as error:
                for row in rows:
                    row.error = error.code
                    row.message = f"the query takes {error.tokens} tokens of {error.limit}"
        return lists

    def _note(self, rows: Sequence[Row], rendered: RenderedList, logits: np.ndarray) -> None:
        owners = rendered.document_of_pair
        bad = set(owners[~np.isfinite(logits)].tolist())
        scale = self._renderer.scale
        log_odds = scoring.aggregate(np.where(np.isfinite(logits), logits, 0), owners, self._aggregate, scale)
        scores = scoring.relevance_scores(log_odds, scale)
        for i, row in enumerate(rows):
            if i in bad:
                row.error, row.message = "invalid_score", "the model gave no finite score"
            else:
                row.score, row.log_odds, row.truncated = float(scores[i]), float(log_odds[i]), i in rendered.truncated


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Bring rows of the same query together: the prefix cache then computes their head once."""
    for gathered in _split(rows, sys.maxsize, _GATHERED_CHARACTERS):
        places: dict[str, int] = {}
        by_query = sorted(gathered, key=lambda row: places.setdefault(row.query, len(places)))
        yield from _split(by_query, _CHUNK_ROWS, _CHUNK_CHARACTERS)


def _split(rows: Iterable[Row], most_rows: int, characters: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    total = 0
    for row in rows:
        part.append(row)
        total += len(row.query) + len(row.document)
        if len(part) == most_rows or total >= characters:
            yield part
            part, total = [], 0
    if part:
        yield part
