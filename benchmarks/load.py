"""Load over HTTP: closed loops and moments in time. As a program, a generator in a process of its own.

Generator: one job as a line of JSON on stdin, one result on stdout, until stdin ends. Bodies are made before the clock
starts, answers are read in full while it runs and checked after it has stopped. A refusal with Retry-After is obeyed,
as a client would; the wait is part of the list's latency, and it is counted.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import aiohttp

from benchmarks.results import ROOT
from benchmarks.texts import TextKind, TextList, lists
from reranker.config import ModelConfig
from reranker.model.families import HEAD, PREFIX, SUFFIX

MODEL = "bench"
"""What the model is called towards every server."""
_REFUSALS = (429, 503)
_MAX_FAILURES = 20
_MAX_KEPT = 500
"""Answers of one length kept to be checked; those beyond it are believed by their status."""
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a kind of server is asked, and how its answer is read."""

    path: str
    kind: Literal["rerank", "score"]
    """rerank: query, documents -> results[index, relevance_score]; score: text_1, text_2 -> data[index, score]."""
    templated: bool = False
    """The client puts the model card's template around the texts, as the server has none."""

    def body(self, texts: TextList) -> bytes:
        """A request."""
        query, documents = texts.query, texts.documents
        if self.templated:
            query = PREFIX + HEAD.format(instruction=ModelConfig().instruction_text(), query=query)
            documents = [f" {document}{SUFFIX}" for document in documents]
        names = ("query", "documents") if self.kind == "rerank" else ("text_1", "text_2")
        return json.dumps({"model": MODEL, names[0]: query, names[1]: documents}, ensure_ascii=False).encode()

    def read(self, content: bytes, documents: int) -> tuple[list[float], int | None]:
        """The score of every document, in the order they were sent, and the prompts' tokens where the answer says so.

        Raises:
            ValueError: A document is missing, or a score is not finite.
        """
        answer: dict[str, Any] = json.loads(content)  # Any: JSON
        results, key = (answer["results"], "relevance_score") if self.kind == "rerank" else (answer["data"], "score")
        scores = {int(one["index"]): float(one[key]) for one in results}
        if sorted(scores) != list(range(documents)) or not all(math.isfinite(score) for score in scores.values()):
            raise ValueError(f"{len(scores)} scores for {documents} documents, or one is not finite")
        tokens = (answer.get("usage") or {}).get("prompt_tokens")
        return [scores[index] for index in range(documents)], None if tokens is None else int(tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one list."""

    sent_s: float
    """On this process's performance counter."""
    took_s: float
    status: int
    """0: no answer at all."""
    retry_after: str | None
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the list was ranked."""
        return self.status == 200

    def json(self) -> Any:  # Any: JSON
        """The body."""
        return json.loads(self.body)

    def scores(self) -> dict[int, float]:
        """Each document's score."""
        return {one["index"]: one["relevance_score"] for one in self.json()["results"]}


class Client:
    """Connections to one service; by default to the path where ours ranks."""

    def __init__(self, url: str, timeout_s: float = 300, path: str = "/v1/rerank") -> None:
        self._url, self._timeout = url + path, aiohttp.ClientTimeout(total=timeout_s)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=headers)
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def rerank(self, body: bytes) -> Answer:
        """Send one list; a connection that breaks is an answer of status 0."""
        sent_s = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body) as response:
                content = await response.read()
                took_s = time.perf_counter() - sent_s
                return Answer(sent_s, took_s, response.status, response.headers.get("Retry-After"), content)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(sent_s, time.perf_counter() - sent_s, 0, None, repr(error).encode())

    async def one_by_one(self, bodies: Sequence[bytes], pause_s: float = 0.0) -> list[Answer]:
        """Send lists one after the other, on a service that has nothing else to do."""
        answers = []
        for body in bodies:
            answers.append(await self.rerank(body))
            await asyncio.sleep(pause_s)
        return answers

    async def in_loops(self, clients: int, bodies: Iterator[bytes], going_on: Callable[[], bool]) -> list[Answer]:
        """So many clients, each sending its next list when it has its answer, while `going_on` says so."""
        answers: list[Answer] = []

        async def loop() -> None:
            while going_on():
                answers.append(await self.rerank(next(bodies)))

        await asyncio.gather(*(loop() for _ in range(clients)))
        return answers

    async def at_moments(self, bodies: Sequence[bytes], moments_s: Sequence[float]) -> tuple[list[Answer], list[float]]:
        """Send each list at its moment from now on, whatever the answers do.

        Returns:
            The answers, and how much later than planned each list was sent, in seconds.
        """
        start_s = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        late_s = []
        for moment_s, body in zip(moments_s, bodies, strict=True):
            await asyncio.sleep(max(0.0, start_s + moment_s - time.perf_counter()))
            late_s.append(time.perf_counter() - start_s - moment_s)
            tasks.append(asyncio.create_task(self.rerank(body)))
        return list(await asyncio.gather(*tasks)), late_s


