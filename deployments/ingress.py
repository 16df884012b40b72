"""The ingress deployment: wires the library's parts to the routes of `deployments.http` and to the engine replicas."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TypeVar

import ray
from prometheus_client import generate_latest
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, ReplicaState
from starlette.types import ASGIApp

from deployments.fleet import RayFleet, ask_all, ask_another
from deployments.http.access import ENVIRONMENT, Keyring, require_keys
from deployments.http.guard import BytesInHand, limit_log
from deployments.http.middleware import Observer, without_request_ids
from deployments.http.playground import PlaygroundClient
from deployments.http.quotas import Quotas
from deployments.http.routes import build_api
from deployments.http.search import DIALECT as SEARCH
from deployments.http.search import Search, SearchClient
from deployments.http.server import Listener, listen
from deployments.loading import replicas_loading
from deployments.telemetry import ReplicaMetrics, RequestLog, Tracer, join_serve
from deployments.watchdog import Watchdog
from reranker import metrics
from reranker.cache import Statistics
from reranker.cache.score_cache import ScoreCache, report
from reranker.config import RerankerConfig
from reranker.dialects import PATHS, tei
from reranker.dialects.base import JSON
from reranker.errors import ConfigurationError, NoAnswerError, NotReadyError, RerankerError, StartFailedError
from reranker.model.checkpoint import deployed_model, find_checkpoint, name_of
from reranker.model.prompt import PromptRenderer
from reranker.model.tokenizer import IN_THE_CALLERS_THREAD
from reranker.model.verified import Verified, kept
from reranker.ranking.ranker import Ranker
from reranker.ranking.scatter import HandOverError
from reranker.ranking.threads import FairThreads, SharedCall
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest

T = TypeVar("T")
_TURN_S = 0.2  # between two looks whether it is our turn
_SWITCH_S = 0.0002
"""The longest that Python code in a thread keeps the event loop waiting; Python's own 5 ms add up over a request."""
_NEVER = 2**30


