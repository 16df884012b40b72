"""Try one attack after the other on a service, and measure each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.attacks import connections, door, grammar, readers, with_key, without_key
from tests.attacks.attack import Attack, Outcome, Target
from tests.attacks.measure import Cost, Watch
from tests.attacks.verdict import Bounds, Quiet, faults
from tests.attacks.wire import exchange, head

_REST_S = 5.0
_BETWEEN_S = 1.5
_TAIL_S = 1.0
"""What an attack has begun goes on for a while after its answer."""
_LEAST_S = 2.0
_HURRY = 2.5
"""By this the three before are divided in a hurry."""
_SETTLE_S = 120.0
_REFUSALS = 2_000
_KEPT_SHARE = 1.3
"""Of the memory before: what a process may have ten minutes after an attack."""


@dataclass(slots=True)
class Result:
    """One attack, what it cost, and what is wrong with that."""

    attack: Attack
    outcome: Outcome
    cost: Cost
    quiet: Quiet
    settled_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    beyond_time: bool = False
    """Whether anything but time was out of bounds."""


def every_attack() -> list[Attack]:
    """All of them, in the order in which they are tried."""
    return [
        attack for module in (without_key, door, with_key, readers, grammar, connections) for attack in module.attacks()
    ]


def places(target: Target) -> dict[str, bool]:
    """What the service has, of what some attacks need."""
    page = exchange(target.address, [head("GET", "/ui/")], 60)
    admin = exchange(target.address, [head("GET", "/v1/cache", target.authorized)], 30)
    return {"ui": page.status == 200, "admin": admin.status == 200}


class Campaign:
    """Attacks one service."""

    def __init__(self, target: Target, watch: Watch, bounds: Bounds) -> None:
        """Look at what there is."""
        self._target, self._watch, self._bounds = target, watch, bounds
        self._refusal_cpu_s = 0.0
        self._first_mib: dict[str, float] = {}

    def prepare(self) -> Cost:
        """Warm everything up, and see what the service and its other clients need without attack."""
        self._target.places = places(self._target)
        self._watch.rest(2.0)
        self._watch.quiet_health_s.clear()
        self._watch.quiet_lists_s.clear()
        self._watch.quiet_cpu.clear()
        cost = self._watch.rest(_REST_S)
        began_s = time.monotonic()
        refused = head("GET", "/v1/load", {"connection": "close"})
        for _ in range(_REFUSALS):
            exchange(self._target.address, [refused], 30)
        spent = self._watch.cost(began_s, time.monotonic())
        for name, one in spent.processes.items():
            own_s = one.cpu_s - self._watch.quiet_cpu.get(name, 0.0) * spent.seconds
            self._refusal_cpu_s = max(self._refusal_cpu_s, own_s / _REFUSALS)
        self._first_mib = self._watch.memory_mib()
        return cost

    def run(self, attack: Attack) -> Result:
        """Try one, measure, and let the service settle.

        One in which something took too long is tried once more: other programs use this machine too.
        """
        missing = f"there is no {attack.needs}" if attack.needs and not self._target.places.get(attack.needs) else ""
        missing = missing or ("no key was given" if attack.with_key and not self._target.key else "")
        if missing:
            return self._result(attack, Outcome(skipped=missing), Cost(0.0))
        result = self._try(attack)
        if result.faults and not result.beyond_time:
            second = self._try(attack)
            result = second if not second.faults else result
        return result

    def _try(self, attack: Attack) -> Result:
        hurry = _HURRY if self._target.hurried else 1.0
        self._watch.rest(_BETWEEN_S / hurry)
        began_s = time.monotonic()
        outcome = attack.run(self._target)
        ended_s = time.monotonic()
        time.sleep(max(_TAIL_S / hurry, _LEAST_S / hurry - (ended_s - began_s)))
        result = self._result(attack, outcome, self._watch.cost(began_s, time.monotonic()))
        result.settled_s = self._watch.settle(_SETTLE_S)
        return result

    def _result(self, attack: Attack, outcome: Outcome, cost: Cost) -> Result:
        watch = self._watch
        quiet = Quiet(
            tuple(watch.quiet_health_s), tuple(watch.quiet_lists_s), dict(watch.quiet_cpu), self._refusal_cpu_s
        )
        result = Result(attack, outcome, cost, quiet)
        if not outcome.skipped:
            result.faults = faults(attack, outcome, cost, quiet, self._bounds)
            result.beyond_time = bool(faults(attack, outcome, cost, quiet, self._bounds.loosened(math.inf)))
        return result

    def kept(self, limit_s: float) -> tuple[float, list[str]]:
        """Wait until the memory is given back; gives the seconds that took, and which process kept too much.

        Memory is not judged before some time has been given: `limit_s` 0 is none.
        """
        if not limit_s:
            return 0.0, []
        began_s = time.monotonic()
        while True:
            now = self._watch.memory_mib()
            kept = [
                f"{name} has {mib:.0f} MiB, {mib / self._first_mib[name]:.1f} times what it had"
                for name, mib in now.items()
                if name in self._first_mib and mib > _KEPT_SHARE * self._first_mib[name]
            ]
            if not kept or time.monotonic() - began_s > limit_s:
                return time.monotonic() - began_s, kept
            time.sleep(1)


def as_json(results: Sequence[Result], seed: int) -> str:
    """Everything that was measured."""
    rows = [
        {
            "name": one.attack.name,
            "fact": one.attack.fact,
            "with_key": one.attack.with_key,
            "skipped": one.outcome.skipped,
            "answers": dict(one.outcome.answers),
            "requests": one.outcome.requests,
            "slowest_s": one.outcome.slowest_s,
            "seconds": one.cost.seconds,
            "settled_s": one.settled_s,
            "processes": {
                name: {"before_mib": p.before_mib, "growth_mib": p.growth_mib, "left_mib": p.left_mib, "cpu_s": p.cpu_s}
                for name, p in one.cost.processes.items()
            },
            "health_longest_s": one.cost.longest_health_s,
            "lists": len(one.cost.lists_s),
            "lists_failed": one.cost.lists_failed,
            "log_bytes": one.cost.log_bytes,
            "faults": one.faults,
        }
        for one in results
    ]
    return json.dumps({"seed": seed, "attacks": rows}, indent=1)
