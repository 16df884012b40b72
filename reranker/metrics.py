"""The metrics of requests and of the score cache, what a request adds to them, and the files that keep all counts.

Engines have their own in `reranker/engine/metrics.py`; docs/metrics.md lists all. Names end in Prometheus' base units.
No label holds text that a client chose.

The files outlive their processes: prometheus_client's multiprocess mode. A node is what shares a disk and is scraped at
one address: a machine or a pod. In its folder each process has one of its own, so that its series stay apart. A replica
joins its node once it knows its name. Until then, and in other programs, counts stay in memory.
"""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import statistics
import struct
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from reranker import errors
from reranker.record import STAGES, RequestRecord

logger = logging.getLogger(__name__)

_OTHER_PATHS = ("/health", "/metrics")
_REFUSALS = {
    errors.OverloadedError.code: "queue",
    errors.RequestTooLargeError.code: "too_large",
    errors.NotReadyError.code: "no_engine",
    errors.StartFailedError.code: "no_engine",
    errors.ModelNotReadyError.code: "no_engine",
    errors.ModelFailedError.code: "no_engine",
    errors.QuotaExceededError.code: "key",
    errors.MemoryFullError.code: "memory",
    errors.CallerMemoryError.code: "key",
}

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_REDIS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_TOKENS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_SHARDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)

# Requests
REQUESTS = Counter(
    "reranker_requests_total",
    "Requests for a ranking, by dialect and by how they ended: answered; partial, with unscored documents; "
    "client_gone; or the error's code (docs/errors.md).",
    ("dialect", "outcome"),
)
HTTP_RESPONSES = Counter("reranker_http_responses_total", "Answers; 499: the client had gone.", ("path", "status"))
REQUEST_SECONDS = Histogram(
    "reranker_request_duration_seconds",
    "From a ranking request's head to its answer: answered, refused (4xx) or failed (5xx).",
    ("result",),
    buckets=_SECONDS,
)
STAGE_SECONDS = Histogram(
    "reranker_stage_duration_seconds",
    "Seconds of an answered request in which a stage went on. Stages overlap: their sum may exceed the whole.",
    ("stage",),
    buckets=_SECONDS,
)
REQUEST_DOCUMENTS = Histogram("reranker_request_documents", "Documents of an answered request.", buckets=_COUNTS)
REQUEST_TOKENS = Histogram("reranker_request_tokens", "Prompt tokens in a request's `usage`.", buckets=_TOKENS)

# Models, and cascades, by their names in the configuration
MODEL_SECONDS = Histogram(
    "reranker_model_duration_seconds", "The same of each model and cascade.", ("model", "result"), buckets=_SECONDS
)
MODEL_LIVE_REPLICAS = Gauge("reranker_model_live_replicas", "Live engine replicas of each model.", ("model",))
CASCADE_MISSES = Counter(
    "reranker_cascade_misses_total", "Lists that a cascade's second model could not rank in time.", ("model", "reason")
)

# Documents and tokens
DOCUMENTS = Counter("reranker_documents_total", "Documents of answered requests.")
PROMPT_TOKENS = Counter("reranker_prompt_tokens_total", "Prompt tokens in answers' `usage`, cached ones included.")
SCORED_PAIRS = Counter("reranker_scored_pairs_total", "Pairs that engines scored for answered requests.")
SCORED_TOKENS = Counter("reranker_scored_tokens_total", "Tokens of those pairs; the head once for each shard.")
TRUNCATED_DOCUMENTS = Counter("reranker_truncated_documents_total", "Documents that lost tokens to a limit.")
WINDOWED_DOCUMENTS = Counter("reranker_windowed_documents_total", "Documents scored in more than one window.")
EXCLUDED_DOCUMENTS = Counter("reranker_excluded_documents_total", "Documents a rule or threshold left out.")
UNSCORED_DOCUMENTS = Counter("reranker_unscored_documents_total", "Documents that time did not suffice for.")
SPANS = Counter("reranker_spans_total", "Spans in answers: parts that made documents relevant.")
UNSCORED_SPANS = Counter("reranker_spans_unscored_documents_total", "Results without spans as time did not suffice.")