def took(answers: Sequence[Answer]) -> list[float]:
    """Seconds that the ranked ones took."""
    return [answer.took_s for answer in answers if answer.ok]


def require_ok(answers: Sequence[Answer]) -> None:
    """Raise RuntimeError if one of them was not ranked."""
    for answer in answers:
        if not answer.ok:
            raise RuntimeError(f"status {answer.status}: {answer.body[:300]!r}")


@dataclass(frozen=True, slots=True)
class Stream:
    """Clients that send lists of one length, each its next one when it has its answer."""

    clients: int
    documents: int


@dataclass(frozen=True, slots=True)
class Workload:
    """One load: which lists, by how many clients at once, for how long."""

    name: str
    streams: tuple[Stream, ...]
    """Closed loops, all at once."""
    seconds: float
    """How long lists are sent; the last ones are waited for."""
    text: TextKind = "words"
    hot_lists: int = 0
    """Send only so many different lists, again and again. 0: never the same."""
    open_pairs_per_s: float = 0
    """Send lists at random moments (a Poisson process) at this rate, whatever the answers do. 0: closed loops."""
    open_mix: tuple[tuple[float, int], ...] = ()
    """Of an open loop: share of the lists, and their documents."""
    repeated: bool = True
    """Measured in every round, not only in the first."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read what `asdict` gave, also after it was JSON."""
        streams = tuple(Stream(**stream) for stream in fields["streams"])
        mix = tuple((float(share), int(documents)) for share, documents in fields["open_mix"])
        return cls(**(fields | {"streams": streams, "open_mix": mix}))


class GeneratorError(RuntimeError):
    """The load generator ended."""


