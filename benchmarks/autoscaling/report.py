"""What came out of the runs: figures of one, a table over all rounds, and a picture of one round."""

from __future__ import annotations

import itertools
import json
import statistics
from typing import Any

from benchmarks.autoscaling.trace import BURST_S, TARGET_S, TRACE, WINDOW_S, engines_wanted
from benchmarks.scatter.report import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "autoscaling.json"
PICTURE = ROOT / "benchmarks" / "results" / "autoscaling.svg"


def summary(answers: list[dict[str, float]], counts: list[tuple[float, int]]) -> dict[str, Any]:
    """The figures of a run (Any: JSON).

    Args:
        answers: `sent_s`, `took_s` and `status` of each list.
        counts: Engines' processes at moments.
    """
    seconds = []
    for second in range(WINDOW_S, TRACE[-1][0]):
        late = [
            one["took_s"] if one["status"] == 200 else float("inf")
            for one in answers
            if second - WINDOW_S <= one["sent_s"] < second
        ]
        seconds.append((second, sorted(late)[int(0.95 * len(late))] if late else 0.0))
    before = max((engines for at_s, engines in counts if at_s <= BURST_S), default=1)
    scaled_s = next((at_s for at_s, engines in counts if at_s > BURST_S and engines > before), float("inf"))
    judged = [p95 <= TARGET_S for second, p95 in seconds if second - WINDOW_S >= scaled_s]
    pairs = itertools.pairwise(counts)
    ranked = [one["took_s"] for one in answers if one["status"] == 200]  # a refusal is quick, and no help
    everything = [p95 <= TARGET_S for _, p95 in seconds]
    return {
        "lists": len(answers),
        "refused": sum(one["status"] == 429 for one in answers),
        "failed": sum(one["status"] not in (200, 429) for one in answers),
        "p95_s": round(statistics.quantiles(ranked, n=20)[-1], 3),
        "burst_first_scaled_after_s": round(scaled_s - BURST_S, 1) if judged else None,
        "seconds_in_target_after_it": round(statistics.mean(judged), 3) if judged else None,
        "seconds_in_target": round(statistics.mean(everything), 3),
        "replica_seconds": round(sum((end - start) * engines for (start, engines), (end, _) in pairs), 1),
        "most_replicas": max(engines for _, engines in counts),
    }


def tabulate() -> None:
    """Print the means over the rounds of each policy as a table in Markdown; p95 and refusals are of all lists."""
    print("| policy | rounds | p95, s | refused | replica-seconds | in target | after the burst's scale-up |")
    for name, runs in _by_policy().items():
        answers = [answer for one in runs for answer in one["answers"]]
        ranked = [answer["took_s"] for answer in answers if answer["status"] == 200]
        found = [one["summary"] for one in runs]
        cost = [one["replica_seconds"] for one in found]
        error = statistics.stdev(cost) / len(cost) ** 0.5 if len(cost) > 1 else 0
        after = [one["seconds_in_target_after_it"] for one in found if one["seconds_in_target_after_it"] is not None]
        held = f"{statistics.mean(after):.1%} ({sum(one >= 0.95 for one in after)} of {len(after)})" if after else "–"
        print(
            f"| {name} | {len(runs)} | {statistics.quantiles(ranked, n=20)[-1]:.2f} |"
            f" {sum(one['refused'] for one in found) / len(answers):.1%} | {statistics.mean(cost):.0f} ± {error:.0f} |"
            f" {statistics.mean(one['seconds_in_target'] for one in found):.1%} | {held} |"
        )


def _by_policy() -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, one in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        runs.setdefault(name.partition(" (")[0], []).append(one)
    return runs


def draw(seed: int) -> None:
    """Draw load, replicas and latency of the runs with these moments, one column each."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    results = {
        name: one for name, one in json.loads(RESULTS.read_text(encoding="utf-8")).items() if one["seed"] == seed
    }
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reranker", "font.size": 9}):
        figure, rows = pyplot.subplots(
            2,
            len(results),
            figsize=(3.6 * len(results), 5),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for column, (name, one) in enumerate(results.items()):
            above, below = rows[0][column], rows[1][column]
            at_s, engines = zip(*one["replicas"], strict=True)
            above.step(at_s, engines, where="post", color="#1f6fb4", label="replicas")
            load = [engines_wanted(second) for second in range(TRACE[-1][0])]
            above.plot(load, color="#999999", linestyle="--", label="load, in replicas")
            above.set_title(f"{name}\n{one['summary']['replica_seconds']:.0f} replica-seconds", fontsize=9)
            answered = [each for each in one["answers"] if each["status"] == 200]
            refused = [each["sent_s"] for each in one["answers"] if each["status"] != 200]
            sent_s, took_s = [each["sent_s"] for each in answered], [each["took_s"] for each in answered]
            below.plot(sent_s, took_s, ".", markersize=2, rasterized=True)  # thousands of shapes are a megabyte
            below.plot(refused, [0] * len(refused), "x", color="#c03030", markersize=4, label="refused (429)")
            below.axhline(TARGET_S, color="#c03030", linewidth=0.8)
            below.set_xlabel("seconds")
        rows[0][0].legend(frameon=False)
        rows[1][0].legend(frameon=False)
        rows[0][0].set_ylabel("replicas")
        rows[1][0].set_ylabel("latency of a list, s")
        figure.savefig(PICTURE, metadata={"Date": None}, dpi=200)
        pyplot.close(figure)