# Scatter and gather
REQUEST_SHARDS = Histogram("reranker_request_shards", "Shards of a request that engines worked on.", buckets=_SHARDS)
REQUEST_REPLICAS = Histogram("reranker_request_replicas", "Replicas that answered its shards.", buckets=_SHARDS)
SLOWEST_SHARD = Histogram(
    "reranker_slowest_shard_ratio",
    "The slowest shard's time over the median of its request's shards; of requests with two or more.",
    buckets=(1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10),
)
RETRIED_SHARDS = Counter("reranker_retried_shards_total", "Shards sent again because a replica was lost.")
HEDGED_SHARDS = Counter("reranker_hedged_shards_total", "Shards sent a second time because a replica lagged.")
DROPPED_SHARDS = Counter("reranker_dropped_shards_total", "Sendings called off: request over, or another faster.")

# Admission
ADMISSION_REFUSALS = Counter(
    "reranker_admission_refusals_total",
    "Requests turned away before any work: queue (429, those here already), too_large (413, more than is ever let in), "
    "no_engine (503), memory (503, too many bytes in hand), key (429, the key's own limits).",
    ("reason",),
)
REQUESTS_IN_FLIGHT = Gauge("reranker_requests_in_flight", "Requests that were let in and are not answered.")
TOKENS_IN_FLIGHT = Gauge("reranker_tokens_in_flight", "Their tokens.")
SHARDS_IN_FLIGHT = Gauge("reranker_shards_in_flight", "Their shards that are at a replica.")
BYTES_IN_HAND = Gauge("reranker_bytes_in_hand", "What requests in hand count against limits.max_bytes_in_hand.")
LIVE_REPLICAS = Gauge("reranker_live_replicas", "Engine replicas that this ingress knows to be alive.")

# Every process
LOOP_LAG = Histogram(
    "reranker_loop_lag_seconds",
    "How late the event loop came to a look at the clock, four times a second: as long, everybody waited.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RESIDENT_BYTES = Gauge("reranker_resident_bytes", "Memory of the process.")

# Score cache
CACHE_HITS = Counter("reranker_cache_hits_total", "Distinct documents whose score was remembered.")
CACHE_MISSES = Counter("reranker_cache_misses_total", "Distinct documents that were looked up and had to be scored.")
CACHE_COALESCED = Counter("reranker_cache_coalesced_total", "Distinct documents that another list was having scored.")
DEDUPLICATED_PAIRS = Counter("reranker_deduplicated_pairs_total", "Pairs not scored because their list repeats them.")
CACHE_EVICTIONS = Counter("reranker_cache_evictions_total", "Scores given up because the memory for them was full.")
CACHE_BYTES = Gauge("reranker_cache_bytes", "Memory that scores take in an ingress replica.")
REDIS_ERRORS = Counter("reranker_cache_redis_errors_total", "Calls of Redis that failed or took too long.")
REDIS_SKIPPED = Counter("reranker_cache_redis_skipped_total", "Calls of Redis left out because it did not work lately.")
REDIS_WRONG_VALUES = Counter("reranker_cache_redis_wrong_values_total", "Values in Redis that are none of ours.")
REDIS_SECONDS = Histogram("reranker_cache_redis_seconds", "Looking up a list in Redis.", buckets=_REDIS_SECONDS)

# Looked up once: a series is there, and 0, from the start, and `labels` takes as long as counting does.
_STAGES = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}
_RESULTS = {result: REQUEST_SECONDS.labels(result) for result in ("answered", "refused", "failed")}
_REASONS = {reason: ADMISSION_REFUSALS.labels(reason) for reason in dict.fromkeys(_REFUSALS.values())}


def count_request(record: RequestRecord, ranking_paths: Collection[str]) -> None:
    """Count a request whose status is known, before its answer goes out. Blocks for some 50 µs.

    A POST on a path that is none of `ranking_paths` counts as an HTTP answer only.
    """
    ranks = record.path in ranking_paths
    path = record.path if ranks or record.path in _OTHER_PATHS else "other"
    HTTP_RESPONSES.labels(path, str(record.status)).inc()
    if not ranks or record.method != "POST":
        return
    REQUESTS.labels(record.dialect or "unknown", _outcome(record)).inc()
    result = "answered" if record.status < 300 else "refused" if record.status < 500 else "failed"
    _RESULTS[result].observe(record.total_s)
    if record.model:
        MODEL_SECONDS.labels(record.model, result).observe(record.total_s)
    if record.shards:
        _count_shards(record)
    if record.error in _REFUSALS:
        _REASONS[_REFUSALS[record.error]].inc()
    if record.rankings and record.status < 300:
        _count_rankings(record)


