"""Writes docs/benchmarks.md from the committed results; every figure on it comes from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.serving.hops import OUT as HOPS
from benchmarks.serving.limits import MAX_MEMORY_GROWTH, Limit, limits
from benchmarks.serving.machine import RESULTS, ROOT
from benchmarks.serving.page_text import GPU, HEAD, METHOD, PEERS
from benchmarks.serving.registry import OURS, PEER
from benchmarks.serving.results import load_all
from benchmarks.shapes import SHAPES

PAGE = ROOT / "docs" / "benchmarks.md"
Result = dict[str, Any]
_SHAPES = {
    "nano": "1 layer, 64 wide, Qwen's vocabulary: what serving costs",
    "small": "4 layers, 256 wide: compute and serving in balance",
    "0.6b": "Qwen3-Reranker-0.6B's own",
    "demo": "the bundled model, in float32",
}
_MAX_OTHERS_CORES = 0.15
_PEAK_BF16_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}  # dense, by NVIDIA's data sheets
_NEEDED = ("nano", "small")
_PLOTS = {
    "serving-throughput-latency.svg": "Throughput against latency",
    "serving-list-size.svg": "Latency by list size",
    "serving-mixed.svg": "Mixed load",
}


def write() -> None:
    """Write the page."""
    hops = json.loads(HOPS.read_text(encoding="utf-8")) if HOPS.exists() else None
    page = text(load_all(), load_all("serving-variants-"), load_all("serving-soak-"), hops, load_all("serving-sweep-"))
    PAGE.write_text(page, encoding="utf-8")


def text(
    results: dict[str, Result],
    variants: dict[str, Result],
    soaks: dict[str, Result],
    hops: Result | None = None,
    sweeps: dict[str, Result] | None = None,
) -> str:
    """The page.

    Args:
        results: By shape.
        variants: Runs over the peer's settings, by shape.
        soaks: By shape.
        hops: What each costs.
        sweeps: Runs over our settings, by shape.
    """
    parts = [HEAD, "## What must hold", "", *_limits(results, soaks), ""]
    for shape in [shape for shape in (*SHAPES, "demo") if shape in results]:
        parts += [f"## {shape}: {_SHAPES[shape]}", "", *_shape(results[shape]), ""]
    if results:
        plots = [
            f"![{name}](../benchmarks/results/{file})" for file, name in _PLOTS.items() if (RESULTS / file).exists()
        ]
        parts += ["## Plots", "", *plots, ""]
    parts += _hops(hops) if hops else []
    parts += [METHOD, *_peer_settings(results, variants), PEERS, *_skipped(results), GPU, *_sweeps(sweeps or {})]
    if not any(result["shape"]["gpu"] for result in results.values()):
        parts += ["Nothing on this page was measured on an accelerator.", ""]
    return "\n".join(parts).rstrip() + "\n"


def _limits(results: dict[str, Result], soaks: dict[str, Result]) -> Iterator[str]:
    yield "Ratios of medians, ours to `vllm serve`'s, in alternating rounds of one run."
    yield ""
    yield "| | limit | measured | held |"
    yield "|---|---|---|---|"
    for shape in [*_NEEDED, *(shape for shape in results if shape not in _NEEDED)]:
        for one in results[shape]["limits"] if shape in results else [one.as_json() for one in limits(shape, {}, {})]:
            yield _limit_row(one)
    for shape, soak in soaks.items():
        what = f"{shape}: memory after 10 minutes of full load / after 1"
        figure = soak["systems"].get(OURS, {}).get("growth")
        yield _limit_row(Limit(5, what, figure, "<=", MAX_MEMORY_GROWTH).as_json())
    if not soaks:
        yield _limit_row(
            Limit(5, "memory after 10 minutes of full load / after 1", None, "<=", MAX_MEMORY_GROWTH).as_json()
        )


def _limit_row(one: dict[str, Any]) -> str:
    verdict = {True: "yes", False: "**no**", None: "not measured yet"}[one["held"]]
    sign = {"<=": "≤", ">=": "≥"}[one["relation"]]
    reach = f", hoped for {one['reach']:g}" if one["reach"] else ""
    figure = "" if one["figure"] is None else f"{one['figure']:.2f}"
    return f"| {one['number']} | {one['what']} {sign} {one['limit']:g}{reach} | {figure} | {verdict} |"


def _shape(result: Result) -> Iterator[str]:
    run, machine, systems = result["run"], result["run"]["machine"], list(result["systems"])
    gpus = f", {'; '.join(machine['gpus'])}" if result["shape"]["gpu"] else ", no GPU used"
    unfinished = "" if run["complete"] else " **The run was not finished.**"
    changed = " with changes" if "changes" in run["commit"] else ""
    yield (
        f"{run['date'][:10]}, commit {run['commit'][:12]}{changed}; {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gib']} GiB{gpus}; {_rounds(result)}.{unfinished} `{run['command']}`"
    )
    yield ""
    disturbed = [one for one in result["rounds"] if one["others_cores"] > _MAX_OTHERS_CORES]
    if disturbed:
        yield (
            f"**In {len(disturbed)} of {len(result['rounds'])} measurements other processes used more than "
            f"{_MAX_OTHERS_CORES} cores.**"
        )
        yield ""
    yield "Pairs/s: median of the rounds (lowest to highest). Latency of a list in ms: median, and p99 of all rounds."
    yield ""
    heads = "".join(f" {one}: pairs/s | p50, p99 |" for one in systems)
    yield f"| documents x clients |{heads} ratio of pairs/s | of p50, p99 |"
    yield f"|---|{'---|---|' * len(systems)}---|---|"
    for name in result["workloads"]:
        found = result["summary"].get(name)
        if not found:
            continue
        for size in sorted({size for one in found.values() for size in one["latency_ms"]}, key=int):
            cells = "".join(_cells(found.get(system), size) for system in systems)
            ratios = result["ratios"].get(name, {})
            shown = [f"{ratios[key]:.2f}" for key in (f"p50_of_{size}", f"p99_of_{size}") if key in ratios]
            offered = result["workloads"][name]["open_mix"]  # then the rate is the load's, not the system's
            rate = f"{ratios['pairs_per_s']:.2f}" if "pairs_per_s" in ratios and not offered else ""
            several = len(next(iter(found.values()))["latency_ms"]) > 1
            label = f"{name}, lists of {int(size):,}" if several else name
            yield f"| {label} |{cells} {rate} | {', '.join(shown)} |"
    yield ""
    for name, system in result["systems"].items():
        agreement = system["agreement"]
        if agreement and not agreement["agrees"]:
            yield f"{name}'s scores differ by up to {agreement['largest_difference']:.2f}: only its speed compares."
            yield ""
    if result["shape"]["gpu"]:
        yield from _accelerator(result)
    yield from _processor(result)


def _rounds(result: Result) -> str:
    return "1 round" if result["run"]["rounds"] == 1 else f"{result['run']['rounds']} rounds"


def _cells(found: dict[str, Any] | None, size: str) -> str:
    if not found:
        return " | |"
    latency = found["latency_ms"].get(size)
    times = f"{_ms(latency['p50']['median'])}, {_ms(latency['pooled']['p99'])}" if latency and latency["p50"] else ""
    rate = found["pairs_per_s"]
    trouble = f" {found['refused']} refused" if found["refused"] else ""
    trouble += f" **{found['failures']} failed**" if found["failures"] else ""
    spread = f" ({rate['min']:,.0f} to {rate['max']:,.0f})" if found["rounds"] > 1 else ""
    return f" {rate['median']:,.0f}{spread}{trouble} | {times} |"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _accelerator(result: Result) -> Iterator[str]:
    """Tokens per second, and what they are of the card's peak, a shared head counted for every pair."""
    card = next(iter(result["run"]["machine"]["gpus"]), "")
    peak = next((tflops for name, tflops in _PEAK_BF16_TFLOPS.items() if name in card), None)
    yield "Tokens per second are those of all prompts, also where the prefix cache saved their computation."
    yield ""
    yield "| documents x clients | system | tokens/s | TFLOP/s | of the peak in bf16 | GPU idle |"
    yield "|---|---|---|---|---|---|"
    for name, systems in result["summary"].items():
        for system, found in systems.items():
            if found["tokens_per_s"] and result["shape"]["flops_per_token"]:
                tokens = found["tokens_per_s"]["median"]
                tflops = tokens * result["shape"]["flops_per_token"] / 1e12
                share = f"{tflops / peak:.0%}" if peak else ""
                busy = found["gpu_busy"]
                idle = f"{1 - busy['median']:.0%}" if busy else ""
                yield f"| {name} | {system} | {tokens:,.0f} | {tflops:.1f} | {share} | {idle} |"
    yield ""


