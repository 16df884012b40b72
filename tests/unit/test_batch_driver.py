"""What the one who started a batch is told, without Ray running."""

from __future__ import annotations

import pytest
import ray
from tqdm import tqdm  # type: ignore[import-untyped]

from deployments.batch import _LINE, PartitionCounter, _engines, _explained
from reranker.errors import BatchError


def test_progress_counts_rows_once_also_of_partitions_begun_again() -> None:
    counter = PartitionCounter()
    for partition, rows in ((0, 100), (1, 50), (1, 200), (0, 0), (0, 300)):
        counter.note(partition, rows)
    assert counter.rows() == 500
    assert [counter.note(*one) for one in ((3, 0), (3, 9), (3, 0), (4, 0))] == [1, 1, 2, 1]


def test_line_of_progress_says_how_long_it_takes() -> None:
    line = tqdm.format_meter(1_000, 10_000, 400, unit=" rows", bar_format=_LINE)
    assert line == "1000 of 10000 rows,  2.50 rows/s, 1:00:00 left\n"


@pytest.mark.parametrize(
    ("address", "asked", "needs", "engines"),
    [
        (None, None, {"num_cpus": 1, "num_gpus": 0}, 1),
        (None, 4, {"num_cpus": 1, "num_gpus": 0}, 4),
        (None, None, {"num_cpus": 1, "num_gpus": 2}, 3),
        (None, 9, {"num_cpus": 0, "num_gpus": 0}, 9),  # simulated ones only sleep
        ("ray://head", 9, {"num_cpus": 1, "num_gpus": 0}, 9),  # the cluster may grow
    ],
)
def test_there_are_as_many_engines_as_asked_for_or_as_there_are_gpus(
    monkeypatch: pytest.MonkeyPatch, address: str | None, asked: int | None, needs: dict[str, float], engines: int
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 6.0})
    assert _engines(address, asked, needs) == engines


def test_more_engines_than_the_machine_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    with pytest.raises(BatchError, match="room for 8"):
        _engines(None, 9, {"num_cpus": 1, "num_gpus": 0})


_RAY = """
The above exception was the direct cause of the following exception:

ray::MapWorker(Map(PartitionActor)).submit() (pid=8913)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`.
"""
"""What Ray 2.60 puts behind the traceback of an actor's error."""
_STOPPED, _AGAIN = "the engines could not go on", "What is done is kept: run this again"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("ray::MapWorker.__init__()\n  in x\nreranker.errors.StartupCheckError: the model fails", "the model fails"),
        (f"ray::MapWorker.submit()\n  in x\nreranker.errors.BatchError: no: not so\n{_RAY}", "no: not so"),
        (f"a\nreranker.errors.BatchError: ours\n\nThe above\n  in x\nRuntimeError: outer\n{_RAY}", "ours"),
        (f"a\nOSError: no space left\n{_RAY}", f"{_STOPPED}: OSError: no space left. {_AGAIN}"),
        ("a\nno space left", f"{_STOPPED}: no space left. {_AGAIN}"),
    ],
)
def test_failure_in_an_engine_is_told_as_what_it_was(words: str, told: str) -> None:
    assert str(_explained(RuntimeError(words))) == told
