"""What the processes of a node count is shown for each, whatever becomes of them, and never twice."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.parser import text_string_to_metric_families

from deployments.autoscaling import GAUGES
from reranker import errors, metrics
from reranker.config import RerankerConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.engine import metrics as engine_metrics
from reranker.metrics import NODE_FOLDERS, NodeCollector, metrics_of
from reranker.ranking import agreement

COUNT = """
import os, signal, sys
from pathlib import Path
from reranker import metrics
from reranker.metrics import join_node, metrics_of
def count(name, turns):
    join_node(Path(sys.argv[1]), name, metrics_of(metrics))
    for _ in range(turns):
        metrics.DOCUMENTS.inc(10)
        metrics.REQUEST_SECONDS.labels("answered").observe(0.05)
        metrics.REQUESTS_IN_FLIGHT.set(3)
"""
LIVE = (
    COUNT
    + """
count(sys.argv[2], int(sys.argv[3]))
print("counted", flush=True)
sys.stdin.read()
"""
)
DIE = (
    COUNT
    + """
for name in sys.argv[2:]:
    if not os.fork():
        count(name, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
"""
)
TURNS = "reranker_documents_total"


class Replica:
    """A process that counts, and lives until it is killed."""

    def __init__(self, node: Path, name: str, turns: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(node), name, str(turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "counted\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def _kill_replicas(node: Path, *names: str) -> None:
    """Have processes count once each, one after the other, and be killed."""
    subprocess.run([sys.executable, "-c", DIE, str(node), *names], check=True)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / f"{NODE_FOLDERS}session"


def _shown(node: Path) -> Mapping[str, Mapping[str, float]]:
    """By sample name: the value by replica, or by replica and bound."""
    shown: dict[str, dict[str, float]] = {}
    for family in NodeCollector(node).collect():
        for one in family.samples:
            labels = [one.labels["replica"], *(text for name, text in one.labels.items() if name not in ("replica",))]
            assert " ".join(labels) not in shown.get(one.name, {}), "a series is there twice"
            shown.setdefault(one.name, {})[" ".join(labels)] = one.value
    return shown


def test_each_process_has_its_own_series_and_what_was_counted_before_kill_9_stays(node: Path) -> None:
    first, second = Replica(node, "first", 2), Replica(node, "second", 3)
    assert _shown(node)[TURNS] == {"first": 20, "second": 30}
    first.kill()
    shown = _shown(node)
    assert shown[TURNS] == {"first": 20, "second": 30}
    assert shown["reranker_request_duration_seconds_bucket"]["first answered 0.05"] == 2  # a bound is in its bucket
    assert shown["reranker_request_duration_seconds_count"]["first answered"] == 2
    assert shown["reranker_requests_in_flight"] == {"second": 3}  # what the dead one held it holds no more
    second.kill()


def test_ended_processes_do_not_pile_up_and_nothing_that_they_counted_is_lost(node: Path) -> None:
    """A crash loop of a week must not fill the disk, nor Prometheus."""
    _kill_replicas(node, *(f"replica-{number}" for number in range(12)))
    living = Replica(node, "living")
    shown = _shown(node)
    assert len(shown[TURNS]) <= metrics._KEPT_ENDED + 2
    assert sum(shown[TURNS].values()) == 130
    assert sum(v for k, v in shown["reranker_request_duration_seconds_count"].items() if "answered" in k) == 13
    assert len(list(node.glob("*/"))) == len(shown[TURNS])
    living.kill()


def test_sum_of_ended_processes_never_rises_under_the_same_name(node: Path) -> None:
    """It was counted under the processes' own names: a rate over all series must not see it again."""
    seen: dict[str, float] = {}
    for number in range(5):
        _kill_replicas(node, *(f"replica-{number}-{one}" for one in range(3)))
        for replica, value in _shown(node)[TURNS].items():
            assert seen.setdefault(replica, value) == value


def test_adding_up_that_is_broken_off_counts_nothing_twice(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing the sum and removing what is in it, before or after the sum counts."""
    _kill_replicas(node, *(f"replica-{number}" for number in range(10)))
    monkeypatch.setattr(metrics, "_KEPT_ENDED", 4)

    def broken_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for owner, step in ((Path, "rename"), (shutil, "rmtree")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, broken_off)
            with pytest.raises(KeyboardInterrupt):
                metrics._add_up_ended(node)
        assert sum(_shown(node)[TURNS].values()) == 100
    metrics._add_up_ended(node)
    assert sum(_shown(node)[TURNS].values()) == 100
    assert len(list(node.glob("*/"))) == 5


def test_process_that_cannot_write_counts_for_nobody_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Replica(tmp_path / "file" / "node", "unlucky").kill()


def test_start_that_is_broken_off_or_meets_a_full_disk_is_no_series(
    node: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    living = Replica(node, "living")

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        metrics.join_node(node, "unlucky", metrics_of(metrics))
    assert "No space left" in caplog.text
    assert len(list(node.glob("*/"))) == 2
    assert _shown(node)[TURNS] == {"living": 10}
    Replica(node, "next").kill()
    assert _shown(node)[TURNS] == {"living": 10, "next": 10}
    assert len(list(node.glob("*/"))) == 2
    living.kill()


def test_file_that_cannot_be_read_is_passed_over(node: Path) -> None:
    """Neither a scrape nor the start of a replica may fail by it."""
    _kill_replicas(node, *(f"replica-{number}" for number in range(10)))
    broken = min(node.glob("*/"), key=lambda one: one.stat().st_mtime)
    [file] = broken.glob("counter_*.db")
    file.write_bytes(b"\xff\x0f\0\0\0\0\0\0" + b"\x7f" * 5_000)
    assert sum(_shown(node)[TURNS].values()) == 90
    Replica(node, "next").kill()


def test_folders_of_services_that_ended_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    ended, running, new = (tmp_path / f"{NODE_FOLDERS}{name}" for name in ("ended", "running", "new"))
    Replica(ended, "a").kill()
    living = Replica(running, "b")
    for folder in (ended, running):
        os.utime(folder, (0, 0))
    Replica(new, "c").kill()
    assert not ended.exists()
    assert _shown(running)[TURNS] == {"b": 10}
    living.kill()


def test_all_series_that_there_can_be_fit_into_what_is_reserved() -> None:
    """A file that had to grow could meet a full disk; a process that writes there then is ended by the kernel."""
    outcomes = [*{one.code for one in errors.for_clients()}, *("answered", "partial", "client_gone", "other", "x" * 20)]
    needed = {"counter": 0, "histogram": 0}
    for dialect in [*(one.name for one in DIALECTS), "search", "unknown"]:
        for outcome in outcomes:
            needed["counter"] += _file_bytes(metrics.REQUESTS, {"dialect": dialect, "outcome": outcome}, "_total")
    for path in [*PATHS, *metrics._OTHER_PATHS, "/v1/search", "/search", "other"]:
        for status in range(20):
            needed["counter"] += _file_bytes(metrics.HTTP_RESPONSES, {"path": path, "status": f"{status:3}"}, "_total")
    limits = [RerankerConfig.model_fields[key].metadata[0].max_length for key in ("models", "cascades")]
    for number in range(sum(limits)):
        for result in ("answered", "refused", "failed"):
            for bound in range(len(metrics.MODEL_SECONDS._upper_bounds) + 1):
                labels = {"model": f"{number:40}", "result": result, "le": f"{bound:5}"}
                needed["histogram"] += _file_bytes(metrics.MODEL_SECONDS, labels, "_bucket")
        for reason in range(8):  # `reranker.ranking.cascade._NOT_IN_TIME` and what is below them
            needed["counter"] += _file_bytes(
                metrics.CASCADE_MISSES, {"model": f"{number:40}", "reason": f"{reason:20}"}, "_total"
            )
    most = RerankerConfig.model_fields["shadows"].metadata[0].max_length
    for number in range(most):  # adapters have the longest names
        shadow = {"of": f"{number:100}", "with": f"{number:100}"}
        for why in agreement.DROPPED:
            needed["counter"] += _file_bytes(agreement.DROPPED_LISTS, shadow | {"reason": why}, "_total")
        for size in agreement.SIZES:
            of_size = shadow | {"size": size}
            for counter in (agreement.LISTS, agreement.FLIPS):
                needed["counter"] += _file_bytes(counter, of_size, "_total")
            for bound in range(len(agreement.CORRELATION._upper_bounds) + 1):
                needed["histogram"] += _file_bytes(agreement.CORRELATION, of_size | {"le": f"{bound:5}"}, "_bucket")
        for bound in range(len(agreement.OVERLAP._upper_bounds) + 1):
            needed["histogram"] += _file_bytes(agreement.OVERLAP, shadow | {"le": f"{bound:5}"}, "_bucket")
    for family in (*metrics_of(metrics), *metrics_of(engine_metrics)):  # a sum of ended processes has both
        for metric in family.collect():
            for sample in metric.samples:
                kind = {"counter": "counter", "histogram": "histogram"}.get(metric.type)
                if kind:
                    needed[kind] += _file_bytes(family, sample.labels, sample.name.removeprefix(metric.name))
    assert all(needed[kind] < metrics._FILE_BYTES[kind] for kind in needed), needed


def _file_bytes(family: MetricWrapperBase, labels: Mapping[str, str], ending: str) -> int:
    name, text = vars(family)["_name"], vars(family)["_documentation"]
    key = mmap_key(name, name + ending, list(labels), list(labels.values()), text)
    return 32 + len(key.encode())


def test_names_and_labels_are_as_prometheus_wants_them() -> None:
    assert len([*metrics_of(metrics), *metrics_of(engine_metrics)]) > 45
    for family in text_string_to_metric_families(generate_latest().decode()):
        if family.name.startswith("reranker_"):
            assert not family.name.endswith(("_ms", "_milliseconds", "_percent", "_bucket", "_count", "_sum", "_total"))
            names = {sample.name.removeprefix(family.name) for sample in family.samples}
            allowed = {"counter": {"_total", "_created"}, "gauge": {""}}.get(
                family.type, {"_bucket", "_sum", "_count", "_created"}
            )
            assert names <= allowed, family.name
            assert not {"quantile", "job", "instance", "replica"} & {k for one in family.samples for k in one.labels}
    assert all(name.startswith("reranker_scaling_") for name in GAUGES)
