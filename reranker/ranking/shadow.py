"""Shadows: once an answer is out, a share of the lists is ranked by another model too, and the two are compared.

A shadow has nothing to do with live work: a ranker of its own, whose lists admission does not count, and whose threads
are others. It begins only where nobody would wait for it, ranks in small parts, and is called off when live work comes.
Whatever happens to it is counted, and nobody else hears of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson

from reranker.config import CLIENTS_ORDER, RerankerConfig, SampleConfig, ShadowConfig
from reranker.errors import (
    ConfigurationError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    RequestTooLargeError,
    RerankerError,
)
from reranker.ranking import agreement
from reranker.ranking.cascade import Cascade
from reranker.ranking.ranker import Ranker
from reranker.ranking.scatter import HandOverError
from reranker.ranking.threads import FairThreads
from reranker.ranking.unhurried import LiveWorkError, UnhurriedRanker
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest

logger = logging.getLogger(__name__)

_AT_ONCE = 2  # lists that shadows of one ingress rank at the same time
_MOST_CHARACTERS = 2_000_000  # of one list: what shadows hold is bounded
_QUEUE_SHARE = 0.05  # of `admission.max_queue_s`: with more live work queued at any model, no shadow runs
_PROCESSOR_SHARE = 0.5  # of a core, which is all that Python code can use: beyond it this process has enough to do
_PROCESSOR_LOOK_S = 0.25


class Processor:
    """How much of a core this process has used lately."""

    def __init__(self) -> None:
        self._at_s, self._used_s, self._share = time.monotonic(), time.process_time(), 0.0

    def share(self) -> float:
        """Give the share of a core, 1.0 for all of one, since it was looked at a quarter of a second ago or more."""
        now_s = time.monotonic()
        if now_s - self._at_s >= _PROCESSOR_LOOK_S:
            used_s = time.process_time()
            self._share = (used_s - self._used_s) / (now_s - self._at_s)
            self._at_s, self._used_s = now_s, used_s
        return self._share


class _Sample:
    """A file to which lists are appended, texts and all, up to a size."""

    def __init__(self, config: SampleConfig) -> None:
        """ConfigurationError: the file cannot be written."""
        self.config, self._full = config, False
        try:
            os.close(self._open())
        except OSError as error:
            raise ConfigurationError(f"shadows: sample.path {config.path}: {error.strerror}") from None

    def _open(self) -> int:
        return os.open(self.config.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line, unless the file would be too large. Blocks; OSError: it cannot be written."""
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        file = self._open()
        try:
            if os.fstat(file).st_size + len(line) <= self.config.max_bytes:
                os.write(file, line)  # at once: several processes may append
            elif not self._full:
                self._full = True
                said = "shadows: %s has its %d bytes, and is not written any more"
                logger.warning(said, self.config.path, self.config.max_bytes)
        finally:
            os.close(file)


@dataclass(slots=True)
class _Shadow:
    config: ShadowConfig
    of: str
    other: str
    ranker: Ranker | Cascade | None = None  # None: nothing ranks, the client's order stands
    models: Sequence[Ranker] = ()  # the live ones of those that rank
    adapter: str | None = None
    sample: _Sample | None = None
    running: bool = False
    sums: agreement.Sums = field(default_factory=agreement.nothing)

    def asked(self, request: RankRequest) -> RankRequest:
        """The list as the shadow ranks it: all of it, with no hurry."""
        instruction = self.config.instruction or request.instruction
        ranks = self.models[-1] if self.models else None
        if isinstance(self.ranker, Ranker) and ranks is not None and not ranks.renderer.takes_instruction:
            instruction = None
        return replace(
            request,
            metadata=(),
            instruction=instruction,
            top_n=None,
            score_threshold=None,
            timeout_s=None,
            allow_partial=False,
            complete=False,
            model=self.adapter,
            whole=True,
            spans=None,
        )