class LoadGenerator:
    """One process for many jobs, so that a job does not begin with imports. Use as a context."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # perhaps in the middle of a job
            self._process.kill()
        self._process.communicate()

    def run(self, url: str, protocol: Protocol, work: Workload, seed: str, max_pairs_per_s: float) -> dict[str, Any]:
        """Send one load and wait for its end.

        Returns:
            What `Job.go` found out. (Any: JSON.)

        Raises:
            GeneratorError: It ended; the reason is on stderr.
        """
        job = Job(url, protocol, work, seed, max_pairs_per_s)
        if self._process.stdin is None or self._process.stdout is None:
            raise GeneratorError("the load generator has no pipes. This is a bug.")
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise GeneratorError(f"the load generator ended, with status {self._process.wait()}")
        result: dict[str, Any] = json.loads(answer)
        return result


@dataclass(slots=True)
class _Tally:
    """What became of the lists of one length."""

    latencies_s: list[float] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Job:
    """A load, and the server it is for."""

    url: str
    protocol: Protocol
    work: Workload
    seed: str
    max_pairs_per_s: float
    """So many pairs are made ahead for every second; more are made while it runs, and counted."""
    failures: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"refused": 0, "made_late": 0})
    tallies: dict[int, _Tally] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read what `asdict` gave."""
        protocol, work = Protocol(**fields["protocol"]), Workload.from_json(fields["work"])
        return cls(**(fields | {"protocol": protocol, "work": work}))

    async def go(self) -> dict[str, Any]:
        """Send the load; the result's seconds are from the first list sent to the last answer."""
        began_cpu_s, streams = _cpu_s(), self.work.streams
        closed = [(stream, self._bodies(stream, number)) for number, stream in enumerate(streams)]
        arrivals = self._arrivals()
        async with Client(self.url, _TIMEOUT_S, self.protocol.path) as client:
            single = self.protocol.body(next(lists("words", 1, f"{self.seed}/connect")))
            # Connections are open before the clock starts.
            await asyncio.gather(*(client.rerank(single) for _ in range(sum(s.clients for s in streams) or 8)))
            gc.collect()
            gc.disable()
            cpu_s, started_s = _cpu_s(), time.perf_counter()
            late_s = [0.0]
            if closed:
                end_s = started_s + self.work.seconds
                loops = [
                    self._loop(client, s.documents, bodies, end_s) for s, bodies in closed for _ in range(s.clients)
                ]
                await asyncio.gather(*loops)
            else:
                late_s += await self._send_at(client, arrivals, started_s)
            elapsed_s, cpu_s = time.perf_counter() - started_s, _cpu_s() - cpu_s
            gc.enable()
        return self._result() | {
            "elapsed_s": elapsed_s,
            "sent_late_s": max(late_s),
            "client_cpu_s": cpu_s,
            "process_cpu_s": _cpu_s() - began_cpu_s,
        }

    def _bodies(self, stream: Stream, number: int) -> Iterator[bytes]:
        """Bodies of a stream, those that it can need made now."""
        work, documents = self.work, stream.documents
        endless = lists(work.text, documents, f"{self.seed}/{work.name}/{number}", work.hot_lists)
        made = (self.protocol.body(one) for one in endless)
        at_most = self.max_pairs_per_s if documents >= 10 else self.max_pairs_per_s / 10
        at_most *= max(0.25, stream.clients * documents / sum(s.clients * s.documents for s in work.streams))
        ahead = list(itertools.islice(made, stream.clients + int(work.seconds * at_most / documents)))

        def late() -> Iterator[bytes]:
            for body in made:
                self.counts["made_late"] += 1
                yield body

        return itertools.chain(ahead, late())

    def _arrivals(self) -> list[tuple[float, int, bytes]]:
        """Of an open loop: when, how many documents, and the body."""
        work = self.work
        if not work.open_mix:
            return []
        shares, sizes = zip(*work.open_mix, strict=True)
        rate = work.open_pairs_per_s / sum(s * n for s, n in work.open_mix)
        draw = random.Random(f"{self.seed}/{work.name}")
        endless = {n: lists(work.text, n, f"{self.seed}/{work.name}/{n}") for n in sizes}
        found, moment_s = [], draw.expovariate(rate)
        while moment_s < work.seconds:
            documents = draw.choices(sizes, shares)[0]
            found.append((moment_s, documents, self.protocol.body(next(endless[documents]))))
            moment_s += draw.expovariate(rate)
        return found

    async def _loop(self, client: Client, documents: int, bodies: Iterator[bytes], end_s: float) -> None:
        while time.perf_counter() < end_s and len(self.failures) < _MAX_FAILURES:
            await self._send(client, documents, next(bodies), time.perf_counter())

    async def _send_at(self, client: Client, arrivals: list[tuple[float, int, bytes]], started_s: float) -> list[float]:
        """Send each list at its moment; latencies count from there. Returns how late each was sent."""
        late_s, sent = [], []
        for moment_s, documents, body in arrivals:
            due_s = started_s + moment_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            late_s.append(time.perf_counter() - due_s)
            sent.append(asyncio.create_task(self._send(client, documents, body, due_s)))
        await asyncio.gather(*sent)
        return late_s

    async def _send(self, client: Client, documents: int, body: bytes, since_s: float) -> None:
        tally = self.tallies.setdefault(documents, _Tally())
        while (answer := await client.rerank(body)).status in _REFUSALS:
            self.counts["refused"] += 1
            await asyncio.sleep(float(answer.retry_after or 1))
        if not answer.ok:
            self.failures.append(f"status {answer.status}: {answer.body[:300]!r}")
            return
        tally.latencies_s.append(time.perf_counter() - since_s)
        if len(tally.kept) < _MAX_KEPT:
            tally.kept.append(answer.body)

    def _result(self) -> dict[str, Any]:
        tokens = checked_pairs = 0
        for documents, tally in self.tallies.items():
            for content in tally.kept:
                try:
                    _, said = self.protocol.read(content, documents)
                except (ValueError, KeyError) as error:
                    self.failures.append(f"unreadable answer: {error!r}")
                    continue
                tokens, checked_pairs = tokens + (said or 0), checked_pairs + documents
        return {
            "pairs": sum(len(tally.latencies_s) * documents for documents, tally in self.tallies.items()),
            "tokens_per_pair": tokens / checked_pairs if checked_pairs else None,
            "latencies_s": {str(documents): tally.latencies_s for documents, tally in sorted(self.tallies.items())},
            "failures": len(self.failures),
            "first_failure": self.failures[0] if self.failures else None,
            **self.counts,
        }


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Do jobs until stdin ends."""
    import uvloop

    for line in sys.stdin:
        print(json.dumps(uvloop.run(Job.from_json(json.loads(line)).go())), flush=True)


if __name__ == "__main__":
    main()
