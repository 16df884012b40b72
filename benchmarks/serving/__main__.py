"""Measure our service beside its peers, judge the limits, draw the plots and write the page.

    python -m benchmarks.serving [--systems ours,vllm-serve,...] [--shapes nano,small] [--workloads ...] [--rounds 3]
    python -m benchmarks.serving --tune       which settings of vllm-serve are its best
    python -m benchmarks.serving --sweep      which settings of ours are the best on this device (with --shapes 0.6b)
    python -m benchmarks.serving --soak       memory after 1 and after 10 minutes of full load
    python -m benchmarks.serving --check      for CI: a loose limit on two ratios, in about a minute and a half
    python -m benchmarks.serving --hops       what each hop costs a list of 1 and one of 1,000
    python -m benchmarks.serving --report     plots and docs/benchmarks.md from the results that are there

A full run (the default systems and workloads, not --quick) writes benchmarks/results/serving-SHAPE.json; any other one
writes build/bench/serving-SHAPE.json, so that a trial does not replace a result. --out decides otherwise.
"""

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import plots, results
from benchmarks.load import LoadGenerator, Workload
from benchmarks.models import SHAPE_NAMES, SHAPES
from benchmarks.results import RESULTS, SCRATCH, Check, describe, say
from benchmarks.service import Server, ServiceError, started
from benchmarks.serving import figures, hops, page, systems
from benchmarks.serving.figures import MAX_MEMORY_GROWTH, Record
from benchmarks.serving.rounds import DisagreementError, Rounds
from benchmarks.serving.systems import OURS, PEER, Bench
from benchmarks.serving.workloads import NAMES, workload, workloads

SWEEP = (
    *(f"engine.max_batch_tokens={tokens}" for tokens in (2_048, 4_096, 16_384, 32_768)),
    *(f"engine.max_batch_pairs={pairs}" for pairs in (64, 128, 512, 1_024)),
    *(f"engine.target_step_s={seconds}" for seconds in (0.02, 0.1, "null")),
    "engine.cuda_graph_tokens=[]",
    "engine.vllm_args.async_scheduling=false",
    "engine.vllm_args.block_size=32",
    "engine.vllm_args.enforce_eager=true",
)
"""One setting changed at a time, against the defaults."""
_TUNE_WORKLOADS = "1x1,20x16,1000x1,mixed"
CHECKED_PEER = f"{PEER}:eager"
"""Not compiled: it starts sooner, and is as fast on one layer."""
MIN_THROUGHPUT_RATIO, MAX_SINGLE_RATIO, _CHECK_S = 1.0, 4.0, 3.0
_SOAK_MINUTES, _SOAK_LOAD, _SAMPLES_PER_MINUTE = 10.0, "20x16", 4