def _outcome(record: RequestRecord) -> str:
    if record.error or record.status >= 300:
        return record.error or "other"
    return "partial" if any(ranking.unscored for ranking in record.rankings) else "answered"


def _count_rankings(record: RequestRecord) -> None:
    REQUEST_DOCUMENTS.observe(record.documents)
    REQUEST_TOKENS.observe(record.prompt_tokens)
    for stage, took_s in record.stages_s().items():
        _STAGES[stage].observe(took_s)
    DOCUMENTS.inc(record.documents)
    PROMPT_TOKENS.inc(record.prompt_tokens)
    rankings = record.rankings  # a request may have 10,000, and no other is answered meanwhile
    _add(
        (TRUNCATED_DOCUMENTS, sum(one.truncated_documents for one in rankings)),
        (WINDOWED_DOCUMENTS, sum(one.windowed_documents for one in rankings)),
        (EXCLUDED_DOCUMENTS, sum(len(one.excluded) for one in rankings)),
        (UNSCORED_DOCUMENTS, sum(len(one.unscored) for one in rankings)),
        (SPANS, sum(len(document.spans) for one in rankings for document in one.results)),
        (UNSCORED_SPANS, sum(len(one.spans_unscored) for one in rankings)),
        (DEDUPLICATED_PAIRS, sum(one.deduplicated_pairs for one in rankings)),
        (CACHE_HITS, sum(one.cached_documents for one in rankings)),
        (CACHE_MISSES, sum(one.missed_documents for one in rankings)),
        (CACHE_COALESCED, sum(one.coalesced_documents for one in rankings)),
    )
    for one in rankings:
        if one.stages and one.stages.missed:
            CASCADE_MISSES.labels(record.model, one.stages.missed).inc()


def _count_shards(record: RequestRecord) -> None:
    """Count also those of failed requests: what became of them is why."""
    answered = [one for one in record.shards if one.answer is not None]
    _add(
        (SCORED_PAIRS, sum(one.pairs for one in answered)),
        (SCORED_TOKENS, sum(one.tokens for one in answered)),
        (RETRIED_SHARDS, record.retries),
        (HEDGED_SHARDS, record.hedges),
        (DROPPED_SHARDS, sum(a.outcome == "dropped" for one in record.shards for a in one.attempts)),
    )
    if not answered:
        return
    REQUEST_SHARDS.observe(len(answered))
    REQUEST_REPLICAS.observe(record.replicas)
    if len(answered) > 1:
        took_s = [one.total_s for one in answered]
        SLOWEST_SHARD.observe(max(took_s) / max(statistics.median(took_s), 1e-6))


def _add(*amounts: tuple[Counter, int]) -> None:
    for counter, amount in amounts:
        if amount:
            counter.inc(amount)


NODE_FOLDERS = "reranker-metrics-"
"""Beginning of the names of nodes' folders. Joining a node removes those beside it that nobody uses any more."""
# Reserved at a process's start, more than all series take: a write that met a full disk would end the process (SIGBUS).
_FILE_BYTES = {"counter": 2**19, "histogram": 2**19, "gauge_sum": 2**14}
_NAME = "replica"  # the file in a process's folder with its replica's name, locked while the process lives
_KEPT_ENDED = 8
"""Ended processes with series of their own, so that Prometheus sees their last figures. Older ones: one sum."""
_ABANDONED_S = 3_600
_UNREADABLE = OSError, ValueError, RuntimeError, struct.error  # of a full disk, and of a file that is not ours

_folder: Path | None = None


def metrics_of(module: ModuleType) -> list[MetricWrapperBase]:
    """All metrics that a module declares, in its order."""
    return [one for one in vars(module).values() if isinstance(one, MetricWrapperBase)]


