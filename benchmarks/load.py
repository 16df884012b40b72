"""Load over HTTP: closed loops and moments in time; and a load generator in a process of its own.

The generator makes bodies before the clock starts, reads answers in full while it runs, and checks them after it has
stopped. It obeys a refusal with Retry-After, as a client would; the wait is part of the list's latency, and is counted.
"""

import asyncio
import gc
import itertools
import json
import math
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import aiohttp

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
    refusals: int = 0
    """That a client which obeys Retry-After waited for; `took_s` holds the waits."""

    @property
    def ok(self) -> bool:
        return self.status == 200

    def json(self) -> Any:  # Any: JSON
        """The body."""
        return json.loads(self.body)

    def scores(self) -> dict[int, float]:
        return {one["index"]: one["relevance_score"] for one in self.json()["results"]}


class Client:
    """Connections to one service, by default to the path where ours ranks. Use as a context."""

    def __init__(self, url: str, timeout_s: float = 300, path: str = "/v1/rerank", *, obey: bool = False) -> None:
        """Obey: send a refused list again, after the time that the refusal asks for."""
        self._url, self._timeout, self._obey = url + path, aiohttp.ClientTimeout(total=timeout_s), obey
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        headers, connector = {"Content-Type": "application/json"}, aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def rerank(self, body: bytes) -> Answer:
        """Send one list; a connection that breaks is an answer of status 0."""
        sent_s, refusals = time.perf_counter(), 0
        try:
            while True:
                async with self._session.post(self._url, data=body) as response:
                    content = await response.read()
                wait_s = response.headers.get("Retry-After")
                if not self._obey or response.status not in _REFUSALS:
                    break
                refusals += 1
                await asyncio.sleep(float(wait_s or 1))
            answer = Answer(sent_s, time.perf_counter() - sent_s, response.status, wait_s, content, refusals)
        except (aiohttp.ClientError, TimeoutError) as error:
            answer = Answer(sent_s, time.perf_counter() - sent_s, 0, None, repr(error).encode(), refusals)
        if not answer.ok:
            self.failures.append(f"status {answer.status}: {answer.body[:300]!r}")
        return answer

    async def one_by_one(self, bodies: Sequence[bytes], pause_s: float = 0.0) -> list[Answer]:
        """Send lists one after the other, on a service that has nothing else to do."""
        answers = []
        for body in bodies:
            answers.append(await self.rerank(body))
            await asyncio.sleep(pause_s)
        return answers

    async def in_loops(
        self, clients: int, bodies: Iterator[bytes], going_on: Callable[[], bool], keep: float = math.inf
    ) -> list[Answer]:
        """So many clients, each sending its next list when it has its answer, while `going_on` says so.

        Of the answers beyond `keep` the bodies are let go.
        """
        answers: list[Answer] = []

        async def loop() -> None:
            while going_on():
                answer = await self.rerank(next(bodies))
                answers.append(answer if len(answers) < keep else replace(answer, body=b""))

        await asyncio.gather(*(loop() for _ in range(clients)))
        return answers

    async def at_moments(self, bodies: Sequence[bytes], moments_s: Sequence[float]) -> tuple[list[Answer], list[float]]:
        """Send each list at its moment from now on, whatever the answers do; also, how many seconds late each was."""
        start_s = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        late_s = []
        for moment_s, body in zip(moments_s, bodies, strict=True):
            await asyncio.sleep(max(0.0, start_s + moment_s - time.perf_counter()))
            late_s.append(time.perf_counter() - start_s - moment_s)
            tasks.append(asyncio.create_task(self.rerank(body)))
        return list(await asyncio.gather(*tasks)), late_s


def took(answers: Sequence[Answer]) -> list[float]:
    return [answer.took_s for answer in answers if answer.ok]


def require_ok(answers: Sequence[Answer]) -> None:
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


