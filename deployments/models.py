"""The models of the service, as one ingress has them: which one a request gets, and how each is doing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, ReplicaState

from deployments.fleet import RayFleet
from deployments.http import Offer
from reranker import metrics
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.dialects.base import JSON
from reranker.errors import (
    ConfigurationError,
    ModelFailedError,
    ModelNotReadyError,
    NoAnswerError,
    NotReadyError,
    OverloadedError,
    StartFailedError,
    UnknownModelError,
)
from reranker.model.checkpoint import deployed_model, find_checkpoint, name_of
from reranker.model.prompt import PromptRenderer
from reranker.model.verified import kept
from reranker.ranking.cascade import Cascade
from reranker.ranking.ranker import Ranker
from reranker.ranking.shadow import Shadows
from reranker.ranking.threads import SharedCall
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, RankRequest

T = TypeVar("T")


class Model:
    """One model: its engines, and what ranks with them."""

    def __init__(self, name: str, config: RerankerConfig, engine: DeploymentHandle, cache: ScoreCache | None) -> None:
        """Load the tokenizer. `config` is of this model alone; without a name it has its checkpoint's."""
        self.config, self.deployment = config, engine.deployment_name
        checkpoint = self.checkpoint = find_checkpoint(config.model)
        self.name = name or name_of(checkpoint, config.engine)
        self.adapters = tuple(config.engine.lora_adapters)
        if self.name in self.adapters:
            raise ConfigurationError(f"engine.lora_adapters has an adapter with the model's own name, {self.name!r}")
        renderer = PromptRenderer.of(checkpoint, config.model)
        self.fleet = RayFleet(engine, deployed_model(checkpoint, config.engine, renderer.fingerprint))
        self.placement = self.fleet.placement
        cached = config.cache.enabled or config.engine.simulated is None  # as `ScoreCache.of` has it
        self.ranker = Ranker(config, renderer, self.fleet, cache if cached else None, name)
        self.verified = asked(lambda: kept(self.placement.own_identity), keep_s=0.0, limit_s=1.0)

    def load(self) -> dict[str, int]:
        """What is in flight."""
        admission = self.ranker.admission
        return {
            "lists": admission.lists_in_flight,
            "tokens": admission.tokens_in_flight,
            "shards": self.placement.shards_in_flight,
        }


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a request is ranked with: one model, or two by a cascade."""

    name: str  # a metric's label: no adapter's
    ranker: Ranker | Cascade
    models: tuple[Model, ...]


class Models:
    """All models and cascades. To be used from one event loop."""

    def __init__(self, config: RerankerConfig, engines: Sequence[DeploymentHandle], cache: ScoreCache | None) -> None:
        """`engines` are the deployments of `config.each_model()`, in that order."""
        pairs = zip(config.each_model().items(), engines, strict=True)
        self.all = [Model(name, one, engine, cache) for (name, one), engine in pairs]
        self.default = self.all[0]
        self.several = len(self.all) > 1
        self._strict = config.access.strict_models
        self._deployments = asked(_deployments, keep_s=1.0, limit_s=1.0)
        by_name = {one.name: one for one in self.all}
        choices = {name: _Choice(name, one.ranker, (one,)) for name, one in by_name.items()}
        self.offers = {
            name: Offer(root=one.checkpoint.served_name * bool(config.models)) for name, one in by_name.items()
        }
        for one in self.all:
            choices |= dict.fromkeys(one.adapters, choices[one.name])
            self.offers |= {adapter: Offer(parent=one.name) for adapter in one.adapters}
        for name, cascade in config.cascades.items():
            first, then = by_name[cascade.first], by_name[cascade.then]
            ranker = Cascade(name, cascade, first.ranker, then.ranker)
            choices[name] = _Choice(name, ranker, (first, then))
            self.offers[name] = Offer(cascade=(first.name, then.name))
        self._choices = choices
        self.shadows = Shadows(config, {one.name: one.ranker for one in self.all})

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> list[Ranking]:
        """Rank the lists of a request with what it names, or else with the default.

        Raises what `Ranker.rank` does, and UnknownModelError.
        """
        choice = self._choice(lists)
        record.model = choice.name
        first, *later = choice.models
        ends_s = record.began_s + first.config.limits.bounded_s(lists[0].timeout_s)
        await first.fleet.meet(partial(self._run, first), ends_s)
        for one in later:  # a cascade goes without
            await one.fleet.meet(_nobody, ends_s)
        try:
            rankings = await choice.ranker.rank(lists, caller, record)
        except NotReadyError:
            if self.several and not choice.models[0].placement.live_replicas:
                raise await self._not_ready(choice.models[0]) from None
            raise
        wanted = lists[0].model or ""
        name = wanted if wanted in self._choices else self.default.name
        record.after = self.shadows.drawn(name, lists, rankings, caller, record.request_id)
        return rankings

    def _choice(self, lists: Sequence[RankRequest]) -> _Choice:
        wanted = lists[0].model
        choice = self._choices.get(wanted or "")
        if choice is None and wanted and self._strict:
            raise UnknownModelError(tuple(self._choices))
        return choice or self._choices[self.default.name]

    def has_its_turn_for(self, lists: Sequence[RankRequest]) -> bool:
        """Whether at least half of the engines that the lists want are of our deployment."""
        return self._choice(lists).models[0].placement.has_its_turn

    async def _not_ready(self, model: Model) -> NotReadyError:
        ready = tuple(one.name for one in self.all if one.placement.live_replicas)
        failed = model.deployment in await self._failures()
        return ModelFailedError(model.name, ready) if failed else ModelNotReadyError(model.name, ready)

    def require_any_room(self, body_bytes: int) -> None:
        """Raise OverloadedError if no model has room for a body of this size: which one it is for, it says itself."""
        *others, last = self.all
        for one in others:
            with contextlib.suppress(OverloadedError):
                one.ranker.require_any_room(body_bytes)
                return
        last.ranker.require_any_room(body_bytes)

    async def live_replicas(self) -> int:
        """Those of the default; StartFailedError or NotReadyError if there is none."""
        replicas = self.default.placement.live_replicas
        if not replicas:
            raise StartFailedError if self.default.deployment in await self._failures() else NotReadyError
        return replicas

    async def states(self) -> dict[str, JSON]:
        """How each of several models is; empty where there is only one."""
        if not self.several:
            return {}
        live = {one: one.placement.live_replicas for one in self.all}
        failures = frozenset[str]() if all(live.values()) else await self._failures()
        return {
            one.name: {
                "status": "ok" if live[one] else "failed" if one.deployment in failures else "starting",
                "replicas": live[one],
            }
            for one in self.all
        }

    async def load(self) -> JSON:
        """What is in flight here, and what every replica has to do; RuntimeError if the sums are wrong."""
        replicas: list[JSON] = []
        for one in self.all:
            one.ranker.check_integrity()
            if self.several and not one.placement.live_replicas:
                continue  # nobody would answer
            loads = sorted((await one.fleet.replica_loads()).items())
            named = {"model": one.name} if self.several else {}
            replicas += [{"name": name} | named | asdict(load) for name, load in loads]
        of_each = {one.name: one.load() for one in self.all}
        sums = {key: sum(load[key] for load in of_each.values()) for key in ("lists", "tokens", "shards")}
        return sums | {"replicas": replicas} | ({"models": of_each} if self.several else {})

    def set_gauges(self) -> None:
        loads = [one.load() for one in self.all]
        for gauge, key in (
            (metrics.REQUESTS_IN_FLIGHT, "lists"),
            (metrics.TOKENS_IN_FLIGHT, "tokens"),
            (metrics.SHARDS_IN_FLIGHT, "shards"),
        ):
            gauge.set(sum(load[key] for load in loads))
        metrics.LIVE_REPLICAS.set(sum(one.placement.live_replicas for one in self.all))
        for one in self.all:
            metrics.MODEL_LIVE_REPLICAS.labels(one.name).set(one.placement.live_replicas)

    def leave(self) -> None:
        self.shadows.leave()
        for one in self.all:
            one.fleet.leave()

    @property
    def without_their_turn(self) -> list[Model]:
        """The models of which less than half of the engines are of our deployment."""
        return [one for one in self.all if not one.placement.has_its_turn]

    async def _failures(self) -> frozenset[str]:
        """The deployments that Serve has given up starting."""
        with contextlib.suppress(NoAnswerError):
            every = (await self._deployments.answer()).items()
            return frozenset(name for name, one in every if one.status == DeploymentStatus.DEPLOY_FAILED)
        return frozenset()

    async def _run(self, model: Model) -> bool:
        """Whether Serve has engines of a model that run, though we may not have heard of them."""
        with contextlib.suppress(NoAnswerError):
            found = (await self._deployments.answer()).get(model.deployment)
            return found is not None and bool(found.replica_states.get(ReplicaState.RUNNING))
        return False


async def _nobody() -> bool:
    return False


def _deployments() -> Mapping[str, DeploymentStatusOverview]:
    """Ours, as Serve sees them. Blocks for some 15 ms; asked only while a model has no engine."""
    try:
        found: Mapping[str, DeploymentStatusOverview]
        found = serve.status().applications[serve.get_replica_context().app_name].deployments
    except (RayError, RayServeException, KeyError):  # Serve is shutting down, this replica with it
        return {}
    return found


def asked(function: Callable[[], T], keep_s: float, limit_s: float) -> SharedCall[T]:
    """A call that blocks, in a thread, and in one only, however many ask and however long it blocks."""
    return SharedCall(partial(asyncio.to_thread, function), keep_s, limit_s)
