"""What a stretch of time cost the service and its other clients, from what the watcher saw."""

from __future__ import annotations

import bisect
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

_MIB = 2**20
_POOL = 400
"""How many looks without attack stand beside those of an attack: the last ones, since a machine changes."""
_SETTLED_HEALTH_S = 0.1
_SETTLE_STEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """One request of a watcher."""

    began_s: float
    seconds: float
    status: int

    @property
    def ended_s(self) -> float:
        return self.began_s + self.seconds


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """What a process used in a stretch of time."""

    before_mib: float
    growth_mib: float
    """Its peak above what it had before."""
    left_mib: float
    """What it has at the end above what it had before."""
    cpu_s: float


@dataclass(slots=True)
class Cost:
    """What a stretch of time cost."""

    seconds: float
    processes: dict[str, ProcessCost] = field(default_factory=dict)
    """By deployment and process id. Empty: the service is on another machine."""
    gone: list[str] = field(default_factory=list)
    """Processes that ended."""
    health_s: list[float] = field(default_factory=list)
    lists_s: list[float] = field(default_factory=list)
    health_failed: list[int] = field(default_factory=list)
    """Statuses of /health that were not 200; 0: no answer."""
    lists_failed: list[int] = field(default_factory=list)
    log_bytes: int | None = None

    @property
    def longest_health_s(self) -> float:
        return max(self.health_s, default=0.0)

    @property
    def cpu_s(self) -> float:
        """Of all processes."""
        return sum(one.cpu_s for one in self.processes.values())

    @property
    def growth_mib(self) -> float:
        """Of the process that grew most."""
        return max((one.growth_mib for one in self.processes.values()), default=0.0)


def percentile(waits: Sequence[float], share: float) -> float:
    """0 where there are none."""
    return float(np.quantile(waits, share)) if waits else 0.0


