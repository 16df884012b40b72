"""The dashboard as Grafana's JSON. Pure."""

from __future__ import annotations

import json
from typing import Any

from tools.dashboard.panels import ROWS, Panel

_WIDTH, _HEIGHT, _ACROSS = 6, 8, 4


def dashboard() -> str:
    """Write it."""
    panels: list[dict[str, Any]] = []  # Any: JSON
    y = 0
    for row in ROWS:
        panels.append(
            _at(len(panels), {"type": "row", "title": row.title, "collapsed": False, "panels": []}, 0, y, 24, 1)
        )
        y += 1
        for number, panel in enumerate(row.panels):
            x, down = number % _ACROSS * _WIDTH, number // _ACROSS * _HEIGHT
            panels.append(_at(len(panels), _panel(panel), x, y + down, _WIDTH, _HEIGHT))
        y += -(-len(row.panels) // _ACROSS) * _HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    whole = {
        "title": "Reranker",
        "uid": "reranker",
        "tags": ["reranker"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _at(number: int, panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"h": height, "w": width, "x": x, "y": y}}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "description": panel.meaning,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query.promql, "legendFormat": query.legend}
            for number, query in enumerate(panel.queries)
        ],
    }
