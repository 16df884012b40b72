"""The ingress deployment: wires the library's parts to the routes of `api.py` and to the engine replicas."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus

from deployments.fleet import RayFleet
from deployments.http.access import ENVIRONMENT, Caller, Keyring, require_keys
from deployments.http.api import build_api
from deployments.http.listener import CancelledByClient, Listener, listen
from deployments.http.observed import Observed
from deployments.http.quotas import Quotas
from deployments.ledger import Bookkeeping
from deployments.loading import replicas_loading
from deployments.logs import join_serve
from deployments.request_log import RequestLog
from deployments.retriever import Retriever
from deployments.tracing import Tracer
from deployments.ui.link import UILink
from deployments.ui.visits import Head, Visit
from reranker import metrics
from reranker.cache.lookup import Lookup, Statistics
from reranker.cache.score_cache import ScoreCache, report
from reranker.config import RerankerConfig
from reranker.dialects.base import JSON, Asked
from reranker.errors import ConfigurationError, NotReadyError, StartFailedError
from reranker.metrics.requests import record_request
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking import pipeline
from reranker.ranking.admission import Admission, Permit, PermitPart
from reranker.ranking.scatter import Scatter
from reranker.ranking.together import rank_all
from reranker.record import Timeline
from reranker.types import Ranking, RankRequest

_READ_ANYWAY_BYTES = 4 * 2**20
"""A body up to this size is read and looked up even where there is no room: what is known is answered. That takes some
20 ms at most; a larger one is refused unread, as all are without a cache."""


class Ingress:
    """Answers HTTP; sends shards to the engine replicas behind `engine`. A `deployments.http.api.Backend`."""

    def __init__(
        self, config: RerankerConfig, engine: DeploymentHandle, search: DeploymentHandle | None = None
    ) -> None:
        """Load the tokenizer and the API keys, and listen.

        Args:
            config: The service's configuration.
            engine: Handle of the engine deployment.
            search: Handle of the search deployment. None: there is no index.

        Raises:
            ConfigurationError: No keys for a public address, a keys file that cannot be used, or the port is taken.
        """
        join_serve()
        keys = Keyring(config.access, os.environ.get(ENVIRONMENT, ""))
        options = _get_global_client().http_config
        require_keys(options.host, config.access, keys)
        checkpoint = find_checkpoint(config.model)
        self._checkpoint = checkpoint
        self._config = config
        self._engine = engine
        self.model = "simulated" if config.engine.simulated else checkpoint.served_name
        self.adapters = tuple(config.engine.lora_adapters)
        if self.model in self.adapters:
            raise ConfigurationError(f"engine.lora_adapters has an adapter with the model's own name, {self.model!r}")
        self._books = (
            Bookkeeping(metrics.INGRESS, self._look, keeps_copy=True) if config.observability.metrics else None
        )
        self._recorder: metrics.Recorder = self._books.book if self._books else metrics.NoRecorder()
        self._renderer = PromptRenderer.of(checkpoint, config.model)
        self._fleet = RayFleet(engine)
        self._retriever = Retriever(search, config) if search is not None else None
        self.searches = search is not None
        self._scatter = Scatter(self._fleet, config.scatter)
        self._admission = Admission(config.admission, config.priorities)
        self._cache = ScoreCache.of(config, os.environ, self._recorder)
        self._ui = UILink()
        cluster = hashlib.sha256(ray.get_runtime_context().gcs_address.encode()).hexdigest()[:16]
        listening = listen(options, cluster)
        self._tracer = Tracer(config.tracing, serve.get_replica_context().replica_id.unique_id)
        self._quotas = Quotas.of(config.cache.redis, os.environ)
        api = CancelledByClient(build_api(self, config.limits, keys, self._quotas))
        count = self._count if self._books else None
        app = Observed(api, [self._tracer, RequestLog(config.observability)], count)
        self._listener = Listener(app, options, listening, cluster)

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if not self._listener.healthy:
            raise RuntimeError("the HTTP server has ended")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve in each `metrics_interval_s`, for the policy in `autoscaling.py`: seconds of a core used."""
        return {"pending_work": 0.0, "arrived_work": time.process_time(), "work_per_s": 1.0}

    async def __del__(self) -> None:
        """Called by Serve when the replica is to end."""
        if hasattr(self, "_listener"):
            self._ui.close()
            await self._listener.drain(self._config.limits.timeout_s)
            if self._books is not None:
                await self._books.finish()
            if self._cache is not None:
                await self._cache.aclose()
            await self._quotas.aclose()
            await self._tracer.aclose()

    def require_any_room(self, body_bytes: int) -> None:
        """See `Backend`."""
        if self._cache is not None and body_bytes <= _READ_ANYWAY_BYTES:
            return  # it may be known, and need no room
        self._admission.require_any_room(body_bytes, self._fleet.board.elsewhere())

    async def rank(self, asked: Asked, body_bytes: int, caller: Caller, timeline: Timeline) -> Sequence[Ranking]:
        """See `Backend`."""
        if not self._fleet.live_replicas:
            await self._fleet.meet()
        if not self._fleet.live_replicas:
            self._fleet.wake()
            raise NotReadyError
        lists = asked.lists
        if caller.priority == "bulk":
            lists = tuple(replace(one, priority="bulk") for one in lists)
            timeline.priority = "bulk"
        timeout_s = self._config.limits.bounded_s(lists[0].timeout_s)
        model = self._fleet.model if self._cache is not None else None

        def look_up(request: RankRequest) -> AbstractAsyncContextManager[Lookup]:
            return pipeline.look_up(request, self._cache, self._renderer, self._config, model, caller.name, timeline)

        async def rank_one(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
            async with look_up(request) as lookup:
                return await self._rank_one(request, permit, lookup, timeline)

        @contextmanager
        def let_in(body_bytes: int) -> Iterator[Permit]:
            elsewhere = self._fleet.board.elsewhere()
            with ExitStack() as entered:
                with timeline.stage("admit"):
                    asked_for = self._admission.permit(body_bytes, lists[0].priority, timeout_s, elsewhere)
                    permit = entered.enter_context(asked_for)
                yield permit

        if len(lists) == 1:  # looked up first: what is known needs no leave
            async with look_up(lists[0]) as lookup:
                share = pipeline.share_to_score(lists[0], lookup)
                with let_in(math.ceil(body_bytes * share)) as permit:
                    return [await self._rank_one(lists[0], permit, lookup, timeline)]
        with let_in(body_bytes) as permit:
            return await rank_all(lists, permit, timeout_s, rank_one)

    async def _rank_one(
        self, request: RankRequest, permit: Permit | PermitPart, lookup: Lookup, timeline: Timeline
    ) -> Ranking:
        return await pipeline.rerank(request, permit, self._renderer, self._scatter, self._config, lookup, timeline)

    def _count(self, timeline: Timeline) -> None:
        record_request(self._recorder, timeline)

    def _look(self) -> None:
        """Record what there is at this moment."""
        for gauge, value in (
            (metrics.REQUESTS_IN_FLIGHT, self._admission.lists_in_flight),
            (metrics.TOKENS_IN_FLIGHT, self._admission.tokens_in_flight),
            (metrics.SHARDS_IN_FLIGHT, self._fleet.board.shards_in_flight),
            (metrics.LIVE_REPLICAS, self._fleet.live_replicas),
        ):
            self._recorder.set(gauge, value)

    async def retrieve(self, asked: Asked, timeline: Timeline) -> Asked:
        """See `SearchBackend`."""
        with timeline.stage("retrieve"):
            return await self._searched().retrieve(asked)

    async def indexes(self) -> JSON:
        """See `SearchBackend`."""
        return await self._searched().indexes()

    def _searched(self) -> Retriever:
        if self._retriever is None:
            raise RuntimeError("there is no index. This is a bug")
        return self._retriever

    async def load(self) -> JSON:
        """See `Backend`. Compares the books on the way."""
        self._admission.check_integrity()
        self._fleet.board.check_integrity()
        self._scatter.check_integrity(self._admission.lists_in_flight)
        if self._cache is not None:
            self._cache.check_integrity()
        replicas = await self._fleet.replica_loads()
        return {
            "lists": self._admission.lists_in_flight,
            "tokens": self._admission.tokens_in_flight,
            "shards": self._fleet.board.shards_in_flight,
            "replicas": [{"name": name} | asdict(one) for name, one in sorted(replicas.items())],
        }

    async def cache_report(self) -> JSON:
        """See `Backend`."""
        return report([use for use in await self._in_every_ingress("cache_use") if use is not None])

    async def clear_cache(self) -> None:
        """See `Backend`. What is shared first: the memories would be filled from it again."""
        if self._cache is not None:
            await self._cache.clear_shared()
        await self._in_every_ingress("clear_memory")

    async def cache_use(self) -> Statistics | None:
        """What this replica's cache holds and has done. Called in every ingress replica."""
        return self._cache.statistics if self._cache is not None else None

    async def clear_memory(self) -> None:
        """Forget the scores in this replica's memory. Called in every ingress replica."""
        if self._cache is not None:
            self._cache.clear_memory()

    async def _in_every_ingress(self, method: str, timeout_s: float = 10.0) -> list[Any]:  # Any: what the method gives
        here = serve.get_replica_context()
        handle = serve.get_deployment_handle(here.deployment, here.app_name)
        return list(await handle.broadcast(method).results_async(timeout_s=timeout_s))

    async def metric_totals(self) -> Mapping[str, float] | None:
        """See `Backend`."""
        return await self._books.totals() if self._books else None

    def visit_ui(self, visit: Visit) -> AsyncIterator[Head | bytes]:
        """See `Backend`."""
        return self._ui.answer(visit)

    async def live_replicas(self) -> int:
        """See `Backend`."""
        replicas = self._fleet.live_replicas
        if not replicas:
            raise StartFailedError if await asyncio.to_thread(self._start_failed) else NotReadyError
        return replicas

    async def replicas_loading(self) -> list[JSON]:
        """See `Backend`."""
        return await asyncio.to_thread(replicas_loading)

    def _start_failed(self) -> bool:
        """Whether Serve has given up starting engines. Blocks for some 15 ms; asked only while there is none."""
        try:
            application = serve.status().applications[serve.get_replica_context().app_name]
            status = application.deployments[self._engine.deployment_name].status
        except (RayError, RayServeException, KeyError):  # Serve is shutting down, this replica with it
            return False
        return bool(status == DeploymentStatus.DEPLOY_FAILED)

    def info(self) -> JSON:
        """See `Backend`."""
        return {
            "model_id": self.model,
            "model_sha": self._checkpoint.revision,
            "model_dtype": self._checkpoint.dtype,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_input_length": self._checkpoint.max_pair_tokens,
            "max_batch_tokens": self._config.engine.max_batch_tokens,
            "max_client_batch_size": self._config.limits.max_documents,
            "auto_truncate": True,
        }
