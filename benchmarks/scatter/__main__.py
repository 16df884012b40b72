"""Run the experiments and write their JSON and the plot.

python -m benchmarks.scatter [--only NAME ...] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from benchmarks.scatter import plot
from benchmarks.scatter.report import Result, say, write
from benchmarks.signals import heed_sigterm

EXPERIMENTS = ("placement", "scaling", "overload", "disconnects", "fairness", "kills")


def main() -> int:
    """Run what is asked for; exit status 1 if a limit did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see whether it runs")
    parser.add_argument("--out", type=Path, default=plot.RESULTS / "scatter.json", help="(%(default)s)")
    arguments = parser.parse_args()
    heed_sigterm()
    results: dict[str, Result] = {}
    took_s: dict[str, float] = {}
    for name in arguments.only:
        say(f"--- {name}")
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-scatter-") as folder:
            experiment = importlib.import_module(f"benchmarks.scatter.{name}")
            results[name] = experiment.run(Path(folder), quick=arguments.quick)
        took_s[name] = time.monotonic() - started_s
        write(arguments.out, {name: results[name]}, quick=arguments.quick, took_s=took_s)  # now: the next may fail
    plot.draw(arguments.out, arguments.out.with_name("scaling.svg"))
    for name, result in results.items():
        for check in result.checks:
            say(f"{name}: {check}")
    say(f"wrote {arguments.out}")
    return 0 if all(check.held for result in results.values() for check in result.checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
