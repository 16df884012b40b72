"""Run the experiments and write their JSON and the plot.

python -m benchmarks.scatter [--only NAME ...] [--quick] [--out FILE]
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path

from benchmarks import plots, results
from benchmarks.results import RESULTS, say

EXPERIMENTS = ("placement", "scaling", "overload", "disconnects", "fairness", "kills")


def main() -> int:
    """Run what is asked for; exit status 1 if a limit did not hold."""
    parser = results.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see whether it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "scatter.json", help="(%(default)s)")
    asked = parser.parse_args()
    found: dict[str, results.Result] = {}
    for name in asked.only:
        say(f"--- {name}")
        started_s = time.monotonic()
        found[name] = importlib.import_module(f"benchmarks.scatter.{name}").run(quick=asked.quick)
        # Now: the next may fail.
        found[name].write(asked.out, name, quick=asked.quick, took_s=round(time.monotonic() - started_s))
    plots.draw_scaling(asked.out, asked.out.with_name("scaling.svg"))
    for name, result in found.items():
        for check in result.checks:
            say(f"{name}: {check}")
    say(f"wrote {asked.out}")
    return 0 if all(result.held for result in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
