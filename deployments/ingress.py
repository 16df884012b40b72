"""The ingress deployment: wires the library's parts to the routes of `deployments.http` and to the engine replicas."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus

from deployments.fleet import RayFleet
from deployments.http.keys import ENVIRONMENT, Keyring, require_keys
from deployments.http.routes import build_api
from deployments.http.search import Search, SearchClient
from deployments.http.server import Listener, listen
from deployments.ledger import Bookkeeping
from deployments.loading import replicas_loading
from deployments.logs import join_serve
from deployments.request_log import RequestLog
from deployments.tracing import Tracer
from deployments.ui.link import UILink
from deployments.ui.visits import Head, Visit
from reranker import metrics
from reranker.cache.build import build_cache
from reranker.cache.use import Use, report
from reranker.config import RerankerConfig
from reranker.dialects import tei
from reranker.dialects.base import JSON, Asked
from reranker.errors import ConfigurationError, NotReadyError, StartFailedError
from reranker.metrics.requests import record_request
from reranker.model.checkpoint import find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.record import Timeline
from reranker.types import Caller, Ranking


class Ingress:
    """Answers HTTP; sends shards to the engine replicas behind `engine`. A `deployments.http.Backend`."""

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
        self._fleet = RayFleet(engine)
        self.search = Search(SearchClient(search), config) if search is not None else None
        self._cache = build_cache(config, os.environ, self._recorder)
        self._ranker = Ranker(config, PromptRenderer.of(checkpoint, config.model), self._fleet, self._cache)
        self._ui = UILink()
        self.service = hashlib.sha256(ray.get_runtime_context().gcs_address.encode()).hexdigest()[:16]
        listening = listen(options, self.service)
        self._tracer = Tracer(config.tracing, serve.get_replica_context().replica_id.unique_id)
        observers = [self._tracer, RequestLog(config.observability)]
        app = build_api(self, config.limits, keys, observers, self._count if self._books else None)
        self._listener = Listener(app, options, listening)

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
            await self._tracer.aclose()

    @property
    def draining(self) -> bool:
        """See `Backend`."""
        return self._listener.draining

    def require_any_room(self, body_bytes: int) -> None:
        """See `Backend`."""
        self._ranker.require_any_room(body_bytes)

    async def rank(self, asked: Asked, body_bytes: int, caller: Caller, timeline: Timeline) -> Sequence[Ranking]:
        """See `Backend`."""
        await self._fleet.meet()
        return await self._ranker.rank(asked.lists, caller, timeline)

    def _count(self, timeline: Timeline) -> None:
        record_request(self._recorder, timeline)

    def _look(self) -> None:
        """Record what there is at this moment."""
        for gauge, value in (
            (metrics.REQUESTS_IN_FLIGHT, self._ranker.admission.lists_in_flight),
            (metrics.TOKENS_IN_FLIGHT, self._ranker.admission.tokens_in_flight),
            (metrics.SHARDS_IN_FLIGHT, self._fleet.placement.shards_in_flight),
            (metrics.LIVE_REPLICAS, self._fleet.placement.live_replicas),
        ):
            self._recorder.set(gauge, value)

    async def load(self) -> JSON:
        """See `Backend`. Compares the books on the way."""
        self._ranker.check_integrity()
        replicas = await self._fleet.replica_loads()
        return {
            "lists": self._ranker.admission.lists_in_flight,
            "tokens": self._ranker.admission.tokens_in_flight,
            "shards": self._fleet.placement.shards_in_flight,
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

    async def cache_use(self) -> Use | None:
        """What this replica's cache holds and has done. Called in every ingress replica."""
        return self._cache.use if self._cache is not None else None

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
        replicas = self._fleet.placement.live_replicas
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

    def info(self) -> tei.TeiInfo:
        """See `Backend`."""
        return tei.info(self.model, self._checkpoint, self._config)
