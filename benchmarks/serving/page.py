"""Writes docs/benchmarks.md from the committed results and page.md, its text; every figure comes from the results."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.models import SHAPES
from benchmarks.results import RESULTS, ROOT, Check
from benchmarks.serving.figures import MAX_MEMORY_GROWTH, limits
from benchmarks.serving.hops import OUT as HOPS
from benchmarks.serving.systems import OURS, PEER
from benchmarks.serving.workloads import NAMES

PAGE = ROOT / "docs" / "benchmarks.md"
TEXT = Path(__file__).with_name("page.md")
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


def load_all(prefix: str = "serving-") -> dict[str, Result]:
    """The committed results, by shape; those of one kind: `serving-`, `serving-variants-` or `serving-soak-`."""
    paths = {path.stem.removeprefix(prefix): path for path in sorted(RESULTS.glob(f"{prefix}*.json"))}
    return {shape: json.loads(path.read_text(encoding="utf-8")) for shape, path in paths.items() if "-" not in shape}


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
    """The page: results, runs over the peer's settings, soaks and sweeps over our settings by shape, and the hops."""
    shapes = [shape for shape in (*SHAPES, "demo") if shape in results]
    drawn = [f"![{name}](../benchmarks/results/{file})" for file, name in _PLOTS.items() if (RESULTS / file).exists()]
    parts: dict[str, Iterable[str]] = {
        "limits": _limits(results, soaks),
        "shapes": [line for one in shapes for line in (f"## {one}: {_SHAPES[one]}", "", *_shape(results[one]), "")],
        "plots": ["## Plots", "", *drawn, ""] if results else (),
        "hops": _hops(hops) if hops else (),
        "peer": _peer_settings(results, variants),
        "skipped": _skipped(results),
        "sweeps": _sweeps(sweeps or {}),
    }
    page = TEXT.read_text(encoding="utf-8").replace("{workloads}", ", ".join(f"`{name}`" for name in NAMES))
    for name, lines in parts.items():
        page = page.replace(f"{{{name}}}", "".join(f"{line}\n" for line in lines))
    if not any(result["shape"]["gpu"] for result in results.values()):
        page += "Nothing on this page was measured on an accelerator."
    return page.rstrip() + "\n"


def _table(*heads: str) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"


def _limits(results: dict[str, Result], soaks: dict[str, Result]) -> Iterator[str]:
    yield "Ratios of medians, ours to `vllm serve`'s, in alternating rounds of one run."
    yield ""
    yield "| | limit | measured | held |"
    yield "|---|---|---|---|"
    for shape in [*_NEEDED, *(shape for shape in results if shape not in _NEEDED)]:
        for one in results[shape]["limits"] if shape in results else [one.as_json() for one in limits(shape, {}, {})]:
            yield _limit_row(one)
    growths = {f"{shape}: ": soak["systems"].get(OURS, {}).get("growth") for shape, soak in soaks.items()}
    for shape, growth in (growths or {"": None}).items():
        what = f"{shape}memory after 10 minutes of full load / after 1"
        yield _limit_row(Check(what, growth, "<=", MAX_MEMORY_GROWTH, number=5).as_json())


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
    heads = [head for one in systems for head in (f"{one}: pairs/s", "p50, p99")]
    yield from _table("documents x clients", *heads, "ratio of pairs/s", "of p50, p99")
    for name in result["workloads"]:
        found = result["summary"].get(name)
        if not found:
            continue
        sizes = sorted({size for one in found.values() for size in one["latency_ms"]}, key=int)
        several = len(next(iter(found.values()))["latency_ms"]) > 1
        for size in sizes:
            cells = "".join(_cells(found.get(system), size) for system in systems)
            ratios = result["ratios"].get(name, {})
            shown = [f"{ratios[key]:.2f}" for key in (f"p50_of_{size}", f"p99_of_{size}") if key in ratios]
            offered = result["workloads"][name]["open_mix"]  # then the rate is the load's, not the system's
            rate = f"{ratios['pairs_per_s']:.2f}" if "pairs_per_s" in ratios and not offered else ""
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
    yield from _table("documents x clients", "system", "tokens/s", "TFLOP/s", "of the peak in bf16", "GPU idle")
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
            most = sorted(spent.items(), key=lambda item: -item[1])
            shares = ", ".join(f"{role} {ms:.2f}" for role, ms in most if ms >= 0.005)
            rows.append(f"| {name} | {system} | {sum(spent.values()):.2f} | {shares} |")
    if rows:
        yield "Processor time per pair, in ms, and in which processes:"
        yield ""
        yield from _table("documents x clients", "system", "in all", "of it")
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
    for peer in [result["systems"][PEER] for result in results.values() if PEER in result["systems"]][:1]:
        yield f"{peer['notes'][0]}. Environment: `{peer['environment']}`. Command:"
        yield ""
        yield f"```\n{_shown(peer['command'])}\n```"
        yield ""
        if agreement := peer["agreement"]:
            yield (
                f"Its scores and ours of {agreement['pairs']} pairs differ by "
                f"{agreement['largest_difference']:.1e} at most (their spread is "
                f"{agreement['spread_of_scores']:.1e}), with the same number of prompt tokens."
            )
            yield ""
    for shape, result in variants.items():
        when = f"{_rounds(result)}, {result['run']['date'][:10]}"
        yield f"What else was tried, on {shape} ({when}); pairs/s, and the p50 of a pair alone:"
        yield ""
        yield from _settings(result, [name for name in result["systems"] if name.startswith(f"{PEER}:")], meaning=True)


def _sweeps(sweeps: dict[str, Result]) -> Iterator[str]:
    for shape, result in sweeps.items():
        yield f"Our settings, one changed at a time, on {shape} ({_rounds(result)}, {result['run']['date'][:10]}):"
        yield ""
        yield from _settings(result, list(result["systems"]), meaning=False)


def _settings(result: Result, names: list[str], *, meaning: bool) -> Iterator[str]:
    """A row for each setting, a column for each workload."""
    workloads = [name for name in result["workloads"] if name in result["summary"]]
    yield from _table("setting", *workloads, *(["meaning"] if meaning else []))
    for name in names:
        cells = "".join(_setting_cell(result["summary"][workload].get(name), workload) for workload in workloads)
        why = f" {result['systems'][name]['notes'][0].partition(': ')[2]} |" if meaning else ""
        yield f"| {name.partition(':')[2] or 'defaults'} |{cells}{why}"
    yield ""


def _setting_cell(found: dict[str, Any] | None, workload: str) -> str:
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
