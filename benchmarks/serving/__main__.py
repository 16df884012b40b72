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

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.serving import check, hops, machine, models, page, plots, registry, results, soak
from benchmarks.serving.generator import GeneratorError
from benchmarks.serving.machine import say
from benchmarks.serving.rounds import DisagreementError, Rounds
from benchmarks.serving.system import Bench, UnavailableError
from benchmarks.serving.vllm_serve import VARIANTS
from benchmarks.serving.workloads import NAMES, workloads
from benchmarks.signals import heed_sigterm

SWEEP = (
    *(f"engine.max_batch_tokens={tokens}" for tokens in (2_048, 4_096, 16_384, 32_768)),
    *(f"engine.max_batch_pairs={pairs}" for pairs in (64, 128, 512, 1_024)),
    *(f"engine.target_step_s={seconds}" for seconds in (0.02, 0.1, "null")),
    "engine.quantization=fp8",
    "engine.vllm_args.enforce_eager=true",
)
"""One setting changed at a time, against the defaults."""
_TUNE_WORKLOADS = ("1x1", "20x16", "1000x1", "mixed")


def main() -> int:
    """Do what is asked for; exit status 1 if a limit did not hold, 2 if there was nothing to measure."""
    heed_sigterm()
    try:
        return _run(_arguments())
    except (UnavailableError, DisagreementError, GeneratorError, ValueError) as error:
        print(f"benchmarks.serving: {error}", file=sys.stderr)
        return 2


def _run(parsed: argparse.Namespace) -> int:
    if parsed.check:
        return check.run()
    if parsed.hops:
        hops.run(quick=parsed.quick)
        return 0
    started_s = time.monotonic()
    shapes = parsed.shapes.split(",")
    held = True
    for shape in [] if parsed.report else shapes:
        bench = Bench(shape, models.checkpoint(shape), bool(machine.gpus()), models.dtype(shape))
        if parsed.soak:
            held &= soak.run(bench, parsed.systems.split(","), quick=parsed.quick)
        else:
            held &= _measure(bench, parsed, _out(parsed, shape))
    if parsed.report or not (parsed.quick or parsed.out):
        plots.draw_all()
        page.write()
        say(f"wrote {page.PAGE}")
    say(f"took {(time.monotonic() - started_s) / 60:.1f} minutes")
    return 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--systems", default=",".join(registry.DEFAULT), help=f"of {', '.join(registry.NAMES)}; (%(default)s)"
    )
    parser.add_argument("--shapes", default="nano,small", help=f"of {', '.join(models.SHAPE_NAMES)}; (%(default)s)")
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
    parsed = parser.parse_args()
    if unknown := set(parsed.shapes.split(",")) - set(models.SHAPE_NAMES):
        parser.error(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(models.SHAPE_NAMES)}")
    if parsed.out and "," in parsed.shapes:
        parser.error("--out is for one shape")
    if parsed.tune:
        parsed.systems = ",".join([registry.OURS, *(f"{registry.PEER}:{name}" for name in VARIANTS)])
        parsed.workloads = ",".join(_TUNE_WORKLOADS)
    if parsed.sweep:
        parsed.systems = ",".join([registry.OURS, *(f"{registry.OURS}:{setting}" for setting in SWEEP)])
        parsed.workloads = ",".join(_TUNE_WORKLOADS)
    return parsed


def _out(parsed: argparse.Namespace, shape: str) -> Path:
    if parsed.out:
        return Path(parsed.out)
    if parsed.tune and not parsed.quick:
        return machine.RESULTS / f"serving-variants-{shape}.json"
    if parsed.sweep and not parsed.quick:
        return machine.RESULTS / f"serving-sweep-{shape}.json"
    systems, chosen = parsed.systems.split(","), parsed.workloads.split(",")
    full = not parsed.quick and set(registry.DEFAULT) <= set(systems) and set(NAMES) <= set(chosen)
    return (machine.RESULTS if full else machine.SCRATCH) / f"serving-{shape}.json"


def _measure(bench: Bench, parsed: argparse.Namespace, out: Path) -> bool:
    """Measure one shape into a file; whether its limits held."""
    chosen = workloads(parsed.workloads.split(","), bench.shape, quick=parsed.quick)
    header = machine.describe(sys.argv[1:]) | {"quick": parsed.quick, "rounds": parsed.rounds}
    with Rounds(bench, parsed.systems.split(",")) as rounds:
        result = results.Result(out, bench, header, chosen, rounds)
        records = rounds.run(chosen, parsed.rounds, result.write)
    verdicts = result.write(records, complete=True)
    for verdict in verdicts:
        say(str(verdict))
    say(f"wrote {out}")
    return all(verdict.held is not False for verdict in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
