"""Batches on Ray Data: partitions in, files of scores out.

Ray Data's rows are the partitions, and its actors hold the engines: it starts them on one machine or a cluster, keeps
each supplied, starts another when one dies and gives it what the dead one had. Why its own readers and checkpoints are
not used: docs/decisions/0012-batches.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from deployments.engine_replica import choose_device, environment, identity, open_engine, resources
from reranker.config import RerankerConfig
from reranker.errors import EngineFailedError, RerankerError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline import Partition
from reranker.offline.folder import BatchError, BatchFolder, Manifest, Settings, write_json
from reranker.offline.pairs import Input, open_source
from reranker.offline.scorer import BatchReport, Cost, PartitionScorer

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray that we start: what travels are names of partitions."""
_PARTITIONS_AT_A_TIME = 2
"""In one engine: it has work from the next while the rest of one is scored, and its files are written."""
_ATTEMPTS = 20
"""Engines that may die with a partition in hand before the batch gives up. Ray Data itself would try for ever."""
_POLL_S, _LINE_S = 0.5, 30.0
"""Between two looks at the progress; and between two lines of it where there is no terminal."""
_OUR_ERROR = re.compile(r"reranker\.[\w.]+Error: (.+)")
"""One of our errors, as the last line of a traceback."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, with what, and where the scores go."""

    found: Input
    folder: BatchFolder
    config: RerankerConfig
    instruction: str | None
    """What "relevant" means. None: as configured."""
    adapter: str
    """One of `engine.lora_adapters`; empty: the model itself."""
    partition_rows: int

    def settings(self, model: str, renderer: PromptRenderer) -> Settings:
        """What the scores depend on, for an engine of this digest."""
        return {
            "model": model,
            "prompts": renderer.fingerprint,
            "adapter": self.adapter,
            "instruction": self.config.model.instruction_text(self.instruction),
            "long_documents": self.config.long_documents.model_dump(mode="json"),
            "columns": {} if self.found.form == "ids" else dataclasses.asdict(self.found.columns),
            "output": self.folder.output,
            "partition_rows": self.partition_rows,
        }


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the engines run."""

    address: str | None = None
    """Of a Ray cluster. None: a Ray of its own on this machine."""
    engines: int | None = None
    """How many. None: one for each GPU, or for as many as share a model; without GPUs one."""


def run(job: Job, cluster: Cluster, *, restart: bool = False) -> BatchReport:
    """Score what is not scored yet, and write what is made of all scores.

    Raises:
        BatchError: The folder is in use or of another batch, or the engines could not be kept running.
        InputFileError: The input cannot be read.
        ConfigurationError: The model is not there, or not one we can serve.
    """
    started_s = time.time()
    with job.folder.locked(), _connected(cluster):
        if restart:
            job.folder.clear()
        checkpoint = find_checkpoint(job.config.model)
        model = job.config.model.model_copy(update={"revision": checkpoint.revision})
        job = dataclasses.replace(job, config=job.config.model_copy(update={"model": model}))
        device = choose_device(job.config)
        digest = identity(job.config, device)
        renderer = PromptRenderer.of(checkpoint, model)
        manifest = job.folder.open(job.found, job.settings(digest, renderer))
        left = [one for one in manifest.partitions if job.folder.record(one.number) is None]
        if left:
            job.folder.forget_attempts()
            _score(job, cluster, device, digest, manifest, left)
            if not manifest.is_of(job.found):
                raise BatchError("the input was changed while it was scored; run this again")
        ended_s = time.time()
        failed = job.folder.write_errors(manifest)
        if job.found.form == "ids":
            job.folder.write_run(manifest)
        records = [record for one in left if (record := job.folder.record(one.number))]
        report = BatchReport.of(records, manifest.rows, failed, started_s, time.time() - ended_s)
        write_json(job.folder.report, dataclasses.asdict(report) | {"pairs_per_s": report.pairs_per_s})
        return report


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if cluster.address is None:
        own = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address=cluster.address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RayError, ValueError) as error:
        raise BatchError(f"no Ray at {cluster.address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _score(job: Job, cluster: Cluster, device: str, digest: str, manifest: Manifest, left: list[Partition]) -> None:
    needs = resources(job.config, device)
    engines = min(_engines(cluster, needs), len(left))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    counter = ray.remote(num_cpus=0)(RowCounter).remote()
    partitions = ray.data.from_items([dataclasses.asdict(one) for one in left], override_num_blocks=len(left))
    done = partitions.map_batches(
        PartitionActor,
        fn_constructor_args=(job, device, digest, counter),
        batch_size=1,
        compute=ActorPoolStrategy(
            size=engines,
            max_tasks_in_flight_per_actor=_PARTITIONS_AT_A_TIME,
            max_concurrent_calls_per_actor=_PARTITIONS_AT_A_TIME,
            enable_true_multi_threading=True,
        ),
        **needs,
        runtime_env={"env_vars": environment(job.config)},
    )
    rows_before = manifest.rows - sum(one.rows for one in left)
    try:
        with _progress(counter, manifest.rows, rows_before):
            for _ in done.iter_batches(batch_size=None, prefetch_batches=0):
                pass
    except RayError as error:
        raise _explained(error) from error


def _engines(cluster: Cluster, needs: dict[str, float]) -> int:
    """How many engines to start; none that could never run."""
    have = ray.cluster_resources()
    room = [
        int(have.get(name, 0) // needs[key]) for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if needs[key]
    ]
    most = min(room, default=cluster.engines or 1)
    wanted = cluster.engines or (max(1, most) if needs["num_gpus"] else 1)
    if wanted > most and cluster.address is None:
        raise BatchError(f"{wanted} engines need more cores or GPUs than this machine has; it has room for {most}")
    return wanted


def _explained(error: BaseException) -> RerankerError:
    """What a failure in an actor means to the one who started the batch."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RerankerError):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) and inner is not cause else cause.__cause__
    lines = str(error).strip().splitlines() or [""]
    ours = [found[1] for line in lines if (found := _OUR_ERROR.match(line))]
    if ours:  # of an actor that could not start, Ray keeps the words only
        return BatchError(ours[-1])
    return BatchError(f"the engines could not go on: {lines[-1]}. What is done is kept: run this again")


