"""Batches on Ray Data: partitions in, files of scores out. Reached by `reranker batch`, by name.

Ray Data's rows are the partitions, and its actors hold the engines: it starts them on one machine or a cluster, keeps
each supplied, starts another when one dies and gives it what the dead one had. Not its own readers and writers: what
they make of an input is not cut the same way twice, and nothing that was cut otherwise can be resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from deployments.batch.actor import PartitionActor
from deployments.batch.progress import Board, shown
from deployments.engine_replica import choose_device, environment, identity, resources
from reranker.errors import RerankerError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline.files import write_json
from reranker.offline.folder import BatchError, Manifest
from reranker.offline.job import Job, Report
from reranker.offline.output import write_errors, write_run
from reranker.offline.rows import Partition

_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray that we start: what travels are names of partitions."""
_PARTITIONS_AT_A_TIME = 2
"""In one engine: it has work from the next while the rest of one is scored, and its files are written."""


_OURS = re.compile(r"reranker\.[\w.]+Error: (.+)")
"""One of our errors, as the last line of a traceback."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the engines run."""

    address: str | None = None
    """Of a Ray cluster. None: a Ray of its own on this machine."""
    engines: int | None = None
    """How many. None: one for each GPU, or for as many as share a model; without GPUs one."""


def run(job: Job, cluster: Cluster, *, restart: bool = False) -> Report:
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
        manifest = job.folder.open(job.found, job.terms(digest, renderer))
        left = [one for one in manifest.partitions if job.folder.record(one.number) is None]
        if left:
            job.folder.forget_attempts()
            _score(job, cluster, device, digest, manifest, left)
            if not manifest.is_of(job.found):
                raise BatchError("the input was changed while it was scored; run this again")
        ended_s = time.time()
        failed = write_errors(job.folder, manifest)
        if job.found.form == "ids":
            write_run(job.folder, manifest)
        records = [record for one in left if (record := job.folder.record(one.number))]
        report = Report.of(records, manifest.rows, failed, started_s, time.time() - ended_s)
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
    board = ray.remote(num_cpus=0)(Board).remote()
    partitions = ray.data.from_items([dataclasses.asdict(one) for one in left], override_num_blocks=len(left))
    done = partitions.map_batches(
        PartitionActor,
        fn_constructor_args=(job, device, digest, board),
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
    there = manifest.rows - sum(one.rows for one in left)
    try:
        with shown(board, manifest.rows, there):
            for _ in done.iter_batches(batch_size=None, prefetch_batches=0):
                pass
    except RayError as error:
        raise _understood(error) from error


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


def _understood(error: BaseException) -> RerankerError:
    """What a failure in an actor means to the one who started the batch."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RerankerError):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) and inner is not cause else cause.__cause__
    lines = str(error).strip().splitlines() or [""]
    ours = [found[1] for line in lines if (found := _OURS.match(line))]
    if ours:  # of an actor that could not start, Ray keeps the words only
        return BatchError(ours[-1])
    said = lines[-1]
    return BatchError(f"the engines could not go on: {said}. What is done is kept: run this again")
