"""The live panel's figures are what was counted between two looks, also when a counter began anew."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from deployments.ui.html import live_panel
from deployments.ui.live import ALL, HISTORY_S, History, Sample, load_sample, metrics_sample, quantile_ms, step

INF = float("inf")
PAGE = """\
# TYPE reranker_requests_total counter
reranker_requests_total{dialect="rerank",outcome="answered"} 40
reranker_requests_total{dialect="score",outcome="overloaded"} 10
# TYPE reranker_admission_refusals_total counter
reranker_admission_refusals_total{reason="queue"} 10
# TYPE reranker_documents_total counter
reranker_documents_total 400
# TYPE reranker_model_duration_seconds histogram
reranker_model_duration_seconds_bucket{model="fast",result="answered",le="0.1"} 20
reranker_model_duration_seconds_bucket{model="fast",result="answered",le="1.0"} 30
reranker_model_duration_seconds_bucket{model="fast",result="answered",le="+Inf"} 30
reranker_model_duration_seconds_bucket{model="fast",result="refused",le="+Inf"} 10
reranker_model_duration_seconds_bucket{model="best",result="answered",le="0.1"} 0
reranker_model_duration_seconds_bucket{model="best",result="answered",le="1.0"} 10
reranker_model_duration_seconds_bucket{model="best",result="answered",le="+Inf"} 10
# TYPE reranker_model_live_replicas gauge
reranker_model_live_replicas{model="fast",replica="i1"} 1
reranker_model_live_replicas{model="fast",replica="i2"} 2
reranker_model_live_replicas{model="best",replica="i2"} 1
# TYPE reranker_requests_in_flight gauge
reranker_requests_in_flight{replica="i1"} 2
reranker_requests_in_flight{replica="i2"} 1
# TYPE reranker_engine_deployment gauge
reranker_engine_deployment{deployment="EngineReplica",replica="a1"} 1
reranker_engine_deployment{deployment="EngineReplica-best",replica="b1"} 1
# TYPE reranker_engine_queued_tokens gauge
reranker_engine_queued_tokens{replica="a1"} 1000
reranker_engine_queued_tokens{replica="b1"} 234
# TYPE reranker_engine_pairs_total counter
reranker_engine_pairs_total{replica="a1"} 300
reranker_engine_pairs_total{replica="b1"} 60
reranker_engine_pairs_total{replica="ended-1"} 40
# TYPE reranker_cache_hits_total counter
reranker_cache_hits_total 30
# TYPE reranker_cache_misses_total counter
reranker_cache_misses_total 10
"""


def counted(at_s: float, requests: float, **gauges: float) -> Sample:
    of_all = {what: {ALL: value} for what, value in gauges.items()}
    return Sample(at_s, {"requests": {ALL: requests}}, {}, of_all)


def test_a_page_of_metrics_is_read_by_model_and_by_replica() -> None:
    sample = metrics_sample(PAGE, 5.0)
    assert sample.counts["requests"] == {ALL: 50, "fast": 40, "best": 10}
    assert sample.counts["pairs"] == {ALL: 400, "a1": 300, "best b1": 60}, "one that ended is in the sum only"
    assert (sample.counts["refused"][ALL], sample.counts["documents"][ALL]) == (10, 400)
    assert sample.buckets["fast"] == {0.1: 20, 1.0: 30, INF: 30}
    assert sample.buckets[ALL] == {0.1: 20, 1.0: 40, INF: 40}
    assert sample.gauges["replicas"] == {ALL: 3, "fast": 2, "best": 1}
    assert sample.gauges["queue"] == {ALL: 1234, "a1": 1000, "best b1": 234}
    assert sample.gauges["in_flight"] == {ALL: 3}


def test_rates_shares_and_percentiles_are_those_of_the_time_between() -> None:
    first = Sample(
        100, {"requests": {ALL: 1_000}, "hits": {ALL: 0}, "misses": {ALL: 5}}, {"fast": {0.1: 7, 1.0: 7, INF: 7}}
    )
    last = Sample(
        110,
        {"requests": {ALL: 1_050, "new": 20}, "hits": {ALL: 30}, "misses": {ALL: 15}},
        {"fast": {0.1: 27, 1.0: 47, INF: 47}},
    )
    figures = step([first, last]).figures
    assert figures["requests"] == {ALL: 5, "new": 2}
    assert figures["cached"] == {ALL: 75}
    assert figures["p50"]["fast"] == pytest.approx(100)
    assert figures["p99"]["fast"] == pytest.approx(982)


def test_a_counter_that_begins_anew_gives_no_rate() -> None:
    assert ALL not in step([counted(0, 100), counted(2, 5)]).figures["requests"]


def test_now_is_the_last_seconds_and_the_gauges_as_they_are() -> None:
    history = History()
    for at_s, requests, flying in ((0, 0, 9), (100, 1_000, 7), (110, 1_050, 8), (112, 1_060, 1)):
        history.add(counted(at_s, requests, in_flight=flying))
    assert history.now["requests"][ALL] == 5
    assert history.now["in_flight"][ALL] == 1


def test_of_a_time_in_which_nobody_looked_the_counts_are_known_and_the_gauges_are_not() -> None:
    history = History()
    history.add(counted(0, 0, queue=5))
    history.add(counted(600, 1_200, queue=7))
    [unseen] = history.steps
    assert unseen.figures["requests"][ALL] == 2
    assert "queue" not in unseen.figures


def test_of_a_gauge_the_highest_is_drawn() -> None:
    history = History()
    for at_s, queue in ((0, 0), (2, 50), (4, 0)):
        history.add(counted(at_s, 0, queue=queue))
    assert history.steps[-1].figures["queue"][ALL] == 50


def test_the_history_is_half_an_hour_however_long_and_however_many_look() -> None:
    history = History()
    for number in range(20_000):
        history.add(counted(number / 2, number))
    steps = history.steps
    assert len(steps) < 125
    assert HISTORY_S <= steps[-1].to_s - steps[0].from_s < HISTORY_S + 31
    assert all(before.to_s == after.from_s for before, after in pairwise(steps))


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile_ms({1.0: 0, INF: 4}, 0.5) == 1000
    assert quantile_ms({1.0: 0, INF: 0}, 0.5) is None
    assert quantile_ms({}, 0.5) is None


def test_without_metrics_what_is_in_flight_is_shown() -> None:
    replicas = [{"name": "a1", "model": "fast", "pending_tokens": 30}, {"name": "b1", "pending_tokens": 12}]
    history = History()
    for at_s in (0.0, 2.0):
        history.add(load_sample({"lists": 2, "replicas": replicas}, at_s))
    assert history.now == {"in_flight": {ALL: 2}, "replicas": {ALL: 2}, "queue": {ALL: 42, "fast a1": 30, "b1": 12}}
    drawn = live_panel(history)
    assert "requests are not shown" in drawn
    assert ">42<" in drawn
    assert "fast a1 30" in drawn


def test_the_panel_draws_each_model_and_each_replica() -> None:
    history = History()
    later = PAGE.replace('fast",result="answered",le="+Inf"} 30', 'fast",result="answered",le="+Inf"} 50')
    for at_s, page in ((0.0, PAGE), (10.0, later), (20.0, later)):
        history.add(metrics_sample(page, at_s))
    drawn = live_panel(history)
    assert "1,234" in drawn
    assert len(re.findall("<figure", drawn)) == 5, "nothing was looked up in the cache in this time"
    assert "best b1 234 tokens" in drawn
    assert "fast 1 /s" in drawn
    assert re.search(r'd="M\d+ \d+H600"', drawn)
    assert "nan" not in drawn


def test_a_line_is_broken_where_nothing_is_known_and_the_busiest_are_drawn() -> None:
    history = History()
    for number in range(8):
        busy = number in (0, 1, 2, 5, 6, 7)
        queue = {f"replica {one:02}": float(one) for one in range(20)} if busy else {}
        history.add(Sample(number * 16.0, {"requests": {ALL: 0.0}}, {}, {"queue": queue}))
    drawn = live_panel(history)
    assert "and 12 more" in drawn
    assert "replica 19" in drawn
    assert "replica 11" not in drawn
    lines = re.findall(r'<path d="([^"]*)"', drawn)
    assert max(line.count("M") for line in lines) == 2
