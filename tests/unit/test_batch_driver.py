"""What the one who started a batch is told, without Ray running."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from tqdm import tqdm  # type: ignore[import-untyped]

from deployments.batch import _LINE, PartitionCounter, _engines, _explained
from reranker.errors import BatchError, StartupCheckError


def test_progress_counts_rows_once_also_of_partitions_begun_again() -> None:
    counter = PartitionCounter()
    for partition, rows in ((0, 100), (1, 50), (1, 200), (0, 0), (0, 300)):
        counter.note(partition, rows)
    assert counter.rows() == 500
    assert [counter.begin(3), counter.begin(3), counter.begin(4)] == [1, 2, 1]


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


def test_failure_in_an_engine_is_told_as_what_it_was() -> None:
    ours = StartupCheckError("spread", "all equal", "zeros")
    outer: Any = RuntimeError("task failed")
    outer.__cause__ = ours
    assert _explained(outer) is ours
    wrapped: Any = RuntimeError("actor died")
    wrapped.cause = ours
    assert _explained(wrapped) is ours
    told = RuntimeError("Traceback\n  in a\nreranker.errors.StartupCheckError: the model fails\n\nDuring handling …\nx")
    assert str(_explained(told)) == "the model fails"
    assert "no space left" in str(_explained(RuntimeError("traceback\nno space left")))
