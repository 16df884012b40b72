"""What the dashboard shows, read from panels.yaml. Knows nothing of Grafana."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

WINDOW = "$__rate_interval"
"""Grafana puts in what suits the scrape interval and the zoom; whoever draws without it puts in their own."""


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


def _rows() -> tuple[Row, ...]:
    rows = []
    for row in yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8")):
        panels = [
            Panel(**panel | {"queries": tuple(Query(promql, legend) for legend, promql in panel["queries"].items())})
            for panel in row["panels"]
        ]
        rows.append(Row(row["row"], tuple(panels)))
    return tuple(rows)


ROWS = _rows()
