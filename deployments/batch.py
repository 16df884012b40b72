"""Batches on Ray Data: partitions in, files of scores out.

Ray Data's rows are the partitions, and its actors hold the engines: it starts them on one machine or a cluster, feeds
each, and replaces one that dies. docs/decisions/0012-batches.md says why its readers and checkpoints are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from deployments.engine_replica import choose_device, identity, open_engine, resources
from reranker.config import RerankerConfig
from reranker.engine.vllm import environment
from reranker.errors import BatchError, EngineFailedError, RerankerError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline import Partition
from reranker.offline.folder import BatchFolder, Settings, write_json
from reranker.offline.pairs import Input, open_reader
from reranker.offline.scorer import Cost, PartitionScorer, summarize

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray that we start: only names of partitions travel."""
_PARTITIONS_AT_A_TIME = 2
"""In one engine: it scores the next while the files of one are written."""
_ATTEMPTS = 20
"""Engines that may die with the same partition in hand; then the batch gives up. Ray Data itself would try for ever."""
_POLL_S, _LINE_S = 0.5, 30.0
"""Between two looks at the progress; and between two lines of it where there is no terminal."""
_LINE = "{n_fmt} of {total_fmt} rows, {rate_fmt}, {remaining} left\n"
_OUR_ERROR = re.compile(r"reranker\.[\w.]+Error: (.+)")
"""One of our errors, as the last line of a traceback."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, with what, and where the scores go."""

    source: Input
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
            "columns": {} if self.source.format == "ids" else dataclasses.asdict(self.source.columns),
            "output": self.folder.output,
            "partition_rows": self.partition_rows,
        }


def run(
    job: Job, address: str | None = None, engines: int | None = None, *, restart: bool = False
) -> dict[str, Any]:  # Any: JSON
    """Score what is not scored yet, write what is made of all scores, and give the report of `summarize`.

    `address` is a Ray cluster's; None: a Ray of its own on this machine. `engines` None: one for each GPU, or for as
    many as share a model; without GPUs one.

    Raises:
        BatchError: The folder is in use or of another batch, or the engines could not be kept running.
        InputFileError: The input cannot be read.
        ConfigurationError: The model is not there, or cannot be served.
    """
    started_s = time.time()
    with job.folder.locked(), _connected(address):
        if restart:
            job.folder.clear()
        checkpoint = find_checkpoint(job.config.model)
        model = job.config.model.model_copy(update={"revision": checkpoint.revision})
        job = dataclasses.replace(job, config=job.config.model_copy(update={"model": model}))
        device = choose_device(job.config)
        digest = identity(job.config, device)
        manifest = job.folder.open(job.source, job.settings(digest, PromptRenderer.of(checkpoint, model)))
        left = [one for one in manifest.partitions if job.folder.record(one.number) is None]
        if left:
            needs = resources(job.config, device)
            actors = min(_engines(address, engines, needs), len(left))
            _score(job, actors, needs, (device, digest), manifest.rows, left)
            if not manifest.is_unchanged(job.source):
                raise BatchError("the input was changed while it was scored; run this again")
        ended_s = time.time()
        failed = job.folder.write_errors(manifest)
        if job.source.format == "ids":
            job.folder.write_run(manifest)
        records = [record for one in left if (record := job.folder.record(one.number))]
        report = summarize(records, manifest.rows, failed, started_s, time.time() - ended_s)
        write_json(job.folder.report, report)
        return report


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if address is None:
        own = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RayError, ValueError) as error:
        raise BatchError(f"no Ray at {address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _score(
    job: Job, actors: int, needs: dict[str, float], identified: tuple[str, str], rows: int, left: Sequence[Partition]
) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(PartitionCounter).remote()
    partitions = ray.data.from_items([dataclasses.asdict(one) for one in left], override_num_blocks=len(left))
    done = partitions.map_batches(
        PartitionActor,
        fn_constructor_args=(job, *identified, counter),
        batch_size=1,
        compute=ActorPoolStrategy(
            size=actors,
            max_tasks_in_flight_per_actor=_PARTITIONS_AT_A_TIME,
            max_concurrent_calls_per_actor=_PARTITIONS_AT_A_TIME,
            enable_true_multi_threading=True,
        ),
        **needs,
        runtime_env={"env_vars": environment(job.config.engine.cpus, job.config.engine.cpu_threads)},
    )
    try:
        with _progress(counter, rows, rows - sum(one.rows for one in left)):
            for _ in done.iter_batches(batch_size=None, prefetch_batches=0):
                pass
    except RayError as error:
        raise _explained(error) from error


