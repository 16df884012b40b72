"""Another state of this repository beside this one: lists of 1, 20 and 1,000, in alternating rounds.

    git worktree add /tmp/old 964babb
    python -m benchmarks.beside --old /tmp/old [--shapes nano,small] [--rounds 3] [--quick]

Both are started from their own checkout, in this environment. Ratios are this state's to the old one's. Writes
benchmarks/results/beside.json (--quick: build/bench/beside.json) and prints the table.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.results import RESULTS, SCRATCH, Check, describe, say
from benchmarks.serving import figures
from benchmarks.serving.rounds import Contender, Rounds
from benchmarks.serving.systems import OURS, Bench
from benchmarks.serving.workloads import workloads

WORKLOADS = ("1x1", "20x8", "1000x1")
MIN_RATE, MAX_CPU, MAX_P50, MAX_MEMORY = 0.98, 1 / 0.98, 1.0, 1.0


def measure(shape: str, old: Path, rounds: int, *, quick: bool) -> tuple[dict[str, Any], list[Check]]:
    """Measure both states over one shape; the figures, and whether this state is at least as good."""
    former = f"{OURS}@{old}"
    with Rounds(Bench(shape), [former, OURS]) as run:
        records = run.run(workloads(WORKLOADS, shape, quick=quick), rounds, lambda _: None)
        memory = {one.name: _memory(one) for one in run.contenders}
    found = figures.summary(records)
    ratios = figures.ratios(found, OURS, former)
    checks = [
        Check(f"{shape}, idle memory (PSS), ratio", memory[OURS] / memory[former], "<=", MAX_MEMORY),
        Check(f"{shape}, 1x1: p50 of a pair, ratio", ratios["1x1"]["p50_of_1"], "<=", MAX_P50),
    ]
    for name in WORKLOADS:
        checks.append(Check(f"{shape}, {name}: pairs/s, ratio", ratios[name]["pairs_per_s"], ">=", MIN_RATE))
        cpu = ratios[name]["cpu_ms_per_pair"]
        checks.append(Check(f"{shape}, {name}: processor time per pair, ratio", cpu, "<=", MAX_CPU))
    figures_of = {"old": former, "new": OURS}
    summary = {
        name: {state: one[system] for state, system in figures_of.items() if system in one}
        for name, one in found.items()
    }
    idle = {state: memory[system] for state, system in figures_of.items()}
    return {"idle_pss_mib": idle, "ratios": ratios, "summary": summary, "rounds": records}, checks


def _memory(contender: Contender) -> float:
    """MiB of all processes while idle, with shared pages counted once, the median of the starts."""
    return statistics.median(one["pss"] for one in contender.idle_memory_mib)


def table(shapes: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The figures as Markdown."""
    heads = ("pairs/s: old", "new", "ratio", "CPU ms/pair: old", "new", "ratio", "p50, ms: old", "new")
    yield f"| shape | documents x clients | {' | '.join(heads)} |"
    yield f"|{'---|' * (2 + len(heads))}"
    for shape, found in shapes.items():
        for name, states in found["summary"].items():
            cells = []
            for key in ("pairs_per_s", "cpu_ms_per_pair"):
                cells += [f"{states[state][key]['median']:,.4g}" for state in ("old", "new")]
                cells.append(f"{found['ratios'][name][key]:.3f}")
            [size] = states["new"]["latency_ms"]
            cells += [f"{states[state]['latency_ms'][size]['p50']['median']:,.4g}" for state in ("old", "new")]
            yield f"| {shape} | {name} | {' | '.join(cells)} |"
    for shape, found in shapes.items():
        idle = found["idle_pss_mib"]
        yield f"\nIdle memory, {shape}: {idle['old']:,.0f} MiB before, {idle['new']:,.0f} MiB now."


def main() -> int:
    """Measure; exit status 1 if this state is worse."""
    parser = results.parser(__doc__)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the other state")
    parser.add_argument("--shapes", default="nano,small", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time each: to see whether it runs")
    arguments = parser.parse_args()
    header, shapes, checks = describe(), {}, list[Check]()
    for shape in arguments.shapes.split(","):
        shapes[shape], judged = measure(shape, arguments.old.resolve(), arguments.rounds, quick=arguments.quick)
        checks += judged
    out = (SCRATCH if arguments.quick else RESULTS) / "beside.json"
    results.write(out, {"run": header, "checks": [one.as_json() for one in checks], "shapes": shapes})
    print("\n".join(table(shapes)))
    for check in checks:
        say(check)
    say(f"wrote {out}")
    return 0 if all(check.held for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
