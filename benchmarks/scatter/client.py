"""Sends lists: one at a time, in closed loops, or at a rate that does not wait for answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp


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
    """Connections to one service."""

    def __init__(self, url: str, timeout_s: float = 300) -> None:
        self._url = f"{url}/v1/rerank"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=self._timeout)
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def rerank(self, body: bytes) -> Answer:
        """Send one list; a connection that breaks is an answer of status 0."""
        sent_s = time.perf_counter()
        try:
            headers = {"Content-Type": "application/json"}
            async with self._session.post(self._url, data=body, headers=headers) as response:
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

    async def at_rate(self, bodies: Sequence[bytes], rate_per_s: float, seed: int) -> tuple[list[Answer], list[float]]:
        """Send lists at random moments (a Poisson process), whatever the answers do.

        Returns:
            The answers, and how much later than planned each list was sent, in seconds.
        """
        draw = random.Random(seed)
        moments = list(itertools.accumulate(draw.expovariate(rate_per_s) for _ in bodies))
        start_s = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        late_s = []
        for moment_s, body in zip(moments, bodies, strict=True):
            wait_s = start_s + moment_s - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
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
