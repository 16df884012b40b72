"""What processes count is added up, whatever becomes of them, and shown as Prometheus has it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from deployments.http import search
from deployments.scaling import REASONS
from reranker.dialects import DIALECTS, PATHS
from reranker.metrics import catalog
from reranker.metrics.book import SUFFIX, Book, Page, cell, pages
from reranker.metrics.exposition import exposition
from reranker.metrics.kinds import Counter, Gauge, Histogram, Label
from reranker.metrics.ledger import Ledger

TURNS = Counter("turns_total", "Turns.", (Label("way", ("left", "right", "other")),))
HELD = Gauge("held", "Held.")
FULLEST = Gauge("fullest", "Held by the one that holds most.", across="max")
SECONDS = Histogram("turn_seconds", "Seconds.", (0.5, 1, 2))
METRICS = (TURNS, HELD, FULLEST, SECONDS)


def _book(folder: Path, name: str) -> Book:
    return Book(folder / f"{name}{SUFFIX}", METRICS)


def _fill(book: Book) -> None:
    book.count(TURNS, 2, "left")
    book.observe(SECONDS, 0.5)
    book.observe(SECONDS, 7)
    book.set(HELD, 3)
    book.set(FULLEST, 3)


def test_sums_of_several_processes_are_shown_as_prometheus_has_them(tmp_path: Path) -> None:
    books = [_book(tmp_path, name) for name in "ab"]
    for book in books:
        _fill(book)
    books[1].set(FULLEST, 9)
    ledger = Ledger(METRICS)
    ledger.take(pages(tmp_path))
    text = exposition(METRICS, ledger.totals()).decode()
    assert [line for line in text.splitlines() if not line.startswith("# HELP")] == [
        "# TYPE turns_total counter",
        'turns_total{way="left"} 4.0',
        'turns_total{way="right"} 0.0',
        'turns_total{way="other"} 0.0',
        "# TYPE held gauge",
        "held 6.0",
        "# TYPE fullest gauge",
        "fullest 9.0",
        "# TYPE turn_seconds histogram",
        'turn_seconds_bucket{le="0.5"} 2.0',  # a bound belongs to its bucket
        'turn_seconds_bucket{le="1.0"} 2.0',
        'turn_seconds_bucket{le="2.0"} 2.0',
        'turn_seconds_bucket{le="+Inf"} 4.0',
        "turn_seconds_count 4.0",
        "turn_seconds_sum 15.0",
    ]


def _count_and_die(path: Path) -> None:
    book = Book(path, METRICS)
    _fill(book)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_counted_a_moment_before_kill_9_is_there_and_what_was_held_is_not(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_count_and_die, args=(tmp_path / f"dead{SUFFIX}",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    living = _book(tmp_path, "living")
    living.count(TURNS, 1, "left")
    [dead] = pages(tmp_path, dead_only=True)
    assert (dead.source, dead.alive) == ("dead", False)
    ledger = Ledger(METRICS)
    ledger.take(pages(tmp_path))
    totals = ledger.totals()
    assert totals[cell(TURNS, ["left"])] == 3
    assert totals[cell(SECONDS, [], "3")] == 1
    assert cell(HELD, []) not in totals


@given(st.permutations([(1, 5.0), (2, 7.0), (2, 7.0), (3, 7.5)]))
def test_pages_that_come_twice_or_in_any_order_make_the_same_sum(order: list[tuple[int, float]]) -> None:
    ledger = Ledger(METRICS)
    ledger.take([Page("other", {cell(TURNS, ["left"]): 1})])
    for turns, seconds in order:
        ledger.take([Page("one", {cell(TURNS, ["left"]): turns, cell(SECONDS, [], "sum"): seconds})])
    assert ledger.totals() == {cell(TURNS, ["left"]): 4, cell(SECONDS, [], "sum"): 7.5}


def test_gauges_of_a_process_that_is_silent_for_long_are_left_out() -> None:
    now_s = 0.0
    ledger = Ledger(METRICS, lambda: now_s)
    ledger.take([Page("silent", {cell(HELD, []): 5, cell(TURNS, ["left"]): 1})])
    now_s = 29
    ledger.take([Page("other", {cell(HELD, []): 2})])
    assert ledger.totals()[cell(HELD, [])] == 7
    now_s = 31
    assert ledger.totals() == {cell(HELD, []): 2, cell(TURNS, ["left"]): 1}


def test_value_that_no_label_has_counts_as_another_one(tmp_path: Path) -> None:
    book = _book(tmp_path, "a")
    book.count(TURNS, 1, "up")
    assert book.page().cells == {cell(TURNS, ["other"]): 1}


def test_book_goes_on_where_it_was_and_starts_anew_with_other_metrics(tmp_path: Path) -> None:
    book = _book(tmp_path, "a")
    _fill(book)
    with pytest.raises(BlockingIOError):
        _book(tmp_path, "a")
    before = book.page()
    book.close()
    again = _book(tmp_path, "a")
    assert again.page() == before
    again.close()
    assert Book(tmp_path / f"a{SUFFIX}", (HELD,)).page().cells == {}


def test_file_that_is_no_book_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / f"broken{SUFFIX}").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    (tmp_path / f"empty{SUFFIX}").touch()
    _fill(_book(tmp_path, "a"))
    assert [page.source for page in pages(tmp_path)] == ["a"]


def test_names_and_labels_are_as_prometheus_wants_them() -> None:
    families = list(text_string_to_metric_families(exposition(catalog.COUNTED, {}).decode()))
    assert len(families) == len(catalog.COUNTED)
    for metric in (*catalog.COUNTED, *catalog.CONTROLLER):
        assert metric.name.startswith("reranker_")
        assert metric.name.endswith("_total") == isinstance(metric, Counter), metric.name
        assert not metric.name.endswith(("_ms", "_milliseconds", "_percent", "_bucket", "_count", "_sum"))
        for label in metric.labels:
            assert label.name not in ("le", "quantile", "job", "instance")
            assert len(set(label.values)) == len(label.values) <= 40


def test_labels_have_every_value_that_the_code_gives_them() -> None:
    assert {one.name for one in DIALECTS} < set(catalog.DIALECTS)
    assert {*PATHS, *search.DIALECT.paths} == set(catalog.RANKING_PATHS)
    assert set(REASONS) == set(catalog.SCALING_REASONS)
