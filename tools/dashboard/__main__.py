"""Write the dashboard for Grafana, check that it is fresh, or draw it as a Prometheus server has it.

python -m tools.dashboard            writes k8s/base/dashboards/reranker.json
python -m tools.dashboard --check    fails when it is stale
python -m tools.dashboard --draw FILE --url http://localhost:9090 --minutes 5
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tools.dashboard.panels import ROWS, Panel
from tools.dashboard.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "k8s" / "base" / "dashboards" / "reranker.json"
_WIDTH, _HEIGHT, _ACROSS = 6, 8, 4


def dashboard() -> str:
    """The dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []  # Any: JSON
    y = 0
    for row in ROWS:
        heading = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        panels.append(_at(len(panels), heading, 0, y, 24, 1))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is stale")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="an image of all panels, .svg or .png")
    parser.add_argument("--url", default="http://127.0.0.1:9090", help="the Prometheus server to draw from")
    parser.add_argument("--minutes", type=float, default=5, help="how far back")
    parser.add_argument("--window", default="20s", help="of rates: four scrape intervals or more")
    arguments = parser.parse_args()
    if arguments.draw:
        from tools.dashboard.drawing import draw  # matplotlib takes a second

        end_s = time.time()
        draw(Prometheus(arguments.url, arguments.window), arguments.draw, end_s - 60 * arguments.minutes, end_s)
        return 0
    fresh = dashboard()
    if not arguments.check:
        WRITTEN.write_text(fresh, encoding="utf-8")
    elif not WRITTEN.is_file() or WRITTEN.read_text(encoding="utf-8") != fresh:
        print(f"{WRITTEN.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