def _processor(result: Result) -> Iterator[str]:
    """Where the processor time goes, by role, for lists of 20 and for one of 1,000."""
    rows = []
    for name in ("1x1", "20x16", "1000x1"):
        for system in result["systems"]:
            records = [one for one in result["rounds"] if one["workload"] == name and one["system"] == system]
            pairs = sum(one["pairs"] for one in records)
            if not pairs:
                continue
            roles = sorted({role for one in records for role in one["cpu_s"]})
            spent = {role: sum(one["cpu_s"].get(role, 0) for one in records) / pairs * 1e3 for role in roles}
            shares = ", ".join(
                f"{role} {ms:.2f}" for role, ms in sorted(spent.items(), key=lambda item: -item[1]) if ms >= 0.005
            )
            rows.append(f"| {name} | {system} | {sum(spent.values()):.2f} | {shares} |")
    if rows:
        yield "Processor time per pair, in ms, and in which processes:"
        yield ""
        yield "| documents x clients | system | in all | of it |"
        yield "|---|---|---|---|"
        yield from rows


def _hops(result: Result) -> Iterator[str]:
    lists = result["lists"]
    yield "## What each hop costs"
    yield ""
    yield (
        f"One list at a time, {result['shape']}, client and service on one machine; {result['date'][:10]}, commit "
        f"{result['commit'][:12]}, `{result['command']}`. Medians in ms, and the share of the whole."
    )
    yield ""
    yield "".join(["| |", *(f" documents: {int(size):,} |" for size in lists)])
    yield f"|---|{'---|' * len(lists)}"
    for hop in next(iter(lists.values()))["hops_ms"]:
        times = [(one["hops_ms"][hop], one["hops_ms"]["all"]) for one in lists.values()]
        yield "".join([f"| {hop} |", *(f" {_ms(ms)} ({ms / whole:.0%}) |" for ms, whole in times)])
    for what in ("request", "shards", "answer"):
        yield "".join([f"| bytes: {what} |", *(f" {one['bytes'][what]:,} |" for one in lists.values())])
    yield ""
    yield "How they are told apart: `benchmarks/serving/hops.py`."
    yield ""


