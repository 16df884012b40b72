"""Score a partition with an engine, as a replica scores a list: same prompts, same arithmetic. And say what it took.

While the engine has some rows, the next are read and made into prompts. Memory: the texts of a few chunks of rows, and
the rows that wait to be brought together with others of the same query.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from reranker.config import RerankerConfig
from reranker.engine.loop import Engine
from reranker.errors import InvalidRequestError, QueryTooLongError
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.offline import Problem, Row, RowScore
from reranker.ranking import scoring
from reranker.types import RankRequest, RenderedList

_CHUNK_ROWS, _CHUNK_CHARACTERS = 512, 2_000_000
"""What is rendered at a time, and goes to the engine together."""
_GATHERED_CHARACTERS = 32_000_000
"""Rows of one query are looked for among so many; about a whole partition."""
_IN_ENGINE = 2
"""Chunks of a partition in the engine: it has the next when one is done."""
_NOT_FINITE = Problem("invalid_score", "the model gave no finite score")


def for_throughput(config: RerankerConfig) -> RerankerConfig:
    """The configuration for engines that nobody waits for: full batches, and one query after the other."""
    engine = config.engine.model_copy(update={"scheduling": "fcfs", "target_step_s": None})
    return config.model_copy(update={"engine": engine})


@dataclass(slots=True)
class Cost:
    """What one partition took."""

    read_s: float = 0.0
    """In reading rows."""
    render_s: float = 0.0
    """In making prompts."""
    pairs: int = 0
    """Prompts scored: rows, and windows of long documents."""
    prompt_tokens: int = 0
    """Of all prompts."""
    work_tokens: int = 0
    """Of those what is left to compute when pairs of the same query share their head."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a run of `reranker batch` did."""

    rows: int
    """Of the whole input."""
    failed_rows: int
    """Of them, those without a score."""
    rows_now: int
    """Scored by this run; the others were there."""
    pairs: int
    """Prompts scored by this run; windows of long documents count each."""
    prompt_tokens: int
    work_tokens: int
    engines: int
    start_s: float
    """From the start until the first partition was begun: reading the input, Ray, loading the model."""
    scoring_s: float
    """From then until the last one was done."""
    read_s: float
    """Sums over the engines, of stages that overlap."""
    render_s: float
    write_s: float
    finish_s: float
    """In making errors.jsonl and run.trec."""
    engine_busy: float | None
    """Share of the scoring in which an engine had work, mean of the engines. None: nothing was scored."""

    @property
    def pairs_per_s(self) -> float:
        """While it scored."""
        return self.pairs / self.scoring_s if self.scoring_s else math.nan

    @classmethod
    def of(
        cls, records: Sequence[Mapping[str, Any]], rows: int, failed: int, started_s: float, finish_s: float
    ) -> Self:
        """Sum up `BatchFolder.record` of the partitions that this run scored; it began `started_s` after 1970."""
        engines: dict[str, tuple[float, float]] = {}
        for one in records:  # the last word of each engine counts, and its seconds only rise
            seen = engines.get(one["engine"], (0.0, 0.0))
            engines[one["engine"]] = max(seen, (one["engine_up_s"], one["engine_busy_s"]))
        begun_s = min((one["begun_s"] for one in records), default=started_s)
        up_s = sum(up for up, _ in engines.values())
        summed = ("pairs", "prompt_tokens", "work_tokens", "read_s", "render_s", "write_s")
        return cls(
            rows=rows,
            failed_rows=failed,
            rows_now=sum(one["rows"] for one in records),
            engines=len(engines),
            start_s=begun_s - started_s,
            scoring_s=max((one["done_s"] for one in records), default=begun_s) - begun_s,
            finish_s=finish_s,
            engine_busy=sum(busy for _, busy in engines.values()) / up_s if up_s else None,
            **{name: sum(one[name] for one in records) for name in summed},
        )

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{self.rows} rows, {self.failed_rows} without a score (errors.jsonl); {self.rows_now} scored now"]
        if self.engine_busy is None:
            return said
        tokens_per_s, work_per_s = self.prompt_tokens / self.scoring_s, self.work_tokens / self.scoring_s
        on = f"{self.engines} engine{'s' * (self.engines > 1)}, at work {self.engine_busy:.0%} of the time"
        beside = f"reading {self.read_s:.1f}, prompts {self.render_s:.1f}, writing {self.write_s:.1f}"
        said += [
            f"{self.pairs_per_s:.1f} pairs/s, {tokens_per_s:.0f} tokens/s on {on}",
            f"{work_per_s:.0f} tokens/s are left to compute when pairs of a query share their head",
            f"seconds: start {self.start_s:.1f}, scoring {self.scoring_s:.1f} (with {beside}), end {self.finish_s:.1f}",
        ]
        return said


