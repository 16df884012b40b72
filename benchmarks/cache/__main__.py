"""Measure the score cache; writes benchmarks/results/cache.json.

python -m benchmarks.cache [--only pieces demo small outages] [--quick]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import results
from benchmarks.cache import lists, outages, pieces
from benchmarks.results import RESULTS, SCRATCH, Result, say

EXPERIMENTS: dict[str, Callable[[Path, bool], Result]] = {
    "pieces": lambda folder, quick: pieces.run(folder, quick=quick),
    "demo": lambda _, quick: lists.run("demo", quick=quick),
    "small": lambda _, quick: lists.run("small", quick=quick),
    "outages": lambda folder, quick: outages.run(folder, quick=quick),
}


def main() -> int:
    """Run experiments; exit status 1 if a limit did not hold."""
    parser = results.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="to see whether it runs; writes build/bench/cache.json")
    asked = parser.parse_args()
    path = (SCRATCH if asked.quick else RESULTS) / "cache.json"
    held = True
    for name in asked.only:
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            result = EXPERIMENTS[name](Path(folder), asked.quick)
        result.write(path, name, quick=asked.quick, took_s=round(time.monotonic() - started_s))
        held &= result.held
    say(f"wrote {path}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
