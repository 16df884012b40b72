"""Score one partition with an engine: as a replica scores a list, with the same prompts and the same arithmetic.

While the engine has some rows, the next are read and made into prompts. Memory: the texts of a few chunks of rows, and
the rows that wait to be brought together with others of the same query.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.config import RerankerConfig
from reranker.engine.base import Engine
from reranker.errors import InvalidRequestError, QueryTooLongError
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.offline.meter import Busy, Spent
from reranker.offline.rows import Problem, Row, RowScore
from reranker.ranking import scoring
from reranker.types import RankRequest, RenderedList

_CHUNK_ROWS, _CHUNK_CHARACTERS = 512, 2_000_000
"""What is rendered at a time, and goes to the engine together."""
_GATHERED_CHARACTERS = 32_000_000
"""Rows of one query are looked for among so many; about a whole partition."""
_IN_ENGINE = 2
"""Chunks of a partition in the engine: it has the next when one is done."""
_NOT_FINITE = Problem("invalid_score", "the model gave no finite score")


@dataclass(frozen=True, slots=True)
class _List:
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
        """Score with this engine.

        Args:
            engine: Computes.
            renderer: Makes the prompts.
            config: What happens to long documents, and the default instruction.
            instruction: What "relevant" means. None: as configured.
            adapter: Name of the adapter that scores; empty: the model itself.

        Raises:
            InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
        """
        if instruction and not renderer.takes_instruction:
            raise InvalidRequestError("instruction", "this model takes none")
        self.busy = Busy()
        self._engine, self._renderer, self._adapter = engine, renderer, adapter
        self._instruction = config.model.instruction_text(instruction)
        self._cutting = CuttingPolicy.of(RankRequest("", ()), config.long_documents)
        self._aggregate = config.long_documents.aggregate

    async def score(
        self, rows: Iterator[Row], spent: Spent, advance: Callable[[int], object] = lambda rows: None
    ) -> list[RowScore]:
        """Score every row that can be; the others come back with their problem.

        Args:
            rows: Of one partition.
            spent: Takes what it took.
            advance: Told the number of rows done, now and then.

        Returns:
            One for each row, in the order of their numbers.

        Raises:
            EngineFailedError: The engine stopped working.
        """
        done: list[RowScore] = []
        busy = Busy()
        chunks = _chunks(rows)
        room = asyncio.Semaphore(_IN_ENGINE)

        async def score_chunk(lists: Sequence[_List]) -> None:
            try:
                with busy.working(), self.busy.working():
                    logits = await asyncio.gather(*(self._engine.score(one.rendered.prompts) for one in lists))
            finally:
                room.release()
            for one, of_list in zip(lists, logits, strict=True):
                spent.pairs += len(one.rendered.prompts)
                spent.prompt_tokens += one.rendered.prompts.prompt_tokens
                spent.work_tokens += one.rendered.prompts.work_tokens
                done.extend(self._scores(one, of_list))
            advance(len(done))

        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    chunk = await asyncio.to_thread(self._prepare, chunks, spent)
                    if chunk is None:
                        break
                    lists, problems = chunk
                    done.extend(problems)
                    group.create_task(score_chunk(lists))
        except ExceptionGroup as failures:  # several chunks may fail; the first says why
            raise failures.exceptions[0] from None
        spent.engine_s += busy.total_s
        return sorted(done, key=lambda one: one.number)

    def _prepare(self, chunks: Iterator[list[Row]], spent: Spent) -> tuple[list[_List], list[RowScore]] | None:
        """Read and render the next chunk; None: there is none."""
        started_s = time.perf_counter()
        chunk = next(chunks, None)
        read_s = time.perf_counter()
        spent.read_s += read_s - started_s
        if chunk is None:
            return None
        lists: list[_List] = []
        problems = [_failed(row, row.problem) for row in chunk if row.problem]
        for rows in _by_query(chunk):
            texts = [row.document for row in rows]
            try:
                rendered = self._renderer.render(rows[0].query, texts, self._instruction, self._cutting)
            except QueryTooLongError as error:
                problem = Problem(error.code, f"the query takes {error.tokens} tokens of {error.limit}")
                problems += [_failed(row, problem) for row in rows]
            else:
                lists.append(_List(rows, rendered.for_adapter(self._adapter)))
        spent.render_s += time.perf_counter() - read_s
        return lists, problems

    def _scores(self, one: _List, logits: np.ndarray) -> Iterator[RowScore]:
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


def _by_query(rows: Sequence[Row]) -> Iterator[list[Row]]:
    lists: dict[str, list[Row]] = {}
    for row in rows:
        if row.problem is None:
            lists.setdefault(row.query, []).append(row)
    yield from lists.values()


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
    order = sorted(gathered, key=lambda row: places.setdefault(row.query, len(places)))
    chunk: list[Row] = []
    characters = 0
    for row in order:
        chunk.append(row)
        characters += len(row.document)
        if len(chunk) == _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
