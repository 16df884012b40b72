"""What a panel is, and the queries to Ray's exporter that panels are made of. Knows nothing of Grafana."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = "$__rate_interval"
"""Grafana puts in what suits the scrape interval and the zoom; whoever draws without it puts in their own."""
ENGINE = '{deployment="EngineReplica"}'


@dataclass(frozen=True, slots=True)
class Query:
    """One or several lines of a panel."""

    promql: str
    legend: str
    """May name labels: {{stage}}."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """As Grafana calls it: s, percentunit, reqps, bytes, short."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def rate(name: str, by: str = "") -> str:
    """Sum of what a counter of ours grows by per second."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate(ray_reranker_{name}[{WINDOW}]))"


def quantile(share: float, name: str, by: str = "", selector: str = "") -> str:
    """Value that this share of a histogram's observations stays below."""
    labels = ", ".join(filter(None, ("le", by)))
    buckets = f"ray_reranker_{name}_bucket_total{selector}"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({buckets}[{WINDOW}])))"


def mean(name: str) -> str:
    """Mean of a histogram's observations."""
    return f"{rate(f'{name}_sum_total')} / {rate(f'{name}_count_total')}"