class Shadows:
    """All shadows of one ingress. To be used from one event loop."""

    def __init__(
        self,
        config: RerankerConfig,
        models: Mapping[str, Ranker],
        processor_share: Callable[[], float] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`models` are the live rankers by their names, the default first.

        ConfigurationError: an instruction for a model that takes none, or a file that cannot be written.
        """
        self._models, self._chance = models, chance
        self._processor_share = processor_share or Processor().share
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._since_s = time.time()
        self._numbers = itertools.count(-1, -1)  # live lists have those from 0, at the same replicas
        self._threads = FairThreads(1)
        self._shadows = [self._shadow(one, config) for one in config.shadows]

    def _shadow(self, config: ShadowConfig, whole: RerankerConfig) -> _Shadow:
        of = config.of or next(iter(self._models))
        shadow = _Shadow(config, of, config.other or of)
        if shadow.other != CLIENTS_ORDER:
            self._give_ranker(shadow, whole)
        takes = [one.renderer.takes_instruction for one in shadow.models]
        if config.instruction and not any(takes):
            raise ConfigurationError(f"shadows: {shadow.other} takes no instruction; remove that of its shadow")
        if config.sample is not None:
            shadow.sample = _Sample(config.sample)
            said = "shadows: QUERIES AND DOCUMENTS of %.3g %% of the lists that %s ranks beside %s ARE WRITTEN to %s"
            logger.warning(said, 100 * config.sample.share, shadow.other, of, config.sample.path)
        for size in agreement.SIZES:  # a series of each, from 0
            for metric in (agreement.LISTS, agreement.FLIPS, agreement.CORRELATION):
                metric.labels(of, shadow.other, size)
        agreement.OVERLAP.labels(of, shadow.other)
        for reason in agreement.DROPPED:
            agreement.DROPPED_LISTS.labels(of, shadow.other, reason)
        return shadow

    def _give_ranker(self, shadow: _Shadow, config: RerankerConfig) -> None:
        def unhurried(model: str) -> UnhurriedRanker:
            return UnhurriedRanker(self._models[model], self._numbers, self._threads, partial(self._pressed, shadow))

        if cascade := config.cascades.get(shadow.other):
            shadow.models = [self._models[cascade.first], self._models[cascade.then]]
            shadow.ranker = Cascade(shadow.other, cascade, unhurried(cascade.first), unhurried(cascade.then))
            return
        model = shadow.other
        if model not in self._models:
            shadow.adapter = model
            model = next(
                name for name, one in self._models.items() if shadow.adapter in one.config.engine.lora_adapters
            )
        shadow.models, shadow.ranker = [self._models[model]], unhurried(model)

    def drawn(
        self, name: str, lists: Sequence[RankRequest], rankings: Sequence[Ranking], caller: Caller, request_id: str
    ) -> Callable[[], None] | None:
        """Draw lots for lists that a model, adapter or cascade of this name has ranked.

        What comes back is to be called once their answer is out. None: no list was drawn. One document has no order.
        """
        chosen = [
            (shadow, request, ranking)
            for shadow in self._shadows
            if shadow.of == name
            for request, ranking in zip(lists, rankings, strict=True)
            if len(request.documents) > 1 and self._chance() < shadow.config.share
        ]
        return partial(self._begin, chosen, caller, request_id) if chosen else None

    def _begin(self, chosen: Sequence[tuple[_Shadow, RankRequest, Ranking]], caller: Caller, request_id: str) -> None:
        for shadow, request, ranking in chosen:
            if reason := self._refusal(shadow, request, ranking):
                self._drop(shadow, reason)
                continue
            shadow.running = True
            task = asyncio.get_running_loop().create_task(self._run(shadow, request, ranking, caller, request_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _refusal(self, shadow: _Shadow, request: RankRequest, ranking: Ranking) -> str:
        """Why a list is not to be ranked by a shadow now. Empty: it is."""
        if self._leaving:
            return "drain"
        if _lacks(ranking, request):
            return "partial"
        if shadow.running or len(self._tasks) >= _AT_ONCE:
            return "others"
        if not all(one.placement.live_replicas for one in shadow.models):
            return "no_engine"
        if self._pressed(shadow):
            return "load"
        return "too_large" if len(request.query) + sum(map(len, request.documents)) > _MOST_CHARACTERS else ""

    def _pressed(self, shadow: _Shadow) -> bool:
        """Whether live work waits somewhere, or would wait for this shadow."""
        if self._processor_share() > _PROCESSOR_SHARE:
            return True
        for ranker in self._models.values():
            load = ranker.placement.elsewhere()
            live_tokens = ranker.admission.tokens_in_flight + load.pending_tokens
            if ranker in shadow.models and live_tokens and not ranker.placement.any_idle:
                return True
            most_s = _QUEUE_SHARE * ranker.config.admission.max_queue_s
            if load.tokens_per_s is not None and live_tokens > most_s * load.tokens_per_s:
                return True
        return False

    async def _run(
        self, shadow: _Shadow, request: RankRequest, ranking: Ranking, caller: Caller, request_id: str
    ) -> None:
        reason = ""
        try:
            reason = await self._compare(shadow, request, ranking, caller, request_id)
        except asyncio.CancelledError:
            reason = "drain"
            raise
        except (LiveWorkError, OverloadedError):
            reason = "load"
        except RequestTooLargeError:
            reason = "too_large"
        except NotReadyError:
            reason = "no_engine"
        except HandOverError:
            reason = "drain"
        except DeadlineExceededError:
            reason = "time"
        except RerankerError as error:
            reason = "error"
            logger.warning("shadow of request %s: %s could not rank it: %s", request_id, shadow.other, error.code)
        except Exception:
            reason = "error"
            logger.exception("shadow of request %s failed by a bug", request_id)
        finally:
            shadow.running = False
            if reason:
                self._drop(shadow, reason)

    async def _compare(
        self, shadow: _Shadow, request: RankRequest, ranking: Ranking, caller: Caller, request_id: str
    ) -> str:
        """Rank a list and count how it compares. Gives why it cannot be compared, or nothing."""
        first = [one.index for one in ranking.ranked]
        second, scores = list(range(len(request.documents))), None
        if shadow.ranker is not None:
            bulk = replace(caller, priority="bulk")
            [other] = await shadow.ranker.rank([shadow.asked(request)], bulk, RequestRecord(request_id))
            if other.stages is not None:
                if other.stages.missed:  # else nothing is missing: no partial ranking was allowed
                    return "partial"
                other = replace(other, results=other.ranked)
            second, scores = [one.index for one in other.results], [one.relevance_score for one in other.results]
        found = await self._threads.run(caller.name, agreement.compare, first, second)
        agreement.add(shadow.sums, found)
        labels = shadow.of, shadow.other, found.size
        agreement.LISTS.labels(*labels).inc()
        agreement.FLIPS.labels(*labels).inc(found.flipped)
        agreement.CORRELATION.labels(*labels).observe(found.correlation)
        if found.overlap is not None:
            agreement.OVERLAP.labels(shadow.of, shadow.other).observe(found.overlap)
        if shadow.sample is not None and self._chance() < shadow.sample.config.share:
            row = {
                "at": round(time.time(), 3),
                "request_id": request_id,
                "query": request.query,
                "documents": request.documents,
                "of": {"name": shadow.of, "order": first, "scores": [one.relevance_score for one in ranking.ranked]},
                "with": {"name": shadow.other, "order": second, "scores": scores},
                "first_place_differs": found.flipped,
                "rank_correlation": found.correlation,
                "overlap_at_10": found.overlap,
            }
            try:
                await asyncio.to_thread(shadow.sample.append, row)
            except OSError as error:  # the list is compared all the same
                logger.warning("shadows: %s cannot be written: %s", shadow.sample.config.path, error.strerror)
        return ""

    def _drop(self, shadow: _Shadow, reason: str) -> None:
        shadow.sums["dropped"][reason] += 1
        agreement.DROPPED_LISTS.labels(shadow.of, shadow.other, reason).inc()

    def leave(self) -> None:
        """Call off what there is, and begin nothing more."""
        self._leaving = True
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        self.leave()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def state(self) -> list[dict[str, Any]]:
        """What this ingress knows of each shadow, for `report`."""
        return [
            {
                "of": one.of,
                "with": one.other,
                "instruction": one.config.instruction,
                "share": one.config.share,
                "since": self._since_s,
                "sums": one.sums,
            }
            for one in self._shadows
        ]


def _lacks(ranking: Ranking, request: RankRequest) -> bool:
    """Whether a ranking is not all that its model has to say of the list."""
    missed = ranking.stages is not None and ranking.stages.missed
    return bool(missed) or len(ranking.ranked) < len(request.documents)


def report(ingresses: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:  # Any: JSON
    """Add up what all ingress replicas know; in an update, some have shadows that others have not."""
    by_shadow: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in itertools.chain.from_iterable(ingresses):
        by_shadow.setdefault((one["of"], one["with"], one["instruction"]), []).append(one)
    shadows = [
        {key: parts[0][key] for key in ("of", "with", "instruction", "share")}
        | {"since": int(min(part["since"] for part in parts))}
        | agreement.figures(agreement.total(part["sums"] for part in parts))
        for parts in by_shadow.values()
    ]
    return {"ingress_replicas": len(ingresses), "shadows": shadows}
