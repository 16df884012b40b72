"""Writes docs/benchmarks.md from the committed results and page.md.jinja; every figure comes from the results."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment

from benchmarks.models import SHAPES
from benchmarks.results import RESULTS, ROOT, Check, read
from benchmarks.serving.figures import MAX_MEMORY_GROWTH, limits
from benchmarks.serving.hops import OUT as HOPS
from benchmarks.serving.systems import OURS, PEER
from benchmarks.serving.workloads import NAMES

PAGE = ROOT / "docs" / "benchmarks.md"
TEXT = Path(__file__).with_name("page.md.jinja")
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
    kinds = {kind: load_all(f"serving-{kind}-") for kind in ("variants", "soak", "sweep")}
    loop = read(RESULTS / "loop.json")
    page = text(load_all(), kinds["variants"], kinds["soak"], read(HOPS), kinds["sweep"], loop)
    PAGE.write_text(page, encoding="utf-8")


def text(
    results: dict[str, Result],
    variants: dict[str, Result],
    soaks: dict[str, Result],
    hops: Result | None = None,
    sweeps: dict[str, Result] | None = None,
    loop: Result | None = None,
) -> str:
    """The page: results, runs over the peer's settings, soaks and sweeps over our settings by shape, and the hops."""
    reasons = {(name, reason) for result in results.values() for name, reason in result["skipped"].items()}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown
    environment.filters |= {
        one.__name__.strip("_"): one for one in (_ms, _rounds, _loads, _accelerator, _processor, _settings, _command)
    }
    page = environment.from_string(TEXT.read_text(encoding="utf-8")).render(
        limits=list(_limits(results, soaks)),
        results={shape: results[shape] for shape in (*SHAPES, "demo") if shape in results},
        shapes=_SHAPES,
        max_others_cores=_MAX_OTHERS_CORES,
        plots={file: name for file, name in _PLOTS.items() if (RESULTS / file).exists()},
        hops=hops,
        workloads=NAMES,
        peer=next((one["systems"][PEER] for one in results.values() if PEER in one["systems"]), None),
        variants=variants,
        skipped=sorted(f"{name}: {reason}" for name, reason in reasons),
        sweeps=sweeps or {},
        gpu_loop=loop,
    )
    return page.rstrip() + "\n"


def _limits(results: dict[str, Result], soaks: dict[str, Result]) -> Iterator[dict[str, Any]]:
    for shape in [*_NEEDED, *(shape for shape in results if shape not in _NEEDED)]:
        yield from results[shape]["limits"] if shape in results else [one.as_json() for one in limits(shape, {}, {})]
    growths = {f"{shape}: ": soak["systems"].get(OURS, {}).get("growth") for shape, soak in soaks.items()}
    for shape, growth in (growths or {"": None}).items():
        what = f"{shape}memory after 10 minutes of full load / after 1"
        yield Check(what, growth, "<=", MAX_MEMORY_GROWTH, number=5).as_json()


def _loads(result: Result) -> Iterator[str]:
    """A row for each load and length of its lists, two cells for each system."""
    for name in result["workloads"]:
        found = result["summary"].get(name)
        if not found:
            continue
        several = len(next(iter(found.values()))["latency_ms"]) > 1
        for size in sorted({size for one in found.values() for size in one["latency_ms"]}, key=int):
            cells = "".join(_cells(found.get(system), size) for system in result["systems"])
            ratios = result["ratios"].get(name, {})
            shown = [f"{ratios[key]:.2f}" for key in (f"p50_of_{size}", f"p99_of_{size}") if key in ratios]
            offered = result["workloads"][name]["open_mix"]  # then the rate is the load's, not the system's
            rate = f"{ratios['pairs_per_s']:.2f}" if "pairs_per_s" in ratios and not offered else ""
            label = f"{name}, lists of {int(size):,}" if several else name
            yield f"| {label} |{cells} {rate} | {', '.join(shown)} |"


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
    for name, systems in result["summary"].items():
        for system, found in systems.items():
            if found["tokens_per_s"] and result["shape"]["flops_per_token"]:
                tokens = found["tokens_per_s"]["median"]
                tflops = tokens * result["shape"]["flops_per_token"] / 1e12
                share = f"{tflops / peak:.0%}" if peak else ""
                busy = found["gpu_busy"]
                idle = f"{1 - busy['median']:.0%}" if busy else ""
                yield f"| {name} | {system} | {tokens:,.0f} | {tflops:.1f} | {share} | {idle} |"


def _processor(result: Result) -> Iterator[str]:
    """Where the processor time goes, by role, for lists of 20 and for one of 1,000."""
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
            yield f"| {name} | {system} | {sum(spent.values()):.2f} | {shares} |"


def _settings(result: Result) -> Iterator[str]:
    """The table of a run over settings, a column for each workload; the peer's with what each means."""
    workloads = [name for name in result["workloads"] if name in result["summary"]]
    peers = [name for name in result["systems"] if name.startswith(f"{PEER}:")]
    heads = ["setting", *workloads, *(["meaning"] if peers else [])]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for name in peers or result["systems"]:
        cells = "".join(_setting_cell(result["summary"][workload].get(name), workload) for workload in workloads)
        why = f" {result['systems'][name]['notes'][0].partition(': ')[2]} |" if peers else ""
        yield f"| {name.partition(':')[2] or 'defaults'} |{cells}{why}"


def _setting_cell(found: dict[str, Any] | None, workload: str) -> str:
    if not found:
        return " |"
    if workload == "1x1":
        return f" {_ms(found['latency_ms']['1']['p50']['median'])} ms |"
    return f" {found['pairs_per_s']['median']:,.0f} |"


def _command(command: list[str]) -> str:
    words = [f"'{word}'" if any(c in word for c in ' {"') else word for word in command]
    return " ".join(words).replace(" --", " \\\n    --")
