"""The ledger as an actor that outlives replicas, and how a replica keeps its book and hears of all others'.

What is counted is in the file of a process's book at once, and survives the process there. Every two seconds each
process sends the ledger its page, and those of processes that ended on its machine. The ledger tells Ray the sums. For
`GET /metrics` an ingress puts the ledger's pages together with the files of its own machine: nothing on that machine
is missing, whoever has died; of other machines the last two seconds may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import serve
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.recorder import RayExport
from reranker.metrics import COUNTED, Metric
from reranker.metrics.book import SUFFIX, Book, Page, pages
from reranker.metrics.ledger import Ledger

logger = logging.getLogger(f"ray.serve.{__name__}")  # Serve shows what is below its own logger

_NAMESPACE = "reranker"
_EXPORT_S = 5.0
"""Ray collects what it was told every ten seconds."""
_SEND_S = 2.0
_ANSWER_S = 1.0
"""An ingress waits so long for the ledger, then shows what it last heard of it."""
_COPY_S = 30.0
"""So old may be the copy of the ledger that an ingress keeps for its successor."""
_PAGES_PER_S = 100
"""So many the ledger takes in; in a large fleet each process sends less often."""


class Terms(NamedTuple):
    """What the ledger answers to pages."""

    life: str
    """Another one: the ledger has begun anew, and wants to hear again of those that are dead."""
    wait_s: float
    """Until the next page."""


class LedgerActor:
    """Ray starts it again when it dies; what it knew, the replicas tell it again."""

    def __init__(self, application: str) -> None:
        """Start empty, and export for as long as the process lives.

        Args:
            application: Whose ledger this is.
        """
        self._life = uuid.uuid4().hex
        self._ledger = Ledger(COUNTED)
        folder = _folder(application)
        self._told = Book(folder / "ray.told", COUNTED)
        self._exporting: asyncio.Task[None] | None = None

    async def take(self, sent: Sequence[Page]) -> Terms:
        """Take pages into the ledger."""
        if self._exporting is None:  # here, as there was no event loop in the constructor
            self._exporting = asyncio.ensure_future(self._export())
        self._ledger.take(sent)
        return Terms(self._life, max(_SEND_S, len(self._ledger) / _PAGES_PER_S))

    async def pages(self) -> list[Page]:
        """Give all of them."""
        return self._ledger.pages()

    async def _export(self) -> None:
        export = RayExport(COUNTED, self._told)
        while True:
            await asyncio.sleep(_EXPORT_S)
            export.tell(self._ledger.totals())


class Bookkeeping:
    """The book of one replica, and its way into the ledger. To be made in a replica, on its event loop."""

    def __init__(self, metrics: Sequence[Metric], look: Callable[[], None], *, keeps_copy: bool = False) -> None:
        """Open the book, and see to it that the ledger is there.

        Args:
            metrics: What this replica records.
            look: Called before the book is read, to record there what is so at that moment.
            keeps_copy: Remember what the ledger knows, for the next one, of processes whose machine is gone.
        """
        self._look = look
        here = serve.get_replica_context()
        self._folder = _folder(here.app_name)
        self.book = Book(self._folder / f"{here.replica_id.unique_id}{SUFFIX}", metrics)
        self._ledger = _ledger(here.app_name)
        self._life = ""
        self._reported: set[str] = set()
        """Dead processes of this machine that this ledger knows."""
        self._heard: Sequence[Page] = ()
        """What the ledger last gave, and when."""
        self._heard_s = -math.inf
        self._keeps_copy = keeps_copy
        self._sending = asyncio.get_running_loop().create_task(self._send())

    async def totals(self) -> dict[str, float]:
        """Sums over all replicas, by cell. Whoever does not answer is there with what was last known of it."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._hear()
        except (TimeoutError, RayError):
            logger.warning("the metrics' ledger does not answer; other machines' figures are as they last were")
        ledger = Ledger(COUNTED)
        ledger.take(self._heard)
        ledger.take(pages(self._folder, {self.book.source}))
        ledger.take([self._page()])
        return ledger.totals()

    async def _send(self) -> None:
        while True:
            try:
                wait_s = await self._send_once()
            except (TimeoutError, RayError):
                wait_s = _SEND_S
            except Exception:
                logger.exception("figures cannot be sent to the metrics' ledger")
                wait_s = _COPY_S
            await asyncio.sleep(wait_s)

    async def _send_once(self) -> float:
        """Send the ledger what it does not know; give the seconds until the next time."""
        dead = list(pages(self._folder, {self.book.source} | self._reported, dead_only=True))
        async with asyncio.timeout(_ANSWER_S):
            terms = await self._ledger.take.remote([self._page(), *dead])
            self._reported |= {page.source for page in dead}
            if self._life != terms.life:  # tell a new ledger what we know of the old one's
                self._reported.clear()
                await self._ledger.take.remote(self._heard)
                self._life = terms.life
            if self._keeps_copy and time.monotonic() - self._heard_s > _COPY_S:
                await self._hear()
        return float(terms.wait_s)

    async def _hear(self) -> None:
        self._heard, self._heard_s = await self._ledger.pages.remote(), time.monotonic()

    def _page(self) -> Page:
        self._look()
        return self.book.page()

    async def finish(self) -> None:
        """Send a last page: on another machine nobody may be left to read the file."""
        self._sending.cancel()
        with contextlib.suppress(TimeoutError, RayError):
            async with asyncio.timeout(_ANSWER_S):
                await self._ledger.take.remote([replace(self._page(), alive=False)])


def _folder(application: str) -> Path:
    """Where the processes of an application keep their books on this machine, for as long as this Ray lives."""
    context = ray.get_runtime_context()
    folder = Path(str(context.get_temp_dir()), str(context.get_session_name()), "reranker-books", application)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ledger(application: str) -> Any:
    """Find the application's ledger, or start it. Any: Ray's handles are untyped here."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(LedgerActor).options(
        name=f"ledger:{application}",
        namespace=_NAMESPACE,
        lifetime="detached",  # its figures are to outlive every replica and every update
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        max_concurrency=1_000,
        scheduling_strategy=here,
    )
    return actor.remote(application)
