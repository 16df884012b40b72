"""Rounds alternate between the systems; only one is driven at a time, and none that costs anything stands by."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from benchmarks.load import LoadGenerator, Workload
from benchmarks.results import GpuUse, say
from benchmarks.service import Launch, Server, ServiceError, busy_cpu_s
from benchmarks.serving import systems
from benchmarks.serving.figures import Record, record
from benchmarks.serving.systems import Bench
from benchmarks.serving.workloads import PACES, only_ours, workload
from benchmarks.texts import make_list

MAX_IDLE_CORES = 0.03
"""A system that uses more while nobody asks it is ended when another's turn comes, and started again for its own."""
TOLERANCE = 1e-2
"""Of a score, between two systems."""
_WARM_UP_S = 1.5


class DisagreementError(RuntimeError):
    """Two systems that must score alike do not: their speeds cannot be compared."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A system's scores of the lists that all systems are asked for before anything is measured."""

    scores: list[float]
    prompt_tokens: int | None

    @classmethod
    def of(cls, server: Server) -> Self:
        """Ask for two lists: random words, and real questions with passages."""
        scores: list[float] = []
        tokens: int | None = 0
        for texts in (make_list("words", 20, "agreement"), make_list("real", 20, "agreement")):
            found, said = server.scores(texts)
            scores += found
            tokens = None if tokens is None or said is None else tokens + said
        return cls(scores, tokens)

    def compare(self, other: Self) -> dict[str, Any]:  # Any: JSON
        """Compare two systems' scores, and the prompts' tokens where both count them.

        Random weights give scores that differ little between documents, so the difference between systems is told
        against that spread too.
        """
        differences = [abs(a - b) for a, b in zip(self.scores, other.scores, strict=True)]
        spread = statistics.pstdev(self.scores)
        constant = min(spread, statistics.pstdev(other.scores)) == 0
        counted = self.prompt_tokens is not None and other.prompt_tokens is not None
        return {
            "agrees": max(differences) <= TOLERANCE,
            "tolerance": TOLERANCE,
            "largest_difference": max(differences),
            "spread_of_scores": spread,
            "correlation": None if constant else statistics.correlation(self.scores, other.scores),
            "same_prompt_tokens": self.prompt_tokens == other.prompt_tokens if counted else None,
            "pairs": len(differences),
        }


@dataclass(slots=True)
class Contender:
    """A system in the run."""

    name: str
    launch: Launch
    server: Server | None = None
    idle_cores: float | None = None
    idle_memory_mib: list[dict[str, float]] = field(default_factory=list)
    """Of each start: all its processes, summed (rss), and with shared pages counted once (pss)."""
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
            "idle_memory_mib": self.idle_memory_mib,
            "starts": len(self.start_s),
            "start_s": [round(one, 1) for one in self.start_s],
        }

    def end(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None


class Rounds:
    """A run over one shape. Use as a context: it ends what it started."""

    def __init__(self, bench: Bench, names: Sequence[str]) -> None:
        """Look which systems there are.

        Raises:
            ValueError: There is no such system.
        """
        self._bench = bench
        self._reference: tuple[Contender, Sample] | None = None
        self.contenders: list[Contender] = []
        self.skipped: dict[str, str] = {}
        for name in names:
            try:
                self.contenders.append(Contender(name, systems.launch(name, bench)))
            except ServiceError as error:
                self._skip(name, str(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for contender in self.contenders:
            contender.end()

    def run(self, workloads: Sequence[Workload], rounds: int, keep: Callable[[list[Record]], object]) -> list[Record]:
        """Measure these workloads in so many rounds; `keep` gets all records so far after each system's turn."""
        records: list[Record] = []
        warm_up = replace(workload("20x8", self._bench.shape), seconds=_WARM_UP_S)
        with LoadGenerator() as generator:
            for number in range(1, rounds + 1):
                for contender in list(self.contenders):
                    try:
                        server = self._ready(contender)
                    except ServiceError as error:
                        if contender.launch.required:
                            raise
                        contender.end()
                        self.contenders.remove(contender)
                        self._skip(contender.name, str(error))
                        continue
                    mine = [w for w in workloads if w.repeated or number == 1]
                    mine = [w for w in mine if not only_ours(w) or systems.is_ours(contender.name)]
                    self._drive(generator, server, warm_up, f"warm-up {number}")
                    records += [self._measure(generator, contender, server, one, number) for one in mine]
                    if not self._may_stand_by(contender):
                        contender.end()
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
        sample = Sample.of(server)
        if self._reference is None:
            self._reference = contender, sample
        elif contender is not self._reference[0] and contender.agreement is None:
            contender.agreement = found = self._reference[1].compare(sample)
            say(f"{contender.name}: scores differ by {found['largest_difference']:.4f} at most")
            same = found["agrees"] and found["same_prompt_tokens"] is not False
            if not same and contender.launch.required:
                raise DisagreementError(f"{contender.name} does not score as {self._reference[0].name}: {found}")
        if contender.idle_cores is None:
            contender.idle_cores = round(server.idle_cores(), 4)
        contender.idle_memory_mib.append({kind: round(mib, 1) for kind, mib in server.memory_mib().items()})
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

    def _skip(self, name: str, reason: str) -> None:
        say(f"{name} is left out: {reason}")
        self.skipped[name] = reason
