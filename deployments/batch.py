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

import ray
import ray.data
from ray.actor import ActorHandle
from ray.exceptions import RayError

from deployments.engine_replica import choose_device, open_engine, resources, served_model
from reranker.config import RerankerConfig
from reranker.engine.device import device_for
from reranker.engine.vllm import environment
from reranker.errors import BatchError, EngineFailedError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline import Partition
from reranker.offline.folder import BatchFolder, write_json
from reranker.offline.pairs import Input, open_reader
from reranker.offline.scorer import PartitionScorer, summarize

logger = logging.getLogger(__name__)

_PARTITIONS_AT_A_TIME = 2
"""In one engine: it scores the next while the files of one are written."""
_ATTEMPTS = 20
"""Engines that may die with the same partition in hand; then the batch gives up. Ray Data itself would try for ever."""
_POLL_S, _LINE_S = 0.5, 30.0
"""Between two looks at the progress; and between two lines of it where there is no terminal."""
_LINE = "{n_fmt} of {total_fmt} rows, {rate_fmt}, {remaining} left\n"
_ERROR = re.compile(r"^([\w.]+Error): (.+)", re.MULTILINE)
"""The last line of a traceback."""
_CHANGED = "the input was changed while it was scored; run this again"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, with what, and where the scores go."""

    source: Input
    folder: BatchFolder
    config: RerankerConfig
    instruction: str | None
    """None: as configured."""
    adapter: str
    """Empty: the model itself."""
    partition_rows: int


def run(job: Job, address: str | None, engines: int | None, *, restart: bool) -> dict[str, Any]:  # Any: JSON
    """Score what is not scored yet, write what is made of all scores, and give the report of `summarize`.

    `address` is a Ray cluster's; None: a Ray of its own on this machine. `engines` None: one for each GPU, or for as
    many as share a model; without GPUs one. Raises BatchError, InputFileError and ConfigurationError.
    """
    started_s = time.time()
    config, folder = job.config, job.folder
    checkpoint = find_checkpoint(config.model)
    if address is None and config.engine.simulated is None:
        device_for(config.engine, checkpoint.dtype_on("cuda"))  # now: Ray takes longer to start than a person waits
    with folder.locked(), _connected(address):
        if restart:
            folder.clear()
        model = config.model.model_copy(update={"revision": checkpoint.revision})
        config = config.model_copy(update={"model": model})
        device = choose_device(config, checkpoint)
        digest = served_model(config, device).identity
        settings = {
            "model": digest,
            "prompts": PromptRenderer.of(checkpoint, model, few=True).fingerprint,
            "adapter": job.adapter,
            "instruction": model.instruction_text(job.instruction),
            "long_documents": config.long_documents.model_dump(mode="json"),
            "columns": {} if job.source.texts else job.source.columns,
            "output": folder.output,
            "partition_rows": job.partition_rows,
        }
        manifest = folder.open(job.source, settings)
        left = [one for one in manifest.partitions if folder.record(one.number) is None]
        if left:
            needs = resources(config, device)
            actors = min(_engines(address, engines, needs), len(left))
            if device == "cpu" and address is None and config.engine.cpu_threads is None:  # all cores are ours
                threads = max(1, int(ray.cluster_resources()["CPU"]) // actors)
                config = config.model_copy(update={"engine": config.engine.model_copy(update={"cpu_threads": threads})})
            _score(dataclasses.replace(job, config=config), actors, needs, (device, digest), manifest.rows, left)
            if manifest.stats != job.source.stats():
                raise BatchError(_CHANGED)
        ended_s = time.time()
        failed = folder.write_errors(manifest)
        if job.source.texts:
            folder.write_run(manifest)
        records = [record for one in left if (record := folder.record(one.number))]
        report = summarize(records, manifest.rows, failed, started_s, time.time() - ended_s)
        write_json(folder.report, report)
        return report


def _connected(address: str | None) -> Any:  # Any: Ray's context manager
    """Give a connection to Ray, which ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a Ray of our own: only names of partitions travel.
    own = {} if address else {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    try:
        return ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RayError, ValueError) as error:
        raise BatchError(f"no Ray at {address}: {error}") from None