def _engines(address: str | None, engines: int | None, needs: dict[str, float]) -> int:
    """How many engines to start, if this machine or the cluster at `address` has room for them."""
    have = ray.cluster_resources()
    room = [
        int(have.get(name, 0) // needs[key]) for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if needs[key]
    ]
    most = min(room, default=engines or 1)
    wanted = engines or (max(1, most) if needs["num_gpus"] else 1)
    if wanted > most and address is None:
        raise BatchError(f"{wanted} engines need more cores or GPUs than this machine has; it has room for {most}")
    return wanted


def _explained(error: BaseException) -> RerankerError:
    """Name a failure in an actor by our own error that caused it, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RerankerError):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) and inner is not cause else cause.__cause__
    lines = str(error).strip().splitlines() or [""]
    ours = [match[1] for line in lines if (match := _OUR_ERROR.match(line))]
    if ours:  # of an actor that could not start, Ray keeps the words only
        return BatchError(ours[-1])
    return BatchError(f"the engines could not go on: {lines[-1]}. What is done is kept: run this again")


class PartitionActor:
    """An engine in a process of its own, called from several threads, with a partition each."""

    def __init__(self, job: Job, device: str, digest: str, counter: ActorHandle) -> None:
        """Load the model of this digest; progress goes to the `PartitionCounter`.

        Raises BatchError if this machine has another model under the same name, and StartupCheckError.
        """
        with ThreadPoolExecutor(1) as beside:  # reads the files that the engine loads
            here = beside.submit(identity, job.config, device)
            engine = open_engine(job.config, device)
        if here.result() != digest:
            raise BatchError(f"a node has other files under {job.config.model.name!r} than the one that began this")
        renderer = PromptRenderer.of(find_checkpoint(job.config.model), job.config.model)
        self._scorer = PartitionScorer(engine, renderer, job.config, job.instruction, job.adapter)
        self._read = open_reader(job.source, job.folder.index)
        self._folder, self._key_columns, self._counter = job.folder, job.source.key_columns, counter
        self._name = f"{os.uname().nodename}-{os.getpid()}"
        self._ready_s = time.time()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # Any: columns of any type
        """Score the partitions that the rows of this batch name; returns their numbers."""
        for i in range(len(batch["number"])):
            partition = Partition(**{name: int(column[i]) for name, column in batch.items()})
            if self._folder.record(partition.number) is None:  # it may have been done when an engine died
                self._score(partition)
        return {"number": np.asarray(batch["number"])}

    def _score(self, partition: Partition) -> None:
        if ray.get(self._counter.begin.remote(partition.number)) > _ATTEMPTS:
            rows = f"rows {partition.first_row} to {partition.first_row + partition.rows - 1}"
            raise BatchError(f"{_ATTEMPTS} engines died with the same partition in hand ({rows}); see Ray's logs")
        begun_s = time.time()
        cost = Cost()
        advance = functools.partial(self._counter.note.remote, partition.number)
        try:
            scores = asyncio.run(self._scorer.score(self._read(partition), cost, advance))
        except EngineFailedError:
            logger.critical("the engine has failed; this process ends, and Ray starts another")
            logging.shutdown()
            os._exit(1)
        if [one.number for one in scores] != list(range(partition.first_row, partition.first_row + partition.rows)):
            raise BatchError("the input was changed while it was scored; run this again")
        record = dataclasses.asdict(cost) | {
            "begun_s": begun_s,
            "engine": self._name,
            "ready_s": self._ready_s,
        }
        self._folder.finish(partition.number, scores, self._key_columns, record)
        advance(partition.rows)


class PartitionCounter:
    """An actor that the engines tell what they do."""

    def __init__(self) -> None:
        self._attempts: Counter[int] = Counter()
        self._rows: dict[int, int] = {}

    def begin(self, partition: int) -> int:
        """Note that a partition is begun; returns how often it was."""
        self._attempts[partition] += 1
        return self._attempts[partition]

    def note(self, partition: int, rows: int) -> None:
        """Set the rows that are done of a partition; fewer than before when it is begun again."""
        self._rows[partition] = rows

    def rows(self) -> int:
        """Rows that are done, of all partitions."""
        return sum(self._rows.values())


@contextlib.contextmanager
def _progress(counter: ActorHandle, rows: int, rows_before: int) -> Iterator[None]:
    """Show progress on stderr while the block runs: a bar on a terminal, else now and then a line."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    form = {} if sys.stderr.isatty() else {"bar_format": _LINE, "mininterval": _LINE_S, "delay": _LINE_S}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_S):
            with contextlib.suppress(RayError):  # it is only the display
                done = ray.get(counter.rows.remote(), timeout=10)
                if done and bar.n == rows_before:
                    bar.unpause()  # the speed is that of engines, not of their start
                bar.update(rows_before + done - bar.n)

    with tqdm(total=rows, initial=rows_before, unit=" rows", leave=False, smoothing=0.05, **form) as bar:
        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
