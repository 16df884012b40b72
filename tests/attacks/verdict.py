"""Whether what an attack cost is within the bounds that the service promises. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.attacks.attack import Attack, Outcome
from tests.attacks.measure import Cost, percentile


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be. Waits and processor time are compared with those of the same machine without attack."""

    health_s: float = 0.25
    """The longest wait of /health, above the longest without attack."""
    lists_ratio: float = 2.0
    lists_extra_s: float = 0.05
    """p99 of another key's lists of ten: at most so many times that without attack, and so much more."""
    overload_lists_s: float = 0.5
    """The same where engines have more to do than they can; 0.28 s was measured at twice that."""
    growth_mib: float = 1_024.0
    """Of any process, by an attack with a key."""
    open_growth_mib: float = 64.0
    """Of any process, by an attack without one."""
    open_share: float = 0.05
    """Of a core, of any process, beyond what as many plain refusals of a missing key cost."""
    log_bytes_per_request: float = 1_024.0
    log_bytes_per_minute: float = 2.0**20

    def loosened(self, times: float) -> Bounds:
        """Bounds of time that hold on a machine that does much else besides; those of memory and of the log stay."""
        return Bounds(
            health_s=self.health_s * times,
            lists_ratio=self.lists_ratio * times,
            lists_extra_s=self.lists_extra_s * times,
            overload_lists_s=self.overload_lists_s * times,
            open_share=self.open_share * times,
        )


@dataclass(frozen=True, slots=True)
class Quiet:
    """The service and its clients without attack."""

    health_s: Sequence[float]
    lists_s: Sequence[float]
    cpu: Mapping[str, float]
    """Processor seconds a second of each process."""
    refusal_cpu_s: float = 0.0
    """What one plain refusal costs: a request without a key, on a connection of its own."""


def faults(attack: Attack, outcome: Outcome, cost: Cost, quiet: Quiet, bounds: Bounds) -> list[str]:
    """Say what was out of bounds; empty: it held."""
    return [*outcome.faults, *_waits(attack, cost, quiet, bounds), *_memory(attack, cost, bounds)] + (
        [] if attack.with_key else [*_processor(outcome, cost, quiet, bounds), *_log(outcome, cost, bounds)]
    )


def _waits(attack: Attack, cost: Cost, quiet: Quiet, bounds: Bounds) -> Iterator[str]:
    allowed_s = bounds.health_s + max(quiet.health_s, default=0.0)
    if cost.longest_health_s > allowed_s:
        yield f"/health waited {cost.longest_health_s:.2f} s (at most {allowed_s:.2f})"
    if cost.health_failed:
        yield f"/health failed {len(cost.health_failed)} times ({_shown(cost.health_failed)})"
    p99_s, before_s = percentile(cost.lists_s, 0.99), percentile(quiet.lists_s, 0.99)
    allowed_s = bounds.lists_ratio * before_s + (bounds.overload_lists_s if attack.overloads else bounds.lists_extra_s)
    if p99_s > allowed_s:
        yield f"another key's lists: p99 {p99_s:.2f} s (at most {allowed_s:.2f})"
    if cost.lists_failed:
        count = f"{len(cost.lists_failed)} of another key's {len(cost.lists_s)} lists"
        yield f"{count} failed ({_shown(cost.lists_failed)})"


def _memory(attack: Attack, cost: Cost, bounds: Bounds) -> Iterator[str]:
    if cost.gone:
        yield f"ended: {', '.join(cost.gone)}"
    allowed_mib = bounds.growth_mib if attack.with_key else bounds.open_growth_mib
    for name, one in cost.processes.items():
        if one.growth_mib > allowed_mib:
            yield f"{name} grew by {one.growth_mib:.0f} MiB (at most {allowed_mib:.0f})"


def _processor(outcome: Outcome, cost: Cost, quiet: Quiet, bounds: Bounds) -> Iterator[str]:
    for name, one in cost.processes.items():
        own_s = one.cpu_s - quiet.cpu.get(name, 0.0) * cost.seconds
        allowed_s = outcome.requests * quiet.refusal_cpu_s + bounds.open_share * cost.seconds
        if own_s > allowed_s + 0.05:  # the kernel counts in hundredths of a second
            yield f"{name} computed {own_s:.2f} s (at most {allowed_s:.2f} for {outcome.requests} requests)"


def _log(outcome: Outcome, cost: Cost, bounds: Bounds) -> Iterator[str]:
    if cost.log_bytes is None:
        return
    allowed = min(
        max(1, outcome.requests) * bounds.log_bytes_per_request,
        max(1.0, cost.seconds / 60) * bounds.log_bytes_per_minute,
    )
    if cost.log_bytes > allowed + 4_096:  # what Ray writes by itself meanwhile
        each = cost.log_bytes / max(1, outcome.requests)
        yield f"{cost.log_bytes / 1024:.0f} KB of log, {each / 1024:.1f} KB a request"


def _shown(statuses: Sequence[int]) -> str:
    return ", ".join(str(one or "no answer") for one in sorted(set(statuses)))