def join_node(folder: Path, replica: str, metrics: Iterable[MetricWrapperBase]) -> None:
    """Begin to count this process's metrics, from 0, into files of the node's folder, under its replica's name.

    If they cannot be written, counts stay in memory, unseen by other processes.
    """
    global _folder
    own = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with _locked(folder):
            _add_up_ended(folder)
            files = _make_files(own)
            name = os.open(own / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(name, fcntl.LOCK_EX)  # for as long as the process lives
            os.write(name, replica.encode())
    except _UNREADABLE as error:
        logger.warning("metrics of this process alone: %s: %s", folder, error)
        return
    values.ValueClass = functools.partial(_FileValue, files)
    for metric in metrics:
        for one in (metric, *getattr(metric, "_metrics", {}).values()):
            if one._is_observable():
                one._metric_init()  # private: prometheus_client wants the folder before a metric is declared
    _folder = folder


class _FileValue:
    """A number in this process's file, in place of prometheus_client's `MmapedValue`. Not thread-safe.

    Adding to it takes 0.2 µs and not 0.9: no lock, no system call for the process's id. A request makes 35 additions,
    which would take 3 % of an ingress's time.
    """

    def __init__(self, files: Mapping[str, MmapedDict], kind: str, *series: Any, **_: Any) -> None:
        # Any: prometheus_client gives what its `mmap_key` takes, and a gauge's mode, which the file's name says.
        file = files["gauge_sum" if kind == "gauge" else kind]
        key = mmap_key(*series)
        file.read_value(key)  # makes it
        self._numbers = memoryview(file._m).cast("d")
        self._place = file._positions[key] // 8

    def inc(self, amount: float) -> None:
        self._numbers[self._place] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._numbers[self._place] = value

    def get(self) -> float:
        return float(self._numbers[self._place])

    def get_exemplar(self) -> None:
        """There are none in files."""


def _make_files(folder: Path) -> dict[str, MmapedDict]:
    folder.mkdir()
    paths = {kind: folder / f"{kind}_{os.getpid()}.db" for kind in _FILE_BYTES}
    for kind, path in paths.items():
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _FILE_BYTES[kind])
    return {kind: MmapedDict(str(path)) for kind, path in paths.items()}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_alive(process: Path) -> bool:
    try:
        with (process / _NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # no such file: a sum of ended ones
        return isinstance(error, BlockingIOError)
    return False


def _processes(folder: Path) -> list[Path]:
    """The folders of a node's processes and of the sum of older ones, oldest first. Leaves out those in the sum."""
    all_folders = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    sums = sorted(folder.glob("ended-*"))
    added = set((sums[-1] / "added").read_text().split()) if sums else set()
    return [one for one in all_folders if one.name not in added and (one in sums or (one / _NAME).is_file())]


def _add_up_ended(folder: Path) -> None:
    """Add the oldest ended processes to the sum of ended ones. Killed at any point, it neither loses nor doubles."""
    processes = _processes(folder)
    for leftover in set(folder.glob("*/")) - set(processes):
        shutil.rmtree(leftover, ignore_errors=True)
    before = [one for one in processes if one.name.startswith("ended-")]
    ended = [one for one in processes if one not in before and not _is_alive(one)][:-_KEPT_ENDED]
    if not ended:
        return
    # Each sum has a new name: if an old series rose, Prometheus would count the processes' figures a second time.
    new = folder / f".ended-{time.time_ns()}"
    for kind, file in _make_files(new).items():
        for old in (path for one in before + ended for path in one.glob(f"{kind}_*.db") if kind != "gauge_sum"):
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(old)):
                file.write_value(key, file.read_value(key)[0] + value, 0.0)
        file.close()  # without gauges, which end with their process
    (new / "added").write_text("\n".join(one.name for one in before + ended))
    new.rename(folder / new.name[1:])  # from here on they are in the sum
    for one in before + ended:
        shutil.rmtree(one, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the folders of services that have ended."""
    for other in folder.parent.glob(f"{NODE_FOLDERS}*"):
        with contextlib.suppress(OSError):  # another user's
            old = time.time() - other.stat().st_mtime > _ABANDONED_S
            if old and other != folder and not any(map(_is_alive, other.glob("*/"))):
                shutil.rmtree(other, ignore_errors=True)


class NodeCollector(Collector):
    """Gives the series of all processes in a node's folder, each with its `replica`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Read all files. Ended processes keep their counts, but no gauges."""
        found: dict[str, Metric] = {}
        with _locked(self._folder):
            for process in _processes(self._folder):
                name = process / _NAME
                replica = name.read_text() if name.is_file() else process.name
                hidden = () if _is_alive(process) else ("gauge",)
                try:
                    metrics = MultiProcessCollector(None, str(process)).collect()
                except _UNREADABLE as error:
                    logger.warning("metrics of %s are left out: %s", replica, error)
                    continue
                for metric in (one for one in metrics if one.type not in hidden):
                    whole = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                    for sample in metric.samples:
                        whole.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return found.values()


def node_registry() -> CollectorRegistry:
    """All series of this node; of this process alone, if its counts are in memory. Reading blocks for milliseconds."""
    if _folder is None:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(NodeCollector(_folder))
    return registry