@serve.ingress()
class Ingress:
    """Answers HTTP; sends shards to the engine replicas behind `engine`. A `deployments.http.Backend`.

    It listens itself where Serve's `proxy_location` is `Disabled`; else whatever Serve puts in front carries it.
    """

    def __init__(
        self, config: RerankerConfig, engine: DeploymentHandle, search: DeploymentHandle | None = None
    ) -> None:
        """Load the tokenizer and the API keys, and listen. search: None where there is no index."""
        join_serve()
        limit_log()
        os.environ.update(IN_THE_CALLERS_THREAD)  # here: a configuration's own `runtime_env` replaces the application's
        sys.setswitchinterval(_SWITCH_S)
        keys = Keyring(config.access, os.environ.get(ENVIRONMENT, ""))
        client = _get_global_client()
        options = client.http_config
        self._carried = ray.get(client._controller.get_proxy_location.remote()) != ProxyLocation.Disabled
        require_keys(options.host, config.access, keys)
        self._config, self._engine = config, engine
        checkpoint = self._checkpoint = find_checkpoint(config.model)
        self.model = name_of(checkpoint, config.engine)
        self.adapters = tuple(config.engine.lora_adapters)
        if self.model in self.adapters:
            raise ConfigurationError(f"engine.lora_adapters has an adapter with the model's own name, {self.model!r}")
        renderer = PromptRenderer.of(checkpoint, config.model)
        self._fleet = RayFleet(engine, deployed_model(checkpoint, config.engine, renderer.fingerprint))
        here = serve.get_replica_context()
        # A handle's first use, or `options`, asks Ray's control plane and blocks: it may be slow later, but not now.
        self._ingresses = serve.get_deployment_handle(here.deployment, here.app_name).options()
        self.search = Search(SearchClient(search.options()), config) if search is not None else None
        self._cache = ScoreCache.of(config, os.environ)
        self._ranker = Ranker(config, renderer, self._fleet, self._cache)
        self.require_any_room = self._ranker.require_any_room
        self.threads = FairThreads(2)  # what holds the interpreter is no faster in more
        self.open_page = PlaygroundClient().answer
        whose = f"{ray.get_runtime_context().gcs_address} {here.app_name}"  # another application has other clients
        self.service = hashlib.sha256(whose.encode()).hexdigest()[:16]
        self._tracer = Tracer(config.tracing, serve.get_replica_context().replica_id.unique_id)
        self._quotas = Quotas.of(config.cache.redis, os.environ)
        if config.observability.metrics_port == options.port:
            raise ConfigurationError(f"observability.metrics_port is the service's own port, {options.port}")
        self._failed = _asked(self._start_failed, keep_s=2.0, limit_s=1.0)
        self._running = _asked(self._any_engine_runs, keep_s=1.0, limit_s=1.0)
        self._loading = _asked(replicas_loading, keep_s=1.0, limit_s=1.0)
        self._verified = _asked(lambda: kept(self._fleet.placement.own_identity), keep_s=0.0, limit_s=1.0)
        self._series = _asked(lambda: generate_latest(metrics.node_registry()), keep_s=0.0, limit_s=10.0)
        self._metrics = count = None
        if config.observability.metrics:
            self._metrics = ReplicaMetrics(config.observability, metrics, self._set_gauges)
            count = partial(metrics.count_request, ranking_paths=frozenset((*PATHS, *SEARCH.paths)))
        observers: list[Observer] = [self._tracer, RequestLog(config.observability)]
        self._memory = BytesInHand(config.limits.max_bytes_in_hand)
        self._app = build_api(self, config.limits, keys, observers, count, self._quotas, self._memory)
        self._listener: Listener | None = None
        self._watchdog: Watchdog | None = None
        gc.freeze()  # what is here now stays: to look through all of it again and again takes a tenth of a second
        gc.set_threshold(*gc.get_threshold()[:2], _NEVER)  # of large bodies all at once, too: see `guard.trim`

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica. The first call is the end of its start."""
        if self._watchdog is None:
            await self._wait_for_turn()
            if not self._carried:
                options = _get_global_client().http_config
                self._listener = Listener(self._app, options, await asyncio.to_thread(listen, options, self.service))
            self._watchdog = Watchdog()
        if self._listener is not None and not self._listener.healthy:
            raise RuntimeError("the HTTP server has ended")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve after the start, and used if one of its proxies is in front."""
        return without_request_ids(self._app)

    async def _wait_for_turn(self) -> None:
        """Leave the lists to the ingresses before us until half of the engines are of our deployment, as those are.

        Whoever has no engine to send to takes lists only where nobody else does.
        """
        while not self._fleet.placement.has_its_turn and await asyncio.to_thread(self._others_answer):  # noqa: ASYNC110
            await asyncio.sleep(_TURN_S)  # Serve has no event for it

    def _others_answer(self) -> bool:
        """Whether other ingresses take lists, and there are engines, or will be. Blocks for some 15 ms."""
        here = serve.get_replica_context()
        try:
            deployments = serve.status().applications[here.app_name].deployments
            engines = deployments[self._engine.deployment_name].replica_states
            return bool(engines and deployments[here.deployment].replica_states.get(ReplicaState.RUNNING))
        except (RayError, RayServeException):  # nobody knows now; asked again
            return True
        except KeyError:  # the application is being taken away
            return False

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve in each `metrics_interval_s`, for the policy in `autoscaling.py`: seconds of a core used."""
        return {"pending_work": 0.0, "arrived_work": time.process_time(), "work_per_s": 1.0}

    async def __del__(self) -> None:
        """Called by Serve when the replica is to end."""
        if hasattr(self, "_listener"):
            self._fleet.leave()
            if self._listener is not None:
                await self._listener.drain(self._config.limits.timeout_s, self._config.limits.notice_s)
            if self._watchdog is not None:
                self._watchdog.close()
            if self._metrics is not None:
                self._metrics.close()
            if self._cache is not None:
                await self._cache.aclose()
            await self._quotas.aclose()
            await self._tracer.aclose()

    @property
    def draining(self) -> bool:
        return self._listener is not None and self._listener.draining

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        ends_s = record.began_s + self._config.limits.bounded_s(lists[0].timeout_s)
        await self._fleet.meet(self._engines_run, ends_s)
        try:
            return await self._ranker.rank(lists, caller, record)
        except HandOverError:
            record.shards.clear()  # the answer has nothing of them
            return await self._hand_over(lists, caller, record)

    async def _hand_over(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> list[Ranking]:
        """Have lists ranked by an ingress that stays: an update has left us no engine before they were scored."""
        ends_s = record.began_s + self._config.limits.bounded_s(lists[0].timeout_s)
        while (left_s := ends_s - time.monotonic()) > 0:
            asked = [replace(one, timeout_s=left_s) for one in lists]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    arguments = (asked, caller, record.request_id, record.size_bytes)
                    answer = await ask_another(self._ingresses, "rank_for_another", *arguments)
                    if isinstance(answer, RerankerError):
                        raise answer
                    if answer is not None:
                        return list(answer)
                    await asyncio.sleep(_TURN_S)
        raise NotReadyError

    async def rank_for_another(
        self, lists: Sequence[RankRequest], caller: Caller, request_id: str, size_bytes: int
    ) -> Sequence[Ranking] | RerankerError | None:
        """Rank the lists that an ingress hands over. An error is an answer. None: another one should.

        That is who leaves as well, or will: Serve ends no replica that waits for engines on behalf of another.
        """
        if self.draining or not self._fleet.placement.has_its_turn:
            return None
        record = RequestRecord(request_id, body_bytes=size_bytes)
        try:
            return await self.rank(lists, caller, record)
        except RerankerError as error:
            return error

    def _set_gauges(self) -> None:
        for gauge, value in (
            (metrics.REQUESTS_IN_FLIGHT, self._ranker.admission.lists_in_flight),
            (metrics.TOKENS_IN_FLIGHT, self._ranker.admission.tokens_in_flight),
            (metrics.SHARDS_IN_FLIGHT, self._fleet.placement.shards_in_flight),
            (metrics.BYTES_IN_HAND, self._memory.total),
            (metrics.LIVE_REPLICAS, self._fleet.placement.live_replicas),
        ):
            gauge.set(value)

    async def load(self) -> JSON:
        self._ranker.check_integrity()
        replicas = await self._fleet.replica_loads()
        return {
            "lists": self._ranker.admission.lists_in_flight,
            "tokens": self._ranker.admission.tokens_in_flight,
            "shards": self._fleet.placement.shards_in_flight,
            "replicas": [{"name": name} | asdict(one) for name, one in sorted(replicas.items())],
        }

    async def cache_report(self) -> JSON:
        return report([one for one in await ask_all(self._ingresses, "cache_statistics") if one is not None])

    async def clear_cache(self) -> None:
        if self._cache is not None:  # Redis comes first: the memories would be filled from it again
            await self._cache.clear_shared()
        await ask_all(self._ingresses, "clear_memory")

    async def cache_statistics(self) -> Statistics | None:
        return self._cache.statistics if self._cache is not None else None

    async def clear_memory(self) -> None:
        if self._cache is not None:
            self._cache.clear_memory()

    async def metrics_text(self) -> bytes | None:
        if self._metrics is None:
            return None
        return await self._series.answer()

    async def live_replicas(self) -> int:
        replicas = self._fleet.placement.live_replicas
        if not replicas:
            with contextlib.suppress(NoAnswerError):
                if await self._failed.answer():
                    raise StartFailedError
            raise NotReadyError
        return replicas

    async def replicas_loading(self) -> list[JSON]:
        with contextlib.suppress(NoAnswerError):
            return await self._loading.answer()
        return []

    async def verified(self) -> Verified | None:
        with contextlib.suppress(NoAnswerError):
            return await self._verified.answer()
        return None

    async def _engines_run(self) -> bool:
        with contextlib.suppress(NoAnswerError):
            return await self._running.answer()
        return False

    def _any_engine_runs(self) -> bool:
        """Whether Serve has engines that run, though we may not have heard of them. Blocks for some 15 ms."""
        try:
            deployments = serve.status().applications[serve.get_replica_context().app_name].deployments
            return bool(deployments[self._engine.deployment_name].replica_states.get(ReplicaState.RUNNING))
        except (RayError, RayServeException, KeyError):
            return False

    def _start_failed(self) -> bool:
        """Whether Serve has given up starting engines. Blocks for some 15 ms; asked only while there is none."""
        try:
            application = serve.status().applications[serve.get_replica_context().app_name]
            status = application.deployments[self._engine.deployment_name].status
        except (RayError, RayServeException, KeyError):  # Serve is shutting down, this replica with it
            return False
        return bool(status == DeploymentStatus.DEPLOY_FAILED)

    def info(self) -> tei.TeiInfo:
        return tei.info(self.model, self._checkpoint, self._config)


def _asked(function: Callable[[], T], keep_s: float, limit_s: float) -> SharedCall[T]:
    """A call that blocks, in a thread, and in one only, however many ask and however long it blocks."""
    return SharedCall(partial(asyncio.to_thread, function), keep_s, limit_s)