@dataclass(slots=True)
class BusyTime:
    """How long something was at work, whatever ran in it side by side. For many threads."""

    seconds: float = 0.0
    _running: int = 0
    _since_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block, once, however many blocks there are at a time."""
        with self._lock:
            if not self._running:
                self._since_s = time.monotonic()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.seconds += time.monotonic() - self._since_s

    @property
    def total_s(self) -> float:
        """Until now."""
        with self._lock:
            return self.seconds + (time.monotonic() - self._since_s if self._running else 0.0)


@dataclass(frozen=True, slots=True)
class _QueryRows:
    """Rows of one query, and their prompts."""

    rows: Sequence[Row]
    rendered: RenderedList


class PartitionScorer:
    """Scores partitions; several at a time, each from a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        renderer: PromptRenderer,
        config: RerankerConfig,
        instruction: str | None = None,
        adapter: str = "",
    ) -> None:
        """Score with this engine; `instruction` None is the configured one, an empty `adapter` the model itself.

        Raises:
            InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
        """
        if instruction and not renderer.takes_instruction:
            raise InvalidRequestError("instruction", "this model takes none")
        self.busy = BusyTime()
        self._engine, self._renderer, self._adapter = engine, renderer, adapter
        self._instruction = config.model.instruction_text(instruction)
        self._cutting = CuttingPolicy.of(RankRequest("", ()), config.long_documents)
        self._aggregate = config.long_documents.aggregate

    async def score(
        self, rows: Iterator[Row], cost: Cost, advance: Callable[[int], object] = lambda rows: None
    ) -> list[RowScore]:
        """Score the rows of a partition, and add up what it costs.

        Args:
            rows: In any order.
            cost: Is added to.
            advance: Told now and then how many rows are done.

        Returns:
            One for each row, in the order of their numbers; those that cannot be scored with their problem.

        Raises:
            EngineFailedError: The engine stopped working.
        """
        done: list[RowScore] = []
        chunks = _chunks(rows)
        room = asyncio.Semaphore(_IN_ENGINE)

        async def score_chunk(queries: Sequence[_QueryRows]) -> None:
            try:
                with self.busy.working():
                    logits = await asyncio.gather(*(self._engine.score(one.rendered.prompts) for one in queries))
            finally:
                room.release()
            for one, of_query in zip(queries, logits, strict=True):
                cost.pairs += len(one.rendered.prompts)
                cost.prompt_tokens += one.rendered.prompts.prompt_tokens
                cost.work_tokens += one.rendered.prompts.work_tokens
                done.extend(self._scores(one, of_query))
            advance(len(done))

        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    chunk = await asyncio.to_thread(self._render_next, chunks, cost)
                    if chunk is None:
                        break
                    queries, failed = chunk
                    done.extend(failed)
                    group.create_task(score_chunk(queries))
        except ExceptionGroup as failures:  # several chunks may fail; the first says why
            raise failures.exceptions[0] from None
        return sorted(done, key=lambda one: one.number)

    def _render_next(self, chunks: Iterator[list[Row]], cost: Cost) -> tuple[list[_QueryRows], list[RowScore]] | None:
        """Read and render the next chunk; None: there is none."""
        started_s = time.perf_counter()
        chunk = next(chunks, None)
        read_s = time.perf_counter()
        cost.read_s += read_s - started_s
        if chunk is None:
            return None
        queries: list[_QueryRows] = []
        failed = [_failed(row, row.problem) for row in chunk if row.problem]
        by_query: dict[str, list[Row]] = {}
        for row in chunk:
            if row.problem is None:
                by_query.setdefault(row.query, []).append(row)
        for query, rows in by_query.items():
            texts = [row.document for row in rows]
            try:
                rendered = self._renderer.render(query, texts, self._instruction, self._cutting)
            except QueryTooLongError as error:
                problem = Problem(error.code, f"the query takes {error.tokens} tokens of {error.limit}")
                failed += [_failed(row, problem) for row in rows]
            else:
                queries.append(_QueryRows(rows, rendered.for_adapter(self._adapter)))
        cost.render_s += time.perf_counter() - read_s
        return queries, failed

    def _scores(self, one: _QueryRows, logits: np.ndarray) -> Iterator[RowScore]:
        owners = one.rendered.document_of_pair
        bad = set(owners[~np.isfinite(logits)].tolist())
        log_odds = scoring.aggregate(np.where(np.isfinite(logits), logits, 0), owners, self._aggregate)
        scores = scoring.relevance_scores(log_odds)
        for i, row in enumerate(one.rows):
            if i in bad:
                yield _failed(row, _NOT_FINITE)
            else:
                truncated = i in one.rendered.truncated
                yield RowScore(row.number, row.keys, float(scores[i]), float(log_odds[i]), truncated)


def _failed(row: Row, problem: Problem) -> RowScore:
    return RowScore(row.number, row.keys, None, None, truncated=False, problem=problem)


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Bring rows of the same query together: the prefix cache then computes their head once."""
    gathered: list[Row] = []
    characters = 0
    for row in rows:
        gathered.append(row)
        characters += len(row.query) + len(row.document)
        if characters >= _GATHERED_CHARACTERS:
            yield from _cut(gathered)
            gathered, characters = [], 0
    yield from _cut(gathered)


def _cut(gathered: Sequence[Row]) -> Iterator[list[Row]]:
    places: dict[str, int] = {}
    chunk: list[Row] = []
    characters = 0
    for row in sorted(gathered, key=lambda row: places.setdefault(row.query, len(places))):
        chunk.append(row)
        characters += len(row.document)
        if len(chunk) == _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
