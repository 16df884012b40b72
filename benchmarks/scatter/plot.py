"""Draws latency by number of replicas, from the committed JSON: python -m benchmarks.scatter.plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.scatter.report import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def draw(report: Path, picture: Path) -> None:
    """Draw the scaling experiment of a report, as SVG; nothing if it has none.

    Args:
        report: The JSON.
        picture: Where to.
    """
    # Imported here: only this needs it.
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    experiment: dict[str, Any] | None = json.loads(report.read_text(encoding="utf-8"))["experiments"].get("scaling")
    if experiment is None:
        return
    sizes: list[int] = experiment["parameters"]["replicas"]
    raw = [experiment["raw"][f"{size} replicas"] for size in sizes]
    ms = {name: [one["latency_s"][name] * 1e3 for one in raw] for name in ("p50", "min", "max")}
    ideal = [ms["p50"][0] / size for size in sizes]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reranker", "font.size": 11}):
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        axes.plot(sizes, ideal, color="#999999", linestyle="--", label="ideal: one replica's latency divided")
        spread = [
            [median - low for median, low in zip(ms["p50"], ms["min"], strict=True)],
            [high - median for median, high in zip(ms["p50"], ms["max"], strict=True)],
        ]
        axes.errorbar(
            sizes, ms["p50"], yerr=spread, color="#1f6fb4", marker="o", capsize=4, label="measured: median, min to max"
        )
        for size, median, best in zip(sizes, ms["p50"], ideal, strict=True):
            axes.annotate(
                f"{median:,.0f} ms ({median / best - 1:+.0%})", (size, median), (8, 8), textcoords="offset points"
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        ticks = [250, 500, 1000, 2000, 4000]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlim(0.9, 13)
        axes.set_xlabel("idle replicas (simulated, 40,000 tokens/s each)")
        axes.set_ylabel("latency of one list, ms")
        axes.set_title(
            f"One list of {experiment['parameters']['documents']:,} documents, "
            f"{experiment['parameters']['tokens_per_document']:.0f} tokens each",
            fontsize=12,
        )
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(picture, metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    draw(RESULTS / "scatter.json", RESULTS / "scaling.svg")
