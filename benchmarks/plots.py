"""Draws the plots, as SVG, from the committed results."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.autoscaling import TARGET_S, TRACE, engines_wanted
from benchmarks.models import SHAPES
from benchmarks.results import RESULTS, read
from benchmarks.serving.systems import OURS, PEER

_BLUE, _RED, _GREY = "#1f6fb4", "#c03030", "#999999"
_COLOURS = {OURS: _BLUE, PEER: "#d1495b"}
_OTHERS = ("#66a182", "#edae49", "#8d6a9f", "#5c6b73")
_AT_ONCE = ("20x1", "20x8", "20x16", "20x64")
_SIZES = (1, 10, 20, 200, 1_000, 10_000)
Draw = Callable[[Any, dict[str, Any]], None]  # Any: matplotlib's axes; JSON


@contextlib.contextmanager
def _figure(path: Path, *size: Any, font: float = 10, dpi: int | None = None, **settings: Any) -> Iterator[Any]:
    """A figure and its axes (Any: matplotlib), written when the block ends; the same data give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reranker", "font.size": font}):
        figure, axes = pyplot.subplots(*size, layout="constrained", **settings)
        yield figure, axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, **({"dpi": dpi} if dpi else {}))
        pyplot.close(figure)


def draw_serving(results: dict[str, dict[str, Any]], folder: Path = RESULTS) -> None:
    """Draw benchmarks.serving's results by shape, a panel for each; nothing where nothing was measured."""
    shapes = [shape for shape in (*SHAPES, "demo") if shape in results]
    plots: dict[str, tuple[str, Draw]] = {
        "serving-throughput-latency.svg": ("Lists of 20 from 1, 8, 16 and 64 clients", _throughput_latency),
        "serving-list-size.svg": ("One list at a time, by its length", _list_size),
        "serving-mixed.svg": ("One client looping lists of 600, two looping lists of 10: the lists of 10", _mixed),
    }
    for name, (title, draw) in plots.items() if shapes else ():
        size = (1.2 + 4.4 * len(shapes), 4)
        with _figure(folder / name, 1, len(shapes), figsize=size, squeeze=False) as (figure, panels):
            for axes, shape in zip(panels[0], shapes, strict=True):
                draw(axes, results[shape])
                axes.set_title(results[shape]["shape"]["name"], fontsize=11)
                axes.grid(visible=True, alpha=0.3)
                axes.yaxis.set_major_formatter("{x:,.0f}")
            if draw is not _mixed:  # which has names on its axis
                panels[0][0].legend(frameon=False)
            figure.suptitle(title, fontsize=12)


def _colours(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The systems of a result, and their colours."""
    others = iter(_OTHERS)
    return ((name, _COLOURS.get(name) or next(others, _GREY)) for name in result["systems"])


def _line(axes: Any, points: Sequence[tuple[float, float]], system: str, colour: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=system)


def _throughput_latency(axes: Any, result: dict[str, Any]) -> None:
    for system, colour in _colours(result):
        found = [result["summary"].get(name, {}).get(system) for name in _AT_ONCE]
        points = [(one["pairs_per_s"]["median"], _p50(one, "20")) for one in found if _has(one, "20")]
        _line(axes, points, system, colour)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("pairs/s")
    axes.set_ylabel("p50 of a list, ms")


def _list_size(axes: Any, result: dict[str, Any]) -> None:
    for system, colour in _colours(result):
        found = {size: result["summary"].get(f"{size}x1", {}).get(system) for size in _SIZES}
        points = [(size, _p50(one, str(size))) for size, one in found.items() if _has(one, str(size))]
        _line(axes, points, system, colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("documents")
    axes.set_ylabel("p50, ms")


def _mixed(axes: Any, result: dict[str, Any]) -> None:
    mixed = result["summary"].get("mixed", {})
    systems = {system: colour for system, colour in _colours(result) if _has(mixed.get(system), "10")}
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


def _p50(found: Any, size: str) -> Any:
    return found["latency_ms"][size]["p50"]["median"]


def draw_scaling(report: Path = RESULTS / "scatter.json") -> None:
    """Draw latency by number of replicas, beside benchmarks.scatter's results; nothing if they lack the experiment."""
    experiment: dict[str, Any] | None = read(report)["experiments"].get("scaling")
    if experiment is None:
        return
    sizes: list[int] = experiment["parameters"]["replicas"]
    raw = [experiment["raw"][f"{size} replicas"]["latency_s"] for size in sizes]
    ms = {name: [one[name] * 1e3 for one in raw] for name in ("p50", "min", "max")}
    ideal = [ms["p50"][0] / size for size in sizes]
    with _figure(report.with_name("scaling.svg"), figsize=(7, 4.2), font=11) as (_, axes):
        axes.plot(sizes, ideal, color=_GREY, linestyle="--", label="ideal: one replica's latency divided")
        spread = [
            [median - low for median, low in zip(ms["p50"], ms["min"], strict=True)],
            [high - median for median, high in zip(ms["p50"], ms["max"], strict=True)],
        ]
        label = "measured: median, min to max"
        axes.errorbar(sizes, ms["p50"], yerr=spread, color=_BLUE, marker="o", capsize=4, label=label)
        for size, median, best in zip(sizes, ms["p50"], ideal, strict=True):
            text = f"{median:,.0f} ms ({median / best - 1:+.0%})"
            axes.annotate(text, (size, median), (8, 8), textcoords="offset points")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        ticks = [250, 500, 1000, 2000, 4000]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlim(0.9, 13)
        axes.set_xlabel("idle replicas (simulated, 40,000 tokens/s each)")
        axes.set_ylabel("latency of one list, ms")
        parameters = experiment["parameters"]
        lists = f"One list of {parameters['documents']:,} documents"
        axes.set_title(f"{lists}, {parameters['tokens_per_document']:.0f} tokens each", fontsize=12)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)


def draw_autoscaling(results: dict[str, Any], picture: Path) -> None:
    """Draw load, replicas and latency of benchmarks.autoscaling's runs, one column each."""
    size = {"figsize": (3.6 * len(results), 5), "sharex": True, "sharey": "row", "squeeze": False}
    with _figure(picture, 2, len(results), font=9, dpi=200, **size) as (_, rows):
        for column, (name, one) in enumerate(results.items()):
            above, below = rows[0][column], rows[1][column]
            at_s, engines = zip(*one["replicas"], strict=True)
            above.step(at_s, engines, where="post", color=_BLUE, label="replicas")
            load = [engines_wanted(second) for second in range(TRACE[-1][0])]
            above.plot(load, color=_GREY, linestyle="--", label="load, in replicas")
            above.set_title(f"{name}\n{one['summary']['replica_seconds']:.0f} replica-seconds", fontsize=9)
            answered = [each for each in one["answers"] if each["status"] == 200]
            refused = [each["sent_s"] for each in one["answers"] if each["status"] != 200]
            sent_s, took_s = [each["sent_s"] for each in answered], [each["took_s"] for each in answered]
            below.plot(sent_s, took_s, ".", markersize=2, rasterized=True)  # thousands of shapes are a megabyte
            below.plot(refused, [0] * len(refused), "x", color=_RED, markersize=4, label="refused (429)")
            below.axhline(TARGET_S, color=_RED, linewidth=0.8)
            below.set_xlabel("seconds")
        rows[0][0].legend(frameon=False)
        rows[1][0].legend(frameon=False)
        rows[0][0].set_ylabel("replicas")
        rows[1][0].set_ylabel("latency of a list, s")
