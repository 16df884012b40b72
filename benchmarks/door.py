"""What the ingress takes of a long list's time, by stage, as a running service reports it in `Server-Timing`.

python -m benchmarks.door --url http://127.0.0.1:8000     after `make serve`
"""

import statistics
import time

import httpx

from benchmarks import results
from benchmarks.texts import pieces

_REPEATS = 3
_DOOR = ("read", "parse", "admit", "cache", "tokenize", "merge", "respond")


def main() -> None:
    """Send lists of real text, each document new to the service, and print the medians."""
    parser = results.parser(__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service (%(default)s)")
    parser.add_argument("--documents", type=int, default=1_000, help="each of 1,000 characters (%(default)s)")
    parsed = parser.parse_args()
    documents = pieces(parsed.documents * (_REPEATS + 1))
    stages: dict[str, list[float]] = {}
    for repeat in range(_REPEATS + 1):
        part = documents[repeat * parsed.documents : (repeat + 1) * parsed.documents]
        started_s = time.perf_counter()
        body = {"query": "What are the symptoms?", "documents": part}
        response = httpx.post(f"{parsed.url}/v1/rerank", json=body, timeout=300)
        took_ms = (time.perf_counter() - started_s) * 1e3
        response.raise_for_status()
        if not repeat:
            continue  # the first warms up
        for entry in response.headers["server-timing"].split(", "):
            stage, _, duration = entry.partition(";dur=")
            if stage != "total":
                stages.setdefault(stage, []).append(float(duration))
        stages.setdefault("whole, at the client", []).append(took_ms)
    whole = statistics.median(stages["whole, at the client"])
    print("| stage | ms | of the whole | µs a document |\n|---|---|---|---|")
    for stage, took in stages.items():
        median = statistics.median(took)
        print(f"| {stage} | {median:.1f} | {median / whole:.1%} | {median / parsed.documents * 1e3:.0f} |")
    door = sum(statistics.median(stages[stage]) for stage in _DOOR)
    print(f"| {' + '.join(_DOOR)} | {door:.1f} | {door / whole:.1%} | {door / parsed.documents * 1e3:.0f} |")


if __name__ == "__main__":
    main()
