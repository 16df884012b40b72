"""Measure the score cache; writes benchmarks/results/cache.json.

python -m benchmarks.cache [--only pieces demo small outages] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cache import lists, outages, pieces
from benchmarks.scatter.report import ROOT, Result, say, write
from benchmarks.signals import heed_sigterm

EXPERIMENTS: dict[str, Callable[[Path, bool], Result]] = {
    "pieces": lambda folder, quick: pieces.run(folder, quick=quick),
    "demo": lambda _, quick: lists.run("demo", quick=quick),
    "small": lambda _, quick: lists.run("small", quick=quick),
    "outages": lambda folder, quick: outages.run(folder, quick=quick),
}


def main() -> int:
    """Run experiments; exit status 1 if a limit did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="to see whether it runs; writes build/bench/cache.json")
    parsed = parser.parse_args()
    heed_sigterm()
    path = ROOT / ("build/bench" if parsed.quick else "benchmarks/results") / "cache.json"
    held = True
    for name in parsed.only:
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            result = EXPERIMENTS[name](Path(folder), parsed.quick)
        write(path, {name: result}, quick=parsed.quick, took_s={name: time.monotonic() - started_s})
        held &= all(check.held for check in result.checks)
    say(f"wrote {path}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
