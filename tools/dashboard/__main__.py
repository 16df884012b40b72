"""Write the dashboard for Grafana, check that it is fresh, or draw it as a Prometheus server has it.

python -m tools.dashboard            writes k8s/base/dashboards/reranker.json
python -m tools.dashboard --check    fails when it is stale
python -m tools.dashboard --draw FILE --url http://localhost:9090 --minutes 5
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tools.dashboard.grafana import dashboard
from tools.dashboard.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "k8s" / "base" / "dashboards" / "reranker.json"


def main() -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is stale")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="an image of all panels, .svg or .png")
    parser.add_argument("--url", default="http://127.0.0.1:9090", help="the Prometheus server to draw from")
    parser.add_argument("--minutes", type=float, default=5, help="how far back")
    parser.add_argument("--window", default="20s", help="of rates: four scrape intervals or more")
    arguments = parser.parse_args()
    if arguments.draw:
        from tools.dashboard.drawing import draw  # matplotlib takes a second

        end_s = time.time()
        draw(Prometheus(arguments.url, arguments.window), arguments.draw, end_s - 60 * arguments.minutes, end_s)
        return 0
    fresh = dashboard()
    if arguments.check:
        if not WRITTEN.is_file() or WRITTEN.read_text(encoding="utf-8") != fresh:
            print(f"{WRITTEN.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
            return 1
        return 0
    WRITTEN.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
