"""What Ray Data runs, one in each process: an engine, and partitions scored with it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from ray.actor import ActorHandle

from deployments.engine_replica import identity, open_engine
from reranker.errors import EngineFailedError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline.folder import BatchError
from reranker.offline.inputs import open_source
from reranker.offline.job import Job
from reranker.offline.meter import Spent
from reranker.offline.output import problems_of, write_scores
from reranker.offline.rows import Partition
from reranker.offline.work import PartitionScorer

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
"""Engines that may die with a partition in hand before the batch gives up. Ray Data itself would try for ever."""


class PartitionActor:
    """Called from several threads, with a partition each."""

    def __init__(self, job: Job, device: str, digest: str, board: ActorHandle) -> None:
        """Load the model.

        Args:
            job: The batch.
            device: "cpu" or "cuda".
            digest: Of what the engines must hold.
            board: The `Board`.

        Raises:
            BatchError: This machine has another model under the same name.
            StartupCheckError: It does not score as a reranker does.
        """
        with ThreadPoolExecutor(1) as beside:  # reads the files that the engine loads
            here = beside.submit(identity, job.config, device)
            engine = open_engine(job.config, device)
        if here.result() != digest:
            raise BatchError(f"a node has other files under {job.config.model.name!r} than the one that began this")
        renderer = PromptRenderer.of(find_checkpoint(job.config.model), job.config.model)
        self._scorer = PartitionScorer(engine, renderer, job.config, job.instruction, job.adapter)
        self._source = open_source(job.found, job.folder.index)
        self._folder, self._board = job.folder, board
        self._name = f"{os.uname().nodename}-{os.getpid()}"
        self._ready_s = time.monotonic()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # Any: columns of any type
        """Score the partitions that the rows of this batch name; returns their numbers."""
        for i in range(len(batch["number"])):
            partition = Partition(**{name: int(column[i]) for name, column in batch.items()})
            if self._folder.record(partition.number) is None:  # it may have been done when an engine died
                self._score(partition)
        return {"number": np.asarray(batch["number"])}

    def _score(self, partition: Partition) -> None:
        if self._folder.attempt(partition.number) > _ATTEMPTS:
            rows = f"rows {partition.first_row} to {partition.first_row + partition.rows - 1}"
            raise BatchError(f"{_ATTEMPTS} engines died with the same partition in hand ({rows}); see Ray's logs")
        begun_s = time.time()
        spent = Spent()

        def advance(rows: int) -> None:
            self._board.note.remote(partition.number, rows)

        try:
            scores = asyncio.run(self._scorer.score(self._source.read(partition), spent, advance))
        except EngineFailedError:
            self._end()
        if [one.number for one in scores] != list(range(partition.first_row, partition.first_row + partition.rows)):
            raise BatchError("the input was changed while it was scored; run this again")
        write_s = time.perf_counter()
        keys = self._source.key_columns
        write_scores(self._folder.scores(partition.number), scores, keys)
        spent.write_s += time.perf_counter() - write_s
        record = dataclasses.asdict(spent) | {
            "rows": partition.rows,
            "errors": problems_of(scores, keys),
            "begun_s": begun_s,
            "done_s": time.time(),
            "engine": self._name,
            "engine_up_s": time.monotonic() - self._ready_s,
            "engine_busy_s": self._scorer.busy.total_s,
        }
        self._folder.finish(partition.number, record)
        advance(partition.rows)

    def _end(self) -> NoReturn:
        """End this process: Ray starts another, and gives it what this one had."""
        logger.critical("the engine has failed; this process ends, and Ray starts another")
        logging.shutdown()
        os._exit(1)
