"""Holds the load generator's process and gives it jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from benchmarks.serving.machine import ROOT
from benchmarks.serving.protocols import Protocol
from benchmarks.serving.workloads import Workload

_TIMEOUT_S = 600


class GeneratorError(RuntimeError):
    """The load generator ended."""


class LoadGenerator:
    """One process for many jobs, so that a job does not begin with imports."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.serving.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:  # perhaps in the middle of a job
            self._process.kill()
        self._process.communicate()

    def run(
        self, url: str, protocol: Protocol, workload: Workload, seed: str, max_pairs_per_s: float
    ) -> dict[str, Any]:
        """Send one load and wait for its end.

        Returns:
            What `benchmarks.serving.load` found out. (Any: JSON.)

        Raises:
            GeneratorError: It ended; the reason is on stderr.
        """
        job = {
            "url": url,
            "protocol": protocol.as_json(),
            "workload": workload.as_json(),
            "seed": seed,
            "max_pairs_per_s": max_pairs_per_s,
            "timeout_s": _TIMEOUT_S,
        }
        if self._process.stdin is None or self._process.stdout is None:
            raise GeneratorError("the load generator has no pipes. This is a bug.")
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise GeneratorError(f"the load generator ended, with status {self._process.wait()}")
        result: dict[str, Any] = json.loads(answer)
        return result