class LoadGenerator:
    """A process of its own for many loads, one after the other. Use as a context."""

    def __enter__(self) -> Self:
        self._pool = multiprocessing.get_context("spawn").Pool(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()

    def run(self, url: str, protocol: Protocol, work: Workload, seed: str, max_pairs_per_s: float) -> dict[str, Any]:
        """Send one load and wait for its end; what `Job.go` found out."""
        job = Job(url, protocol, work, seed, max_pairs_per_s)
        found: dict[str, Any] = self._pool.apply_async(_drive, (job,)).get(work.seconds + 2 * _TIMEOUT_S)
        return found


@dataclass(slots=True)
class Job:
    """A load, and the server it is for."""

    url: str
    protocol: Protocol
    work: Workload
    seed: str
    max_pairs_per_s: float
    """So many pairs are made ahead for every second; more are made while it runs, and counted."""
    made_late: int = 0

    async def go(self) -> dict[str, Any]:
        """Send the load; the result's seconds are from the first list sent to the last answer."""
        began_cpu_s, streams, seconds = _cpu_s(), self.work.streams, self.work.seconds
        closed = [self._bodies(stream, number) for number, stream in enumerate(streams)]
        moments_s, sizes, bodies = self._arrivals()
        late_s: list[float] = []
        async with Client(self.url, _TIMEOUT_S, self.protocol.path, obey=True) as client:
            single = self.protocol.body(next(lists("words", 1, f"{self.seed}/connect")))
            # Connections are open before the clock starts.
            await asyncio.gather(*(client.rerank(single) for _ in range(sum(s.clients for s in streams) or 8)))
            client.failures.clear()
            gc.collect()
            gc.disable()
            cpu_s, started_s = _cpu_s(), time.perf_counter()

            def going_on() -> bool:
                return time.perf_counter() - started_s < seconds and len(client.failures) < _MAX_FAILURES

            if closed:
                loops = (
                    client.in_loops(stream.clients, mine, going_on, _MAX_KEPT)
                    for stream, mine in zip(streams, closed, strict=True)
                )
                found = await asyncio.gather(*loops)
                answers = [
                    (s.documents, one, one.took_s) for s, some in zip(streams, found, strict=True) for one in some
                ]
            else:
                some, late_s = await client.at_moments(bodies, moments_s)
                # Latencies count from the moment at which a list was due.
                answers = [(n, one, one.took_s + late) for n, one, late in zip(sizes, some, late_s, strict=True)]
            elapsed_s, cpu_s = time.perf_counter() - started_s, _cpu_s() - cpu_s
            gc.enable()
        latencies_s: dict[int, list[float]] = {documents: [] for documents in sorted({n for n, _, _ in answers})}
        for documents, answer, took_s in answers:
            if answer.ok:
                latencies_s[documents].append(took_s)
        tokens_per_pair = self._tokens_per_pair(answers, client.failures)
        return {
            "elapsed_s": elapsed_s,
            "pairs": sum(documents * len(some) for documents, some in latencies_s.items()),
            "tokens_per_pair": tokens_per_pair,
            "latencies_s": {str(documents): some for documents, some in latencies_s.items()},
            "refused": sum(answer.refusals for _, answer, _ in answers),
            "failures": len(client.failures),
            "first_failure": client.failures[0] if client.failures else None,
            "made_late": self.made_late,
            "sent_late_s": max(late_s, default=0.0),
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
                self.made_late += 1
                yield body

        return itertools.chain(ahead, late())

    def _arrivals(self) -> tuple[list[float], list[int], list[bytes]]:
        """Of an open loop: each list's moment, its documents, and its body."""
        work = self.work
        moments_s, sizes, bodies = list[float](), list[int](), list[bytes]()
        if work.open_mix:
            shares, choices = zip(*work.open_mix, strict=True)
            rate = work.open_pairs_per_s / sum(s * n for s, n in work.open_mix)
            draw = random.Random(f"{self.seed}/{work.name}")
            endless = {n: lists(work.text, n, f"{self.seed}/{work.name}/{n}") for n in choices}
            moment_s = draw.expovariate(rate)
            while moment_s < work.seconds:
                moments_s.append(moment_s)
                sizes += draw.choices(choices, shares)
                bodies.append(self.protocol.body(next(endless[sizes[-1]])))
                moment_s += draw.expovariate(rate)
        return moments_s, sizes, bodies

    def _tokens_per_pair(self, answers: list[tuple[int, Answer, float]], failures: list[str]) -> float | None:
        """Check the answers whose bodies were kept; what cannot be read is a failure."""
        tokens = pairs = 0
        for documents, answer, _ in answers:
            if answer.ok and answer.body:
                try:
                    tokens += self.protocol.read(answer.body, documents)[1] or 0
                    pairs += documents
                except (ValueError, KeyError) as error:
                    failures.append(f"unreadable answer: {error!r}")
        return tokens / pairs if pairs else None


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _drive(job: Job) -> dict[str, Any]:
    import uvloop

    return uvloop.run(job.go())
