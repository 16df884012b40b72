"""The load generator, a process of its own: one job as a line of JSON on stdin, one result on stdout, until stdin ends.

Bodies are made before the clock starts, answers are read in full while it runs and checked after it has stopped.
A refusal with Retry-After is obeyed, as a client would; the wait is part of the list's latency, and it is counted.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvloop

from benchmarks.serving.protocols import Protocol
from benchmarks.serving.texts import lists
from benchmarks.serving.workloads import Stream, Workload

_REFUSALS = (429, 503)
_MAX_FAILURES = 20
_MAX_KEPT = 500
"""Answers kept to be checked; those beyond it are believed by their status."""


@dataclass(slots=True)
class Tally:
    """What became of the lists of one length."""

    documents: int
    latencies_s: list[float] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)


class Run:
    """One job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._workload = Workload.from_json(job["workload"])
        self._protocol = Protocol.from_json(job["protocol"])
        self._url, self._seed = job["url"] + self._protocol.path, job["seed"]
        self._max_pairs_per_s, self._timeout_s = job["max_pairs_per_s"], job["timeout_s"]
        self._refused = self._made_late = 0
        self._failures: list[str] = []
        self._tallies: dict[int, Tally] = {}

    async def go(self) -> dict[str, Any]:
        """Send the load; the result's seconds are from the first list sent to the last answer."""
        began_cpu_s = _cpu_s()
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=self._timeout_s)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            self._session = session
            closed = [(stream, self._bodies(stream, i)) for i, stream in enumerate(self._workload.streams)]
            arrivals = self._arrivals()
            await self._open_connections(sum(stream.clients for stream, _ in closed) or 8)
            gc.collect()
            gc.disable()
            cpu_s, self._started_s = _cpu_s(), time.perf_counter()
            if closed:
                loops = [self._loop(s.documents, bodies) for s, bodies in closed for _ in range(s.clients)]
                await asyncio.gather(*loops)
                late_s: list[float] = []
            else:
                late_s = await self._send_at(arrivals)
            elapsed_s, cpu_s = time.perf_counter() - self._started_s, _cpu_s() - cpu_s
            gc.enable()
        return self._result(elapsed_s, cpu_s, late_s) | {"process_cpu_s": _cpu_s() - began_cpu_s}

    def _bodies(self, stream: Stream, number: int) -> Iterator[bytes]:
        """Bodies of a stream, those that it can need made now."""
        work, documents = self._workload, stream.documents
        endless = lists(work.text, documents, f"{self._seed}/{work.name}/{number}", work.hot_lists)
        made = (self._protocol.body(one) for one in endless)
        at_most = self._max_pairs_per_s if documents >= 10 else self._max_pairs_per_s / 10
        at_most *= max(0.25, stream.clients * documents / sum(s.clients * s.documents for s in work.streams))
        ahead = list(itertools.islice(made, stream.clients + int(work.seconds * at_most / documents)))

        def late() -> Iterator[bytes]:
            for body in made:
                self._made_late += 1
                yield body

        return itertools.chain(ahead, late())

    def _arrivals(self) -> list[tuple[float, int, bytes]]:
        """Of an open loop: when, how many documents, and the body."""
        work = self._workload
        if not work.open_mix:
            return []
        shares, sizes = zip(*work.open_mix, strict=True)
        rate = work.open_pairs_per_s / sum(s * n for s, n in work.open_mix)
        draw = random.Random(f"{self._seed}/{work.name}")
        endless = {n: lists(work.text, n, f"{self._seed}/{work.name}/{n}") for n in sizes}
        found, moment_s = [], draw.expovariate(rate)
        while moment_s < work.seconds:
            documents = draw.choices(sizes, shares)[0]
            found.append((moment_s, documents, self._protocol.body(next(endless[documents]))))
            moment_s += draw.expovariate(rate)
        return found

    async def _open_connections(self, clients: int) -> None:
        single = self._protocol.body(next(lists("words", 1, f"{self._seed}/connect")))

        async def once() -> None:
            async with self._session.post(self._url, data=single) as response:
                await response.read()

        await asyncio.gather(*(once() for _ in range(clients)))

    async def _loop(self, documents: int, bodies: Iterator[bytes]) -> None:
        while time.perf_counter() - self._started_s < self._workload.seconds and len(self._failures) < _MAX_FAILURES:
            await self._send(documents, next(bodies), time.perf_counter())

    async def _send_at(self, arrivals: list[tuple[float, int, bytes]]) -> list[float]:
        """Send each list at its moment; latencies count from there. Returns how late each was sent."""
        late_s, sent = [], []
        for moment_s, documents, body in arrivals:
            due_s = self._started_s + moment_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            late_s.append(time.perf_counter() - due_s)
            sent.append(asyncio.create_task(self._send(documents, body, due_s)))
        await asyncio.gather(*sent)
        return late_s

    async def _send(self, documents: int, body: bytes, since_s: float) -> None:
        tally = self._tallies.setdefault(documents, Tally(documents))
        try:
            while True:
                async with self._session.post(self._url, data=body) as response:
                    content = await response.read()
                if response.status not in _REFUSALS:
                    break
                self._refused += 1
                await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
        except (aiohttp.ClientError, TimeoutError) as error:
            self._failures.append(repr(error))
            return
        if response.status != 200:
            self._failures.append(f"status {response.status}: {content[:300]!r}")
            return
        tally.latencies_s.append(time.perf_counter() - since_s)
        if len(tally.kept) < _MAX_KEPT:
            tally.kept.append(content)

    def _result(self, elapsed_s: float, cpu_s: float, late_s: list[float]) -> dict[str, Any]:
        tokens = checked_pairs = 0
        for tally in self._tallies.values():
            for content in tally.kept:
                try:
                    _, said = self._protocol.read(content, tally.documents)
                except (ValueError, KeyError) as error:
                    self._failures.append(f"unreadable answer: {error!r}")
                    continue
                tokens, checked_pairs = tokens + (said or 0), checked_pairs + tally.documents
        return {
            "elapsed_s": elapsed_s,
            "pairs": sum(len(tally.latencies_s) * tally.documents for tally in self._tallies.values()),
            "tokens_per_pair": tokens / checked_pairs if checked_pairs else None,
            "latencies_s": {
                str(documents): self._tallies[documents].latencies_s for documents in sorted(self._tallies)
            },
            "refused": self._refused,
            "failures": len(self._failures),
            "first_failure": self._failures[0] if self._failures else None,
            "made_late": self._made_late,
            "sent_late_s": max(late_s, default=0.0),
            "client_cpu_s": cpu_s,
        }


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Do jobs until stdin ends."""
    for line in sys.stdin:
        result = uvloop.run(Run(json.loads(line)).go())
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
