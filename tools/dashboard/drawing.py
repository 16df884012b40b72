"""The dashboard as an image, for where there is no Grafana: the same panels, each drawn from its own queries."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from tools.dashboard.panels import ROWS, Panel
from tools.dashboard.prometheus import Prometheus

_ACROSS, _POINTS = 4, 120
_STYLE: dict[Any, Any] = {  # matplotlib types every key
    "font.size": 7,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.1,
    "svg.fonttype": "none",  # text stays text: a fifth of the size
    "svg.hashsalt": "reranker",  # the same picture, the same file
}


def draw(prometheus: Prometheus, file: Path, start_s: float, end_s: float) -> None:
    """Draw all panels between two Unix times; the file's name says in what format."""
    lines = [-(-len(row.panels) // _ACROSS) for row in ROWS]
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=(15, 2.1 * sum(lines) + 0.35 * len(ROWS)), layout="constrained")
        parts: Any = figure.subfigures(len(ROWS), 1, height_ratios=[2.1 * count + 0.35 for count in lines])
        for part, row, count in zip(parts, ROWS, lines, strict=True):
            part.suptitle(row.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
            axes = part.subplots(count, _ACROSS, squeeze=False).flatten()
            for place, panel in zip(axes, row.panels, strict=False):
                _draw_panel(place, panel, prometheus, start_s, end_s)
            for place in axes[len(row.panels) :]:
                place.set_visible(False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)
        plt.close(figure)


def _draw_panel(axes: Axes, panel: Panel, prometheus: Prometheus, start_s: float, end_s: float) -> None:
    axes.set_title(panel.title, loc="left")
    highest = 0.0
    for query in panel.queries:
        for line in prometheus.between(query.promql, start_s, end_s, (end_s - start_s) / _POINTS):
            points = [(at_s, value) for at_s, value in line.points if math.isfinite(value)]
            if not points:
                continue
            highest = max(highest, *(value for _, value in points))
            times = [datetime.fromtimestamp(at_s, UTC) for at_s, _ in points]
            axes.plot(times, [value for _, value in points], label=line.name(query.legend) or "all")  # type: ignore[arg-type]
    axes.set_ylim(0, highest * 1.1 or 1)
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    formatters = {"percentunit": PercentFormatter(1), "s": EngFormatter("s"), "bytes": EngFormatter("B")}
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_major_formatter(formatters.get(panel.unit, plain))
    if axes.get_lines():
        axes.legend(loc="upper left", fontsize=6, ncols=2 if len(axes.get_lines()) > 4 else 1, framealpha=0.6)
