"""Draws the plots, as SVG, from the committed results: a panel for each shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving.machine import RESULTS
from benchmarks.serving.registry import OURS, PEER
from benchmarks.serving.results import load_all
from benchmarks.shapes import SHAPES

_ORDER = (*SHAPES, "demo")
_COLOURS = {OURS: "#1f6fb4", PEER: "#d1495b"}
_OTHERS = ("#66a182", "#edae49", "#8d6a9f", "#5c6b73")
_AT_ONCE = ("20x1", "20x8", "20x16", "20x64")
_SIZES = (1, 10, 20, 200, 1_000, 10_000)
Draw = Callable[[Any, dict[str, Any]], None]  # Any: matplotlib's axes; JSON


def draw_all(results: dict[str, dict[str, Any]] | None = None, folder: Path = RESULTS) -> list[Path]:
    """Draw every plot.

    Args:
        results: By shape. None: the committed ones.
        folder: Where to.

    Returns:
        What was written; nothing where nothing was measured.
    """
    results = load_all() if results is None else results
    shapes = [shape for shape in _ORDER if shape in results]
    if not shapes:
        return []
    plots: dict[str, tuple[str, Draw]] = {
        "serving-throughput-latency.svg": ("Lists of 20 from 1, 8, 16 and 64 clients", _throughput_latency),
        "serving-list-size.svg": ("One list at a time, by its length", _list_size),
        "serving-mixed.svg": ("One client looping lists of 600, two looping lists of 10: the lists of 10", _mixed),
    }
    return [
        _draw(folder / name, title, draw, [results[one] for one in shapes]) for name, (title, draw) in plots.items()
    ]


def _draw(path: Path, title: str, draw: Draw, results: list[dict[str, Any]]) -> Path:
    # Imported here: only this needs it.
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reranker", "font.size": 10}):
        figure, panels = pyplot.subplots(
            1, len(results), figsize=(1.2 + 4.4 * len(results), 4), layout="constrained", squeeze=False
        )
        for axes, result in zip(panels[0], results, strict=True):
            draw(axes, result)
            axes.set_title(result["shape"]["name"], fontsize=11)
            axes.grid(visible=True, alpha=0.3)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        if draw is not _mixed:  # which has names on its axis
            panels[0][0].legend(frameon=False)
        figure.suptitle(title, fontsize=12)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
    return path


def systems_of(result: dict[str, Any]) -> dict[str, str]:
    """The systems of a result that have a figure, and their colours."""
    others = iter(_OTHERS)
    return {name: _COLOURS.get(name) or next(others, "#999999") for name in result["systems"]}


def _throughput_latency(axes: Any, result: dict[str, Any]) -> None:
    for system, colour in systems_of(result).items():
        found = [result["summary"].get(name, {}).get(system) for name in _AT_ONCE]
        points = [
            (one["pairs_per_s"]["median"], one["latency_ms"]["20"]["p50"]["median"]) for one in found if _has(one, "20")
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=system)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("pairs/s")
    axes.set_ylabel("p50 of a list, ms")


def _list_size(axes: Any, result: dict[str, Any]) -> None:
    for system, colour in systems_of(result).items():
        found = {size: result["summary"].get(f"{size}x1", {}).get(system) for size in _SIZES}
        points = [
            (size, one["latency_ms"][str(size)]["p50"]["median"]) for size, one in found.items() if _has(one, str(size))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=system)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("documents")
    axes.set_ylabel("p50, ms")


def _mixed(axes: Any, result: dict[str, Any]) -> None:
    mixed = result["summary"].get("mixed", {})
    systems = {system: colour for system, colour in systems_of(result).items() if _has(mixed.get(system), "10")}
    for place, (system, colour) in enumerate(systems.items()):
        latency = mixed[system]["latency_ms"]["10"]["pooled"]
        bars = axes.bar([place - 0.2, place + 0.2], [latency["p50"], latency["p99"]], 0.38, color=colour, label=system)
        bars[0].set_alpha(0.5)
        for bar, name in zip(bars, ("p50", "p99"), strict=True):
            axes.annotate(
                f"{name}\n{bar.get_height():,.0f} ms",
                (bar.get_x() + bar.get_width() / 2, bar.get_height()),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axes.margins(y=0.2)
    axes.set_xticks(range(len(systems)), list(systems))
    axes.set_ylabel("ms")


def _has(found: dict[str, Any] | None, size: str) -> bool:
    return bool(found and found["latency_ms"].get(size, {}).get("p50"))