def _score(
    job: Job, actors: int, needs: dict[str, float], identified: tuple[str, str], rows: int, left: Sequence[Partition]
) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(PartitionCounter).remote()
    partitions = ray.data.from_items([dataclasses.asdict(one) for one in left], override_num_blocks=len(left))
    done = partitions.map(
        PartitionActor,
        fn_constructor_args=(job, *identified, counter),
        compute=ray.data.ActorPoolStrategy(
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
    wants = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    most = min((int(have.get(name, 0) // one) for name, one in wants.items() if one), default=engines or 1)
    wanted = engines or (max(1, most) if wants["GPU"] else 1)
    if wanted > most and address is None:
        raise BatchError(f"{wanted} engines need more cores or GPUs than this machine has; it has room for {most}")
    return wanted


def _explained(error: Exception) -> BatchError:
    """Say what failed in an actor, of which Ray keeps the words: our own error that caused it, if there is one."""
    text = str(error).strip()
    failures = [match.groups() for match in _ERROR.finditer(text)]
    if ours := [message for name, message in failures if name.startswith("reranker.")]:
        return BatchError(ours[-1])
    last = ": ".join(failures[-1]) if failures else text.rpartition("\n")[2]
    return BatchError(f"the engines could not go on: {last}. What is done is kept: run this again")


class PartitionActor:
    """An engine in a process of its own, called from several threads, with a partition each."""

    def __init__(self, job: Job, device: str, digest: str, counter: ActorHandle) -> None:
        """Load the model of this digest; progress goes to the `PartitionCounter`.

        Raises BatchError if this machine has another model under the same name, and StartupCheckError.
        """
        with ThreadPoolExecutor(1) as beside:  # reads the files that the engine loads
            here = beside.submit(served_model, job.config, device)
            engine = open_engine(job.config, device)
        if here.result().identity != digest:
            raise BatchError(f"a node has other files under {job.config.model.name!r} than the one that began this")
        renderer = PromptRenderer.of(find_checkpoint(job.config.model), job.config.model)
        self._scorer = PartitionScorer(engine, renderer, job.config, job.instruction, job.adapter)
        self._read = open_reader(job.source, job.folder.index)
        self._job, self._note = job, counter.note.remote
        self._engine = {"engine": f"{os.uname().nodename}-{os.getpid()}", "ready_s": time.time()}

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Score the partition that a row of the data set is, and give it back."""
        partition, folder = Partition(**row), self._job.folder
        if folder.record(partition.number) is not None:  # it was done when an engine died
            return row
        numbers = range(partition.first_row, partition.first_row + partition.rows)
        if ray.get(self._note(partition.number, 0)) > _ATTEMPTS:
            rows = f"rows {numbers[0]} to {numbers[-1]}"
            raise BatchError(f"{_ATTEMPTS} engines died with the same partition in hand ({rows}); see Ray's logs")
        record = self._engine | {"begun_s": time.time()}
        advance = functools.partial(self._note, partition.number)
        try:
            scored, costs = asyncio.run(self._scorer.score(self._read(partition), advance))
        except EngineFailedError:
            logger.critical("the engine has failed; this process ends, and Ray starts another")
            logging.shutdown()
            os._exit(1)
        if [one.number for one in scored] != list(numbers):
            raise BatchError(_CHANGED)
        folder.finish(partition.number, scored, self._job.source.key_columns, record | costs)
        return row


class PartitionCounter:
    """An actor that the engines tell what they do."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()
        self._rows: dict[int, int] = {}

    def note(self, partition: int, rows: int) -> int:
        """Set the rows that are done of a partition; 0 begins it. Returns how often it was begun."""
        self._begun[partition] += not rows
        self._rows[partition] = rows
        return self._begun[partition]

    def rows(self) -> int:
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

    bar = tqdm(total=rows, initial=rows_before, unit=" rows", leave=False, smoothing=0.05, **form)
    with bar, ThreadPoolExecutor(1) as beside:
        beside.submit(watch)
        try:
            yield
        finally:
            ended.set()
