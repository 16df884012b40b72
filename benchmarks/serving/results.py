"""The JSON of a run over one shape: header, systems, raw rounds, medians, ratios and verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving import figures, limits
from benchmarks.serving.figures import Record
from benchmarks.serving.limits import Limit
from benchmarks.serving.machine import RESULTS
from benchmarks.serving.registry import OURS, PEER
from benchmarks.serving.rounds import Rounds
from benchmarks.serving.system import Bench
from benchmarks.serving.workloads import Workload
from benchmarks.shapes import SHAPES


class Result:
    """What is written, again and again while the run goes on."""

    def __init__(
        self, path: Path, bench: Bench, header: dict[str, Any], workloads: Sequence[Workload], rounds: Rounds
    ) -> None:
        self._path, self._bench, self._header, self._workloads, self._rounds = path, bench, header, workloads, rounds

    def write(self, records: list[Record], *, complete: bool = False) -> list[Limit]:
        """Write all of it.

        Args:
            records: Measured so far.
            complete: Nothing more will come.

        Returns:
            The verdicts.
        """
        shape = self._bench.shape
        found = figures.summary(records)
        ratios = figures.ratios(found, OURS, PEER)
        verdicts = limits.limits(shape, found, ratios)
        content = {
            "run": self._header | {"complete": complete},
            "shape": {"name": shape, "gpu": self._bench.gpu, **(asdict(SHAPES[shape]) if shape in SHAPES else {})}
            | {"flops_per_token": SHAPES[shape].flops_per_token if shape in SHAPES else None},
            "systems": {one.name: one.as_json() for one in self._rounds.contenders},
            "skipped": self._rounds.skipped,
            "workloads": {one.name: one.as_json() for one in self._workloads},
            "limits": [one.as_json() for one in verdicts],
            "ratios": ratios,
            "summary": found,
            "rounds": records,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(dumps(content) + "\n", encoding="utf-8")
        return verdicts


def dumps(content: dict[str, Any]) -> str:
    """JSON with one line for each list of numbers, so that raw latencies do not take a line each."""
    lists: list[str] = []

    def folded(value: Any) -> Any:  # Any: JSON
        if isinstance(value, dict):
            return {key: folded(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            if all(isinstance(one, int | float | str) for one in value):
                lists.append(json.dumps(value, ensure_ascii=False))
                return f"\0{len(lists) - 1}\0"
            return [folded(one) for one in value]
        return value

    text = json.dumps(folded(content), indent=1, ensure_ascii=False)
    for number, line in enumerate(lists):
        text = text.replace(f'"\\u0000{number}\\u0000"', line, 1)
    return text


def load_all(prefix: str = "serving-") -> dict[str, dict[str, Any]]:
    """The committed results, by shape; those of one kind: `serving-`, `serving-variants-` or `serving-soak-`."""
    found = {}
    for path in sorted(RESULTS.glob(f"{prefix}*.json")):
        shape = path.stem.removeprefix(prefix)
        if "-" not in shape:
            found[shape] = json.loads(path.read_text(encoding="utf-8"))
    return found
