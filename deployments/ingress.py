"""The ingress deployment: wires the library's parts to the routes of `deployments.http` and to the engine replicas."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from prometheus_client import generate_latest
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, ReplicaState
from starlette.types import ASGIApp

from deployments.fleet import ask_all, ask_another
from deployments.http.access import ENVIRONMENT, Keyring, require_keys
from deployments.http.guard import BytesInHand, limit_log, trim
from deployments.http.middleware import Observer, without_request_ids
from deployments.http.playground import PlaygroundClient
from deployments.http.quotas import Quotas
from deployments.http.routes import build_api
from deployments.http.search import DIALECT as SEARCH
from deployments.http.search import Search, SearchClient
from deployments.http.server import Listener, listen
from deployments.loading import replicas_loading
from deployments.models import Models, asked
from deployments.telemetry import ReplicaMetrics, RequestLog, Tracer, join_serve
from deployments.watchdog import Watchdog
from reranker import metrics
from reranker.cache import Statistics
from reranker.cache.score_cache import ScoreCache, report
from reranker.config import RerankerConfig
from reranker.dialects import PATHS, tei
from reranker.dialects.base import JSON
from reranker.errors import ConfigurationError, NoAnswerError, NotReadyError, RerankerError
from reranker.model.tokenizer import IN_THE_CALLERS_THREAD
from reranker.model.verified import Verified
from reranker.ranking import agreement
from reranker.ranking.scatter import HandOverError
from reranker.ranking.shadow import report as shadow_report
from reranker.ranking.threads import FairThreads
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest

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
        self,
        config: RerankerConfig,
        engine: DeploymentHandle,
        search: DeploymentHandle | None = None,
        *others: DeploymentHandle,
    ) -> None:
        """Load the tokenizers and the API keys, and listen.

        `engine` is the default model's, `others` are those of the other models (`RerankerConfig.each_model`). search:
        None where there is no index.
        """
        join_serve()
        limit_log()
        os.environ.update(IN_THE_CALLERS_THREAD)  # here: a configuration's own `runtime_env` replaces the application's
        sys.setswitchinterval(_SWITCH_S)
        keys = Keyring(config.access, os.environ.get(ENVIRONMENT, ""))
        client = _get_global_client()
        options = client.http_config
        self._carried = ray.get(client._controller.get_proxy_location.remote()) != ProxyLocation.Disabled
        require_keys(options.host, config.access, keys)
        self._config = config
        self._cache = ScoreCache.of(config, os.environ)
        self._models = Models(config, [engine, *others], self._cache)
        self.model, self.offers = self._models.default.name, self._models.offers
        self.require_any_room = self._models.require_any_room
        here = serve.get_replica_context()
        # A handle's first use, or `options`, asks Ray's control plane and blocks: it may be slow later, but not now.
        self._ingresses = serve.get_deployment_handle(here.deployment, here.app_name).options()
        self.search = Search(SearchClient(search.options()), config) if search is not None else None
        self.threads = FairThreads(2)  # what holds the interpreter is no faster in more
        self.open_page = PlaygroundClient().answer
        whose = f"{ray.get_runtime_context().gcs_address} {here.app_name}"  # another application has other clients
        self.service = hashlib.sha256(whose.encode()).hexdigest()[:16]
        several = self._models.several
        self._tracer = Tracer(config.tracing, here.replica_id.unique_id, several_models=several)
        self._quotas = Quotas.of(config.cache.redis, os.environ)
        if config.observability.metrics_port == options.port:
            raise ConfigurationError(f"observability.metrics_port is the service's own port, {options.port}")
        self._loading = asked(replicas_loading, keep_s=1.0, limit_s=1.0)
        self._series = asked(lambda: generate_latest(metrics.node_registry()), keep_s=0.0, limit_s=10.0)
        self._metrics = count = None
        if config.observability.metrics:
            self._metrics = ReplicaMetrics(config.observability, (metrics, agreement), self._set_gauges)
            count = partial(metrics.count_request, ranking_paths=frozenset((*PATHS, *SEARCH.paths)))
        log = RequestLog(config.observability, several_models=several)
        observers: list[Observer] = [self._tracer, log]
        self._memory = BytesInHand(config.limits.max_bytes_in_hand)
        self._app = build_api(self, config.limits, keys, observers, count, self._quotas, self._memory)
        self._listener: Listener | None = None
        self._watchdog: Watchdog | None = None
        trim()  # of what large vocabularies were read into
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

        Whoever has no engine to send to takes lists only where nobody else does. So for each model.
        """
        while bool(self._models.without_their_turn) and await asyncio.to_thread(self._others_answer):  # noqa: ASYNC110
            await asyncio.sleep(_TURN_S)  # Serve has no event for it

    def _others_answer(self) -> bool:
        """Whether other ingresses take lists, and there are engines, or will be. Blocks for some 15 ms."""
        here = serve.get_replica_context()
        try:
            deployments = serve.status().applications[here.app_name].deployments
            late = [one.deployment for one in self._models.without_their_turn]
            engines = [self._may_come(name, deployments[name]) for name in late]
            return any(engines) and bool(deployments[here.deployment].replica_states.get(ReplicaState.RUNNING))
        except (RayError, RayServeException):  # nobody knows now; asked again
            return True
        except KeyError:  # the application is being taken away
            return False

    def _may_come(self, name: str, deployment: DeploymentStatusOverview) -> bool:
        """Whether engines are there or on their way. But for the default, a model that cannot start holds up nobody."""
        given_up = deployment.status == DeploymentStatus.DEPLOY_FAILED and name != self._models.default.deployment
        return bool(deployment.replica_states) and not given_up

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve in each `metrics_interval_s`, for the policy in `autoscaling.py`: seconds of a core used."""
        return {"pending_work": 0.0, "arrived_work": time.process_time(), "work_per_s": 1.0}

    async def __del__(self) -> None:
        """Called by Serve when the replica is to end."""
        if hasattr(self, "_listener"):
            self._models.leave()
            if self._listener is not None:
                await self._listener.drain(self._config.limits.timeout_s, self._config.limits.notice_s)
            if self._watchdog is not None:
                self._watchdog.close()
            if self._metrics is not None:
                self._metrics.close()
            await self._models.shadows.aclose()
            if self._cache is not None:
                await self._cache.aclose()
            await self._quotas.aclose()
            await self._tracer.aclose()

    @property
    def draining(self) -> bool:
        return self._listener is not None and self._listener.draining

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        try:
            return await self._models.rank(lists, caller, record)
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
        if self.draining or not self._models.has_its_turn_for(lists):
            return None
        record = RequestRecord(request_id, body_bytes=size_bytes)
        try:
            return await self.rank(lists, caller, record)
        except RerankerError as error:
            return error

    def _set_gauges(self) -> None:
        self._models.set_gauges()
        metrics.BYTES_IN_HAND.set(self._memory.total)

    async def load(self) -> JSON:
        return await self._models.load()

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

    async def comparison(self) -> JSON:
        return shadow_report(await ask_all(self._ingresses, "shadow_state"))

    async def shadow_state(self) -> list[dict[str, Any]]:
        return self._models.shadows.state

    async def metrics_text(self) -> bytes | None:
        if self._metrics is None:
            return None
        return await self._series.answer()

    async def live_replicas(self) -> int:
        return await self._models.live_replicas()

    async def models(self) -> dict[str, JSON]:
        return await self._models.states()

    async def replicas_loading(self) -> list[JSON]:
        with contextlib.suppress(NoAnswerError):
            return await self._loading.answer()
        return []

    async def verified(self) -> dict[str, Verified]:
        found = {}
        for one in self._models.all:
            with contextlib.suppress(NoAnswerError):
                found[one.name] = await one.verified.answer()
        return {name: one for name, one in found.items() if one is not None}

    def info(self) -> tei.TeiInfo:
        default = self._models.default
        return tei.info(default.name, default.checkpoint, default.config)