def _peer_settings(results: dict[str, Result], variants: dict[str, Result]) -> Iterator[str]:
    yield "### How `vllm serve` was set"
    yield ""
    for result in results.values():
        if PEER in result["systems"]:
            peer = result["systems"][PEER]
            yield f"{peer['notes'][0]}. Environment: `{peer['environment']}`. Command:"
            yield ""
            yield f"```\n{_shown(peer['command'])}\n```"
            yield ""
            agreement = peer["agreement"] or {}
            if agreement:
                yield (
                    f"Its scores and ours of {agreement['pairs']} pairs differ by "
                    f"{agreement['largest_difference']:.1e} at most (their spread is "
                    f"{agreement['spread_of_scores']:.1e}), with the same number of prompt tokens."
                )
                yield ""
            break
    for shape, result in variants.items():
        names = [name for name in result["systems"] if name.startswith(f"{PEER}:")]
        workloads = [name for name in result["workloads"] if name in result["summary"]]
        when = f"{_rounds(result)}, {result['run']['date'][:10]}"
        yield f"What else was tried, on {shape} ({when}); pairs/s, and the p50 of a pair alone:"
        yield ""
        yield f"| setting |{''.join(f' {name} |' for name in workloads)} meaning |"
        yield f"|---|{'---|' * len(workloads)}---|"
        for name in names:
            cells = "".join(_variant_cell(result["summary"][workload].get(name), workload) for workload in workloads)
            yield f"| {name.partition(':')[2]} |{cells} {result['systems'][name]['notes'][0].partition(': ')[2]} |"
        yield ""


def _sweeps(sweeps: dict[str, Result]) -> Iterator[str]:
    for shape, result in sweeps.items():
        workloads = [name for name in result["workloads"] if name in result["summary"]]
        yield f"Our settings, one changed at a time, on {shape} ({_rounds(result)}, {result['run']['date'][:10]}):"
        yield ""
        yield f"| setting |{''.join(f' {name} |' for name in workloads)}"
        yield f"|---|{'---|' * len(workloads)}"
        for name in result["systems"]:
            cells = "".join(_variant_cell(result["summary"][workload].get(name), workload) for workload in workloads)
            yield f"| {name.partition(':')[2] or 'defaults'} |{cells}"
        yield ""


def _variant_cell(found: dict[str, Any] | None, workload: str) -> str:
    if not found:
        return " |"
    if workload == "1x1":
        return f" {_ms(found['latency_ms']['1']['p50']['median'])} ms |"
    return f" {found['pairs_per_s']['median']:,.0f} |"


def _shown(command: list[str]) -> str:
    words = [f"'{word}'" if any(c in word for c in ' {"') else word for word in command]
    return " ".join(words).replace(str(ROOT), ".").replace(" --", " \\\n    --")


def _skipped(results: dict[str, Result]) -> Iterator[str]:
    reasons = {(name, reason) for result in results.values() for name, reason in result["skipped"].items()}
    if reasons:
        yield "Left out of the runs on this page:"
        yield ""
        yield from sorted(f"- {name}: {reason.replace(str(ROOT), '.')}" for name, reason in reasons)
        yield ""
