"""`reranker compare`: what the shadows of a running service have found, in words."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from deployments.cli import Subparsers
from deployments.cli.rankers import API_KEY
from reranker.client import DEFAULT_URL, AsyncRerankerClient
from reranker.config import CLIENTS_ORDER

_NONE = (
    "no shadow is configured; docs/several-models.md says how: `shadows: [{of: fast, with: candidate, share: 0.05}]`"
)
_HEADINGS = ("documents", "lists", "first place differs", "same in first ten", "rank correlation")


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    said = "show how models compare on a service's live lists (`shadows`)"
    parser = commands.add_parser("compare", help=said, description=f"{said}. In brackets: 95 % intervals.")
    said = f"where the service is (%(default)s); its API key: {API_KEY}"
    parser.add_argument("--url", default=DEFAULT_URL, help=said)
    parser.add_argument("--json", action="store_true", help="print what GET /v1/compare answers")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Ask and print; returns the exit status."""
    report = asyncio.run(_asked(parsed.url))
    print(json.dumps(report, ensure_ascii=False) if parsed.json else "\n".join(lines(report["shadows"])))
    return 0


async def _asked(url: str) -> dict[str, Any]:  # Any: JSON
    client = AsyncRerankerClient(url)
    try:
        answer = await client.request("GET", "/v1/compare", api_key=os.environ.get(API_KEY))
        report: dict[str, Any] = answer.json()
        return report
    finally:
        await client.aclose()


def lines(shadows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say for each shadow what it found, then the same by the lists' sizes."""
    if not shadows:
        yield _NONE
    for number, one in enumerate(shadows):
        yield from [""] * (number > 0)
        yield _title(one)
        yield f"  first place differs in {_first_place(one)} of {one['lists']:,} lists"
        of = f"of {one['overlap_at_10']['lists']:,} lists with more than ten documents"
        yield f"  same documents in the first ten: {_overlap(one)} {of}"
        yield f"  rank correlation {_correlation(one)}"
        yield from (f"  {line}" for line in _table(one["by_size"]))
        if dropped := one["dropped"]:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
            yield f"  not compared: {sum(dropped.values()):,} more ({reasons})"


def _title(one: Mapping[str, Any]) -> str:
    other = "the client's own order" if one["with"] == CLIENTS_ORDER else one["with"]
    told = f" under {one['instruction']!r}" if one["instruction"] else ""
    since = datetime.fromtimestamp(one["since"], UTC)
    share = f"{100 * one['share']:g} % of its lists"
    return f"{one['of']} beside {other}{told} ({share}, since {since:%Y-%m-%d %H:%M} UTC)"


def _table(by_size: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [_HEADINGS]
    for size, one in by_size.items():
        rows.append((size, f"{one['lists']:,}", _first_place(one), _overlap(one), _correlation(one)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _first_place(one: Mapping[str, Any]) -> str:
    found = one["first_place_differs"]
    return _interval(found["share"], found["low"], found["high"], 100, 1, " %")


def _overlap(one: Mapping[str, Any]) -> str:
    found = one["overlap_at_10"]
    return _interval(found["mean"], found["low"], found["high"], 100, 1, " %")


def _correlation(one: Mapping[str, Any]) -> str:
    found = one["rank_correlation"]
    return _interval(found["mean"], found["low"], found["high"], 1, 3, "")


def _interval(value: float | None, low: float | None, high: float | None, times: int, places: int, unit: str) -> str:
    if value is None:
        return "–"
    said = f"{times * value:.{places}f}{unit}"
    return said if low is None or high is None else f"{said} [{times * low:.{places}f}, {times * high:.{places}f}]"
