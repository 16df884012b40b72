"""What the processes of one node have counted, in files that outlive them: prometheus_client's multiprocess mode.

A node is a machine or a pod: what shares a disk, and has one address to be scraped at. Each process has a folder of
its own within its node's, so that its series can be told from others', and a lock in it says whether it lives.

A replica joins its node once it knows its name. Until then, and in programs that are no replica, counts are in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import struct
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

NODE_FOLDERS = "reranker-metrics-"
"""How the name of every node's folder begins. Folders beside it that nobody uses any more are removed."""
_FILE_BYTES = {"counter": 2**18, "histogram": 2**18, "gauge_sum": 2**14}
"""Reserved when a process starts: more than all series take, so that no later write can meet a full disk, which would
end the process (SIGBUS)."""
_NAME = "replica"
"""The file in a process's folder that holds its replica's name, locked while the process lives."""
_KEPT_ENDED = 8
"""Ended processes that are shown each by itself, so that Prometheus sees their last figures. Older ones: one sum."""
_ABANDONED_S = 3_600
_UNREADABLE = OSError, ValueError, RuntimeError, struct.error
"""What writing to a full disk, or reading a file that is none of ours, raises."""

_folder: Path | None = None


def metrics_of(module: ModuleType) -> list[MetricWrapperBase]:
    """All metrics that a module declares, in its order."""
    return [one for one in vars(module).values() if isinstance(one, MetricWrapperBase)]


def join_node(folder: Path, replica: str, metrics: Iterable[MetricWrapperBase]) -> None:
    """Begin to count into files. Where these cannot be written, counts stay in memory, and other processes lack them.

    Args:
        folder: The node's.
        replica: Label of this process's series.
        metrics: What it counts. They begin at 0.
    """
    global _folder
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with _locked(folder):
            _add_up_ended(folder)
            own = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            _make_files(own, os.getpid())
            name = os.open(own / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(name, fcntl.LOCK_EX)  # for as long as the process lives
            os.write(name, replica.encode())
    except _UNREADABLE as error:
        logger.warning("metrics of this process alone: %s: %s", folder, error)
        return
    files = {kind: MmapedDict(str(own / f"{kind}_{os.getpid()}.db")) for kind in _FILE_BYTES}
    values.ValueClass = functools.partial(_FileValue, files)
    for metric in metrics:
        for one in (metric, *getattr(metric, "_metrics", {}).values()):
            if one._is_observable():
                one._metric_init()  # private: prometheus_client wants the folder before a metric is declared
    _folder = folder


class _FileValue:
    """A number in this process's file, in place of prometheus_client's `MmapedValue`. To be used on one thread.

    Adding to it takes 0.2 µs and not 0.9: no lock, no system call for the process's id. A request makes 35 additions,
    which would take 3 % of an ingress's time.
    """

    def __init__(
        self,
        files: Mapping[str, MmapedDict],
        kind: str,
        metric: str,
        name: str,
        labels: Sequence[str],
        texts: Sequence[str],
        description: str,
        **_: Any,
    ) -> None:
        file = files["gauge_sum" if kind == "gauge" else kind]
        key = mmap_key(metric, name, list(labels), list(texts), description)
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


def _make_files(folder: Path, process: int) -> None:
    folder.mkdir()
    for kind, size in _FILE_BYTES.items():
        with (folder / f"{kind}_{process}.db").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_alive(process: Path) -> bool:
    try:
        with (process / _NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # a sum of ended ones
        pass
    return False


def _processes(folder: Path) -> list[Path]:
    """The folders of a node's processes and the sum of older ones, without those that are in this sum. Oldest first."""
    found = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    sums = sorted((one for one in found if one.name.startswith("ended-")), key=lambda one: int(one.name[6:]))
    added = set((sums[-1] / "added").read_text().split()) if sums else set()
    return [one for one in found if one.name not in added and (one in sums or (one / _NAME).is_file())]


def _add_up_ended(folder: Path) -> None:
    """Add the oldest ended processes to the sum of ended ones. Killed at any point, it loses and doubles nothing."""
    processes = _processes(folder)
    for leftover in set(folder.glob("*/")) - set(processes):
        shutil.rmtree(leftover, ignore_errors=True)
    before = [one for one in processes if one.name.startswith("ended-")]
    ended = [one for one in processes if one not in before and not _is_alive(one)][:-_KEPT_ENDED]
    if not ended:
        return
    # A new name for each sum: were its old series to rise, Prometheus would count as new what the processes counted.
    number = 1 + max((int(one.name[6:]) for one in before), default=0)
    new = folder / f".ended-{number}"
    _make_files(new, 0)
    files = [str(file) for one in before + ended for kind in ("counter", "histogram") for file in one.glob(f"{kind}_*")]
    for kind, metrics in _by_kind(MultiProcessCollector.merge(files, accumulate=False)).items():
        written = MmapedDict(str(new / f"{kind}_0.db"))
        for metric in metrics:
            for sample in metric.samples:
                names, texts = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, texts, metric.documentation)
                written.write_value(key, sample.value, 0.0)
        written.close()
    (new / "added").write_text("\n".join(one.name for one in before + ended))
    new.rename(folder / new.name[1:])  # from here on they are in the sum
    for one in before + ended:
        shutil.rmtree(one, ignore_errors=True)


def _by_kind(metrics: Iterable[Metric]) -> dict[str, list[Metric]]:
    kinds: dict[str, list[Metric]] = {}
    for metric in metrics:
        kinds.setdefault(metric.type, []).append(metric)
    return kinds


def _remove_abandoned(folder: Path) -> None:
    """Remove the folders of services that have ended."""
    for other in folder.parent.glob(f"{NODE_FOLDERS}*"):
        with contextlib.suppress(OSError):  # another user's
            old = time.time() - other.stat().st_mtime > _ABANDONED_S
            if old and other != folder and not any(map(_is_alive, other.glob("*/"))):
                shutil.rmtree(other, ignore_errors=True)


class NodeCollector(Collector):
    """Gives the series of all processes that count on this node, each with its `replica`."""

    def __init__(self, folder: Path) -> None:
        """Read a node's folder."""
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Read all files. Of ended processes: what they counted, but no gauges."""
        found: dict[str, Metric] = {}
        with _locked(self._folder):
            for process in _processes(self._folder):
                name = process / _NAME
                replica = name.read_text() if name.is_file() else process.name
                alive = _is_alive(process)
                try:
                    metrics = MultiProcessCollector(None, str(process)).collect()
                except _UNREADABLE as error:
                    logger.warning("metrics of %s are left out: %s", replica, error)
                    continue
                for metric in metrics:
                    if metric.type == "gauge" and not alive:
                        continue
                    whole = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                    for sample in metric.samples:
                        whole.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return found.values()


def node_registry() -> CollectorRegistry:
    """All series of this node; of this process alone, where nothing is kept in files."""
    if _folder is None:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(NodeCollector(_folder))
    return registry


def exposition() -> bytes:
    """All series of this node as Prometheus text. Blocks for some milliseconds."""
    return generate_latest(node_registry())


def gauge(name: str, description: str) -> Gauge:
    """Declare a gauge. Its values are not added up over processes: each has a file of its own."""
    return Gauge(name, description, multiprocess_mode="sum")