@dataclass(slots=True)
class Samples:
    """Of one process, in the order of time."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def cost(self, began_s: float, ended_s: float) -> ProcessCost | None:
        """None: it was not there."""
        first = max(0, bisect.bisect_right(self.at_s, began_s) - 1)
        last = min(len(self.at_s) - 1, bisect.bisect_left(self.at_s, ended_s))
        if last < first or self.at_s[last] < began_s:
            return None
        memory = [one / _MIB for one in self.rss_bytes[first : last + 1]]
        cpu_s = self.cpu_s[last] - self.cpu_s[first]
        return ProcessCost(memory[0], max(memory) - memory[0], memory[-1] - memory[0], cpu_s)


class Watch:
    """A watcher's process, and what it has seen so far."""

    def __init__(self, url: str, key: str, other_key: str, *, local: bool) -> None:
        """Start to watch, as the client with `other_key`; `key` is for /metrics, where processes are not local."""
        self._lock = threading.Lock()
        self._looks: dict[str, list[Look]] = {"health": [], "list": []}
        self._processes: dict[int | str, Samples] = {}
        self._log: list[tuple[float, int]] = []
        self.quiet_health_s: deque[float] = deque(maxlen=_POOL)
        self.quiet_lists_s: deque[float] = deque(maxlen=_POOL)
        self.quiet_cpu: dict[str, float] = {}
        """Processor seconds a second of each process, without attack: the watcher's own requests among them."""
        command = [sys.executable, "-m", "tests.attacks.watcher"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        job = {"url": url, "key": key, "other_key": other_key, "local": local}
        self._write(json.dumps(job) + "\n")
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._process.kill()
        self._process.wait()

    def _write(self, text: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the watcher cannot be told. This is a bug.")
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            kind, at_s, *rest = json.loads(line)
            with self._lock:
                self._take(kind, at_s, rest)

    def _take(self, kind: str, at_s: float, rest: list[Any]) -> None:  # Any: JSON
        if kind == "log":
            self._log.append((at_s, rest[0]))
        elif kind == "process":
            pid, name, rss_bytes, cpu_s = rest
            samples = self._processes.setdefault(pid, Samples(name if pid == name else f"{name} {pid}"))
            samples.at_s.append(at_s)
            samples.rss_bytes.append(rss_bytes)
            samples.cpu_s.append(cpu_s)
        else:
            self._looks[kind].append(Look(at_s, *rest))

    def cost(self, began_s: float, ended_s: float) -> Cost:
        """What was used and waited for between two moments; looks that began before the end are waited for."""
        self._wait_for_looks(ended_s)
        with self._lock:
            cost = Cost(ended_s - began_s)
            for samples in self._processes.values():
                one = samples.cost(began_s, ended_s)
                if one is not None:
                    cost.processes[samples.name] = one
                    if samples.at_s[-1] < ended_s - 2:
                        cost.gone.append(samples.name)
            for kind, waits, failed in (
                ("health", cost.health_s, cost.health_failed),
                ("list", cost.lists_s, cost.lists_failed),
            ):
                for look in _within(self._looks[kind], began_s, ended_s):
                    waits.append(look.seconds)
                    if look.status != 200:
                        failed.append(look.status)
            cost.log_bytes = self._log_growth(began_s, ended_s)
        return cost

    def _log_growth(self, began_s: float, ended_s: float) -> int | None:
        if not self._log:
            return None
        before = [size for at_s, size in self._log if at_s <= began_s] or [self._log[0][1]]
        after = [size for at_s, size in self._log if at_s >= ended_s] or [self._log[-1][1]]
        return after[0] - before[-1]

    def _wait_for_looks(self, ended_s: float, timeout_s: float = 180.0) -> None:
        """Until each watcher has begun and ended a look after that moment."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and self._process.poll() is None:
            with self._lock:
                behind = [kind for kind, looks in self._looks.items() if not looks or looks[-1].ended_s < ended_s]
                watched = not self._processes or max(one.at_s[-1] for one in self._processes.values()) >= ended_s
            if not behind and watched:
                return
            time.sleep(0.05)

    def rest(self, seconds: float) -> Cost:
        """Watch without an attack, for what attacks are compared with."""
        began_s = time.monotonic()
        time.sleep(seconds)
        cost = self.cost(began_s, time.monotonic())
        self.quiet_health_s.extend(cost.health_s)
        self.quiet_lists_s.extend(cost.lists_s)
        for name, one in cost.processes.items():
            rate = one.cpu_s / cost.seconds
            self.quiet_cpu[name] = 0.7 * self.quiet_cpu[name] + 0.3 * rate if name in self.quiet_cpu else rate
        return cost

    def settle(self, limit_s: float) -> float:
        """Wait until the service answers soon and does not compute any more; gives the seconds that took."""
        began_s = time.monotonic()
        quiet = sum(self.quiet_cpu.values())
        while time.monotonic() - began_s < limit_s:
            step_s = time.monotonic()
            time.sleep(_SETTLE_STEP_S)
            cost = self.cost(step_s, time.monotonic())
            busy = cost.cpu_s / cost.seconds > max(2 * quiet, quiet + 0.2)
            late = cost.longest_health_s > max(_SETTLED_HEALTH_S, 2 * percentile(list(self.quiet_health_s), 0.99))
            if not (busy or late or cost.health_failed or cost.lists_failed):
                return step_s - began_s
        return time.monotonic() - began_s

    def memory_mib(self) -> dict[str, float]:
        """What each process that is there has now."""
        now_s = time.monotonic()
        with self._lock:
            return {one.name: one.rss_bytes[-1] / _MIB for one in self._processes.values() if one.at_s[-1] > now_s - 3}


def _within(looks: Iterable[Look], began_s: float, ended_s: float) -> list[Look]:
    """Looks that overlap a stretch of time."""
    return [one for one in looks if one.began_s <= ended_s and one.ended_s >= began_s]
