"""The live panel's figures are what was counted between two looks, also when a counter began anew."""

from __future__ import annotations

import pytest

from deployments.ui.html import live_panel
from deployments.ui.live import Sample, figures, load_sample, metrics_sample, quantile_ms

PAGE = """\
# TYPE reranker_requests_total counter
reranker_requests_total{dialect="rerank",outcome="answered"} 40
reranker_requests_total{dialect="score",outcome="overloaded"} 10
# TYPE reranker_admission_refusals_total counter
reranker_admission_refusals_total{reason="queue"} 10
# TYPE reranker_documents_total counter
reranker_documents_total 400
# TYPE reranker_request_duration_seconds histogram
reranker_request_duration_seconds_bucket{result="answered",le="0.1"} 20
reranker_request_duration_seconds_bucket{result="answered",le="1.0"} 40
reranker_request_duration_seconds_bucket{result="answered",le="+Inf"} 40
reranker_request_duration_seconds_bucket{result="refused",le="+Inf"} 10
reranker_request_duration_seconds_sum{result="answered"} 9
reranker_request_duration_seconds_count{result="answered"} 40
# TYPE reranker_live_replicas gauge
reranker_live_replicas 2
# TYPE reranker_requests_in_flight gauge
reranker_requests_in_flight 3
# TYPE reranker_engine_queued_tokens gauge
reranker_engine_queued_tokens 1234
"""


def test_a_page_of_metrics_is_read_over_all_labels() -> None:
    sample = metrics_sample(PAGE, 5.0)
    assert (sample.requests, sample.refused, sample.documents) == (50, 10, 400)
    assert sample.buckets == {0.1: 20, 1.0: 40, float("inf"): 40}
    assert (sample.replicas, sample.in_flight, sample.queued_tokens) == (2, 3, 1234)


def test_rates_and_percentiles_are_those_of_the_last_seconds() -> None:
    samples = [
        Sample(0, 0, 0, 0, {0.1: 0, 1.0: 0, float("inf"): 0}),
        Sample(100, 1_000, 0, 5_000, {0.1: 1_000, 1.0: 1_000, float("inf"): 1_000}),
        Sample(110, 1_050, 10, 5_500, {0.1: 1_020, 1.0: 1_040, float("inf"): 1_040}),
    ]
    now = figures(samples)
    assert (now.requests_per_s, now.documents_per_s, now.refused_per_s) == (5, 50, 1)
    assert now.p50_ms == pytest.approx(100)
    assert now.p95_ms == pytest.approx(910)


def test_a_counter_that_begins_anew_gives_no_rate() -> None:
    assert figures([Sample(0, 100), Sample(2, 5)]).requests_per_s is None
    assert figures([Sample(0, 100)]).requests_per_s is None


def test_a_look_after_a_long_while_counts_from_the_last_one() -> None:
    assert figures([Sample(0, 0), Sample(100, 200)]).requests_per_s == 2


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile_ms({1.0: 0, float("inf"): 4}, 0.5) == 1000
    assert quantile_ms({1.0: 0, float("inf"): 0}, 0.5) is None
    assert quantile_ms({}, 0.5) is None


def test_without_metrics_what_is_in_flight_is_shown() -> None:
    sample = load_sample({"lists": 2, "replicas": [{"pending_tokens": 30}, {"pending_tokens": 12}]}, 0.0)
    assert (sample.in_flight, sample.replicas, sample.queued_tokens) == (2, 2, 42)
    drawn = live_panel([sample])
    assert "counts no requests" in drawn
    assert ">42<" in drawn


def test_the_panel_draws_what_is_known() -> None:
    drawn = live_panel([metrics_sample(PAGE, float(second)) for second in range(3)])
    assert "1,234" in drawn
    assert "<polyline" in drawn
    assert "nan" not in drawn
