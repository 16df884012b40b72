"""Rounds alternate between the systems; only one is driven at a time, and none that costs anything stands by."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from benchmarks.serving import agreement, registry
from benchmarks.serving.agreement import Sample
from benchmarks.serving.figures import Record, record
from benchmarks.serving.generator import LoadGenerator
from benchmarks.serving.machine import GpuUse, busy_cpu_s, say
from benchmarks.serving.system import Bench, Launch, Server, UnavailableError
from benchmarks.serving.workloads import PACES, Workload, workload

MAX_IDLE_CORES = 0.03
"""A system that uses more while nobody asks it is ended when another's turn comes, and started again for its own."""
_WARM_UP_S = 1.5


class DisagreementError(RuntimeError):
    """Two systems that must score alike do not: their speeds cannot be compared."""


@dataclass(slots=True)
class Contender:
    """A system in the run."""

    name: str
    launch: Launch
    server: Server | None = None
    idle_cores: float | None = None
    agreement: dict[str, Any] | None = None
    """With the first system; None: this is the first, or it was not asked yet."""
    start_s: list[float] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """How it was started, and what was seen then."""
        return {
            "command": self.command,
            "environment": self.launch.environment,
            "path": self.launch.protocol.path,
            "prompt_made_by": "client" if self.launch.protocol.templated else "server",
            "notes": list(self.launch.notes),
            "agreement": self.agreement,
            "idle_cores": self.idle_cores,
            "starts": len(self.start_s),
            "start_s": [round(one, 1) for one in self.start_s],
        }


class Rounds:
    """A run over one shape. Use as a context: it ends what it started."""

    def __init__(self, bench: Bench, systems: Sequence[str]) -> None:
        """Look which systems there are.

        Raises:
            ValueError: There is no such system.
            UnavailableError: A required one is not installed.
        """
        self._bench = bench
        self._reference: tuple[Contender, Sample] | None = None
        self.contenders: list[Contender] = []
        self.skipped: dict[str, str] = {}
        for name in systems:
            try:
                self.contenders.append(Contender(name, registry.launch(name, bench)))
            except UnavailableError as error:
                self._skip(name, str(error))

    def run(self, workloads: Sequence[Workload], rounds: int, keep: Callable[[list[Record]], object]) -> list[Record]:
        """Measure.

        Args:
            workloads: In this order.
            rounds: How often.
            keep: Given all records so far, whenever a system has had its turn.

        Raises:
            UnavailableError: A required system does not start.
            DisagreementError: A required system scores differently from the first.
        """
        records: list[Record] = []
        warm_up = replace(workload("20x8", self._bench.shape), seconds=_WARM_UP_S)
        with LoadGenerator() as generator:
            for number in range(1, rounds + 1):
                for contender in list(self.contenders):
                    try:
                        server = self._ready(contender)
                    except UnavailableError as error:
                        if contender.launch.required:
                            raise
                        self._drop(contender, str(error))
                        continue
                    mine = [w for w in workloads if w.repeated or number == 1]
                    mine = [w for w in mine if not w.only_ours or registry.is_ours(contender.name)]
                    self._drive(generator, server, warm_up, f"warm-up {number}")
                    records += [self._measure(generator, contender, server, one, number) for one in mine]
                    if not self._may_stand_by(contender):
                        self._end(contender)
                    keep(records)
        return records

    def _may_stand_by(self, contender: Contender) -> bool:
        """Whether it may stay up while others have their turn: one system at most, for the memory; none on a GPU."""
        others = any(one.server is not None for one in self.contenders if one is not contender)
        idle = contender.idle_cores is not None and contender.idle_cores <= MAX_IDLE_CORES
        return idle and not others and not self._bench.gpu

    def _ready(self, contender: Contender) -> Server:
        """Its server, started and warm; the first time it is also asked for the common scores, and watched idle."""
        if contender.server is not None:
            return contender.server
        started_s = time.monotonic()
        contender.server = server = Server(contender.launch, f"{self._bench.shape}-{contender.name}")
        contender.command = server.command
        server.wait_until_ready()
        contender.start_s.append(time.monotonic() - started_s)
        sample = agreement.sample(server)
        if self._reference is None:
            self._reference = contender, sample
        elif contender is not self._reference[0] and contender.agreement is None:
            contender.agreement = found = agreement.compare(self._reference[1], sample)
            say(f"{contender.name}: scores differ by {found['largest_difference']:.4f} at most")
            same = found["agrees"] and found["same_prompt_tokens"] is not False
            if not same and contender.launch.required:
                raise DisagreementError(f"{contender.name} does not score as {self._reference[0].name}: {found}")
        if contender.idle_cores is None:
            contender.idle_cores = round(server.idle_cores(), 4)
        return server

    def _measure(
        self, generator: LoadGenerator, contender: Contender, server: Server, one: Workload, number: int
    ) -> Record:
        before, busy_s, started_s = server.cpu_s(), busy_cpu_s(), time.monotonic()
        with GpuUse() as gpus:
            load = self._drive(generator, server, one, f"round {number}")
        spent = {role: seconds - before.get(role, 0.0) for role, seconds in server.cpu_s().items()}
        others_s = busy_cpu_s() - busy_s - sum(spent.values()) - load["process_cpu_s"]
        others = max(0.0, others_s / (time.monotonic() - started_s))
        found = record(contender.name, number, one.name, load, spent, others) | {"gpu_busy": gpus.busy}
        p50 = {size: latency.get("p50") for size, latency in found["latency_ms"].items()}
        trouble = {key: found[key] for key in ("refused", "failures", "first_failure", "made_late") if found[key]}
        say(
            f"round {number} {contender.name} {one.name}: {found['pairs_per_s']:.0f} pairs/s, "
            f"p50 in ms by documents {p50} {trouble or ''}"
        )
        return found

    def _drive(self, generator: LoadGenerator, server: Server, one: Workload, seed: str) -> dict[str, Any]:
        pace = PACES[self._bench.shape]
        return generator.run(server.url, server.launch.protocol, one, seed, pace.max_pairs_per_s)

    def _drop(self, contender: Contender, reason: str) -> None:
        self._end(contender)
        self.contenders.remove(contender)
        self._skip(contender.name, reason)

    def _skip(self, name: str, reason: str) -> None:
        say(f"{name} is left out: {reason}")
        self.skipped[name] = reason

    def _end(self, contender: Contender) -> None:
        if contender.server is not None:
            contender.server.stop()
            contender.server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for contender in self.contenders:
            self._end(contender)