class PartitionActor:
    """An engine in a process of its own, called from several threads, with a partition each."""

    def __init__(self, job: Job, device: str, digest: str, counter: ActorHandle) -> None:
        """Load the model, whose digest is known; progress goes to the `RowCounter`.

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
        self._folder, self._counter = job.folder, counter
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
        cost = Cost()

        def advance(rows: int) -> None:
            self._counter.note.remote(partition.number, rows)

        try:
            scores = asyncio.run(self._scorer.score(self._source.read(partition), cost, advance))
        except EngineFailedError:
            self._end()
        if [one.number for one in scores] != list(range(partition.first_row, partition.first_row + partition.rows)):
            raise BatchError("the input was changed while it was scored; run this again")
        record = dataclasses.asdict(cost) | {
            "begun_s": begun_s,
            "engine": self._name,
            "engine_up_s": time.monotonic() - self._ready_s,
            "engine_busy_s": self._scorer.busy.total_s,
        }
        self._folder.finish(partition.number, scores, self._source.key_columns, record)
        advance(partition.rows)

    def _end(self) -> NoReturn:
        """End this process: Ray starts another, and gives it what this one had."""
        logger.critical("the engine has failed; this process ends, and Ray starts another")
        logging.shutdown()
        os._exit(1)


class RowCounter:
    """An actor that the engines tell how many rows are done."""

    def __init__(self) -> None:
        """Start with nothing done."""
        self._rows: dict[int, int] = {}
        self._done = 0

    def note(self, partition: int, rows: int) -> None:
        """Of a partition, so many rows are done; fewer than before when it is begun again."""
        self._done += rows - self._rows.get(partition, 0)
        self._rows[partition] = rows

    def done(self) -> int:
        """Rows, of all partitions."""
        return self._done


@contextlib.contextmanager
def _progress(counter: ActorHandle, rows: int, rows_before: int) -> Iterator[None]:
    """Show progress on stderr for as long as the block lasts: a bar on a terminal, else now and then a line."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(counter, rows, rows_before, ended), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(counter: ActorHandle, rows: int, rows_before: int, ended: threading.Event) -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]

    terminal = sys.stderr.isatty()
    bar = tqdm(total=rows, initial=rows_before, unit=" rows", disable=not terminal, leave=False, smoothing=0.05)
    with bar:
        started_s: float | None = None
        line_s = time.monotonic()
        while not ended.wait(_POLL_S):
            try:
                done = ray.get(counter.done.remote(), timeout=10)
            except RayError:  # it is only the display
                continue
            now_s = time.monotonic()
            if started_s is None and done:  # the speed is that of engines, not of their start
                started_s, first = now_s, done
                bar.unpause()
            bar.update(rows_before + done - bar.n)
            if not terminal and now_s - line_s >= _LINE_S:
                line_s = now_s
                speed = (done - first) / (now_s - started_s) if started_s and now_s > started_s else 0.0
                print(_line(rows_before + done, rows, speed), file=sys.stderr, flush=True)


def _line(done: int, rows: int, speed: float) -> str:
    if not speed:
        return f"{done} of {rows} rows"
    left = int((rows - done) / speed)
    return f"{done} of {rows} rows, {speed:.1f} rows/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
