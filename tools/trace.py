"""Draw the traces that `tracing.exporter: file` has written, for those who have no Jaeger at hand.

python -m tools.trace spans.jsonl                  the last trace
python -m tools.trace spans.jsonl REQUEST_ID       that of one request
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

SpanLine: TypeAlias = dict[str, Any]  # JSON
_WIDTH = 50
_SHOWN = ("replica", "pairs", "tokens", "attempts")


def draw(spans: list[SpanLine], root: SpanLine) -> Iterator[str]:
    """One line for each span of a trace: its name, how long it took, and where that lies in the whole."""
    children: dict[str | None, list[SpanLine]] = defaultdict(list)
    for span in spans:
        children[span["parent_id"]].append(span)
    began_ms, whole_ms = _ms(root["start_time"]), _ms(root["end_time"]) - _ms(root["start_time"])

    def lines(span: SpanLine, depth: int) -> Iterator[str]:
        start_ms, took_ms = _ms(span["start_time"]) - began_ms, _ms(span["end_time"]) - _ms(span["start_time"])
        at = round(start_ms / whole_ms * _WIDTH)
        bar = " " * at + "█" * max(1, round((start_ms + took_ms) / whole_ms * _WIDTH) - at)
        shown = _SHOWN if span["name"] == "shard" else ()
        text = " ".join(f"{name}={span['attributes'].get(f'reranker.{name}')}" for name in shown)
        yield f"{'  ' * depth + span['name']:<18}{took_ms:8.2f} ms  {bar:<{_WIDTH}}  {text}".rstrip()
        for child in sorted(children[span["context"]["span_id"]], key=lambda one: str(one["start_time"])):
            yield from lines(child, depth + 1)

    yield from lines(root, 0)


def _ms(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("request_id", nargs="?", help="default: the last request's")
    arguments = parser.parse_args()
    spans: list[SpanLine] = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    roots = [one for one in spans if one["kind"] == "SpanKind.SERVER"]
    wanted = [one for one in roots if arguments.request_id in (None, one["attributes"].get("reranker.request_id"))]
    if not wanted:
        parser.error("no such request in it")
    root = wanted[-1]
    trace = [one for one in spans if one["context"]["trace_id"] == root["context"]["trace_id"]]
    print("\n".join(draw(trace, root)))


if __name__ == "__main__":
    main()