def main() -> int:
    """Do what is asked for; exit status 1 if a limit did not hold, 2 if there was nothing to measure."""
    try:
        return _run(_arguments())
    except (ServiceError, DisagreementError, ValueError) as error:
        print(f"benchmarks.serving: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    if args.check:
        return check()
    if args.hops:
        hops.run(quick=args.quick)
        return 0
    started_s = time.monotonic()
    held = True
    for shape in [] if args.report else args.shapes.split(","):
        bench = Bench(shape)
        held &= soak(bench, args.systems.split(","), quick=args.quick) if args.soak else _measure(bench, args)
    if args.report or not (args.quick or args.out):
        plots.draw_serving(page.load_all())
        page.write()
        say(f"wrote {page.PAGE}")
    say(f"took {(time.monotonic() - started_s) / 60:.1f} minutes")
    return 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument(
        "--systems", default=",".join(systems.DEFAULT), help=f"of {', '.join(systems.NAMES)}; (%(default)s)"
    )
    parser.add_argument("--shapes", default="nano,small", help=f"of {', '.join(SHAPE_NAMES)}; (%(default)s)")
    parser.add_argument("--workloads", default=",".join(NAMES), help="DOCUMENTSxCLIENTS or names; (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time each: to see whether it runs")
    parser.add_argument("--out", type=Path, help="where the JSON goes (one shape only)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tune", action="store_true", help="measure every variant of vllm-serve")
    what.add_argument("--sweep", action="store_true", help="measure ours with one setting changed at a time")
    what.add_argument("--soak", action="store_true", help="ten minutes of full load, for memory")
    what.add_argument("--check", action="store_true", help="for CI")
    what.add_argument("--hops", action="store_true", help="what each hop costs")
    what.add_argument("--report", action="store_true", help="measure nothing; write plots and page")
    args = parser.parse_args()
    if unknown := set(args.shapes.split(",")) - set(SHAPE_NAMES):
        parser.error(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(SHAPE_NAMES)}")
    if args.out and "," in args.shapes:
        parser.error("--out is for one shape")
    if args.tune or args.sweep:
        variants = [f"{PEER}:{name}" for name in systems.VARIANTS] if args.tune else [f"{OURS}:{one}" for one in SWEEP]
        args.systems, args.workloads = ",".join([OURS, *variants]), _TUNE_WORKLOADS
    return args


def _out(args: argparse.Namespace, shape: str) -> Path:
    if args.out:
        return Path(args.out)
    full = set(systems.DEFAULT) <= set(args.systems.split(",")) and set(NAMES) <= set(args.workloads.split(","))
    kind = "variants-" if args.tune else "sweep-" if args.sweep else ""
    return (RESULTS if (kind or full) and not args.quick else SCRATCH) / f"serving-{kind}{shape}.json"


def _measure(bench: Bench, args: argparse.Namespace) -> bool:
    """Measure one shape into a file; whether its limits held."""
    out = _out(args, bench.shape)
    chosen = workloads(args.workloads.split(","), bench.shape, quick=args.quick)
    header = describe() | {"quick": args.quick, "rounds": args.rounds}
    with Rounds(bench, args.systems.split(",")) as rounds:
        records = rounds.run(chosen, args.rounds, lambda some: _write(out, bench, header, chosen, rounds, some))
    verdicts = _write(out, bench, header | {"complete": True}, chosen, rounds, records)
    say("\n".join(["", *map(str, verdicts), f"wrote {out}"]))
    return all(verdict.held is not False for verdict in verdicts)


def _write(
    path: Path, bench: Bench, header: dict[str, Any], chosen: list[Workload], rounds: Rounds, records: list[Record]
) -> list[Check]:
    """Write header, systems, raw rounds, medians, ratios and verdicts, which it returns."""
    found = figures.summary(records)
    ratios = figures.ratios(found, OURS, PEER)
    verdicts = figures.limits(bench.shape, found, ratios)
    shape = SHAPES.get(bench.shape)
    content = {
        "run": {"complete": False} | header,
        "shape": {"name": bench.shape, "gpu": bench.gpu, **(asdict(shape) if shape else {})}
        | {"flops_per_token": shape.flops_per_token if shape else None},
        "systems": {one.name: one.as_json() for one in rounds.contenders},
        "skipped": rounds.skipped,
        "workloads": {one.name: asdict(one) for one in chosen},
        "limits": [one.as_json() for one in verdicts],
        "ratios": ratios,
        "summary": found,
        "rounds": records,
    }
    results.write(path, content)
    return verdicts


def check() -> int:
    """For CI: where serving is the cost, ours is not slower than the engine's own server. Loose, so not noise."""
    bench = Bench("nano")
    chosen = [replace(one, seconds=_CHECK_S) for one in workloads(("1x1", "20x16"), bench.shape)]
    with Rounds(bench, [OURS, CHECKED_PEER]) as rounds:
        found = figures.ratios(figures.summary(rounds.run(chosen, 1, lambda _: None)), OURS, CHECKED_PEER)
    throughput, single = found["20x16"]["pairs_per_s"], found["1x1"]["p50_of_1"]
    say(f"pairs/s at 16 x 20: {throughput:.2f} x {PEER}'s, at least {MIN_THROUGHPUT_RATIO} is asked")
    say(f"p50 of a single pair: {single:.2f} x {PEER}'s, at most {MAX_SINGLE_RATIO} is asked")
    return 0 if throughput >= MIN_THROUGHPUT_RATIO and single <= MAX_SINGLE_RATIO else 1


def soak(bench: Bench, names: Sequence[str], *, quick: bool) -> bool:
    """Load each system for ten minutes (quick: two, the first over after 12 s); whether ours kept the limit."""
    scale = 0.2 if quick else 1.0
    found: dict[str, Any] = {}
    for name in names:
        with started(systems.launch(name, bench), f"soak-{bench.shape}-{name}") as server:
            found[name] = _soak(bench, server, scale)
        say(f"soak {name}: {found[name]['growth']:.3f} times the memory after {_SOAK_MINUTES * scale:g} minutes")
    out = (SCRATCH if quick else RESULTS) / f"serving-soak-{bench.shape}.json"
    content = {"run": describe() | {"quick": quick}, "shape": bench.shape, "workload": _SOAK_LOAD}
    results.write(out, content | {"limit": MAX_MEMORY_GROWTH, "systems": found})
    say(f"wrote {out}")
    return all(one["growth"] <= MAX_MEMORY_GROWTH for name, one in found.items() if systems.is_ours(name))


def _soak(bench: Bench, server: Server, scale: float) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    over = threading.Event()
    started_s = time.monotonic()

    def watch() -> None:
        due_s = scale * 60
        while not over.wait(max(0.0, started_s + due_s - time.monotonic())):
            samples.append({"minute": (time.monotonic() - started_s) / 60, **server.memory_mib()})
            due_s += 60 / _SAMPLES_PER_MINUTE * scale

    watcher = threading.Thread(target=watch)
    load = replace(workload(_SOAK_LOAD, bench.shape), seconds=_SOAK_MINUTES * scale * 60 + 5)
    with LoadGenerator() as generator:
        watcher.start()
        try:
            # Nothing made ahead: ten minutes of documents would be hundreds of megabytes in the client.
            result = generator.run(server.url, server.launch.protocol, load, "soak", max_pairs_per_s=0)
        finally:
            over.set()
            watcher.join()
    return {
        "growth": samples[-1]["pss"] / samples[0]["pss"],
        "pairs_per_s": result["pairs"] / result["elapsed_s"],
        "failures": result["failures"],
        "minute": [round(one["minute"], 2) for one in samples],
        "rss_mib": [round(one["rss"]) for one in samples],
        "pss_mib": [round(one["pss"]) for one in samples],
    }


if __name__ == "__main__":
    raise SystemExit(main())
