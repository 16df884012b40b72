"""One engine per replica: it loads the model, scores shards, and ends when it no longer can."""

import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import ray
from ray import serve

from deployments.http.guard import limit_log, trim
from deployments.loading import loading
from deployments.telemetry import ReplicaMetrics, join_serve, log_shard
from reranker.config import RerankerConfig
from reranker.engine import metrics as engine_metrics
from reranker.engine.device import device_for, here
from reranker.engine.loop import Engine
from reranker.engine.simulated import simulated_engine
from reranker.engine.startup_check import require_sane, tolerance_for
from reranker.engine.vllm import VllmEngine, prepare_interpreter
from reranker.errors import EngineFailedError, StartupCheckError
from reranker.model.checkpoint import Checkpoint, deployed_model, find_checkpoint, model_identity
from reranker.model.prompt import PromptRenderer
from reranker.record import request_id
from reranker.transport.address import tls_context
from reranker.transport.server import ShardServer
from reranker.types import ReplicaLoad, ServedModel, Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)


class EngineReplica:
    """A replica gets shards once its constructor has returned: Serve calls it RUNNING then."""

    def __init__(self, config: RerankerConfig, device: str) -> None:
        """Load the model, and check it. After a StartupCheckError Serve tries again a few times, then gives up."""
        began_s = time.monotonic()
        prepare_interpreter()
        join_serve()
        limit_log()
        seen = config.observability
        self._slow_s = seen.slow_request_s
        self._name: str = serve.get_replica_context().replica_id.unique_id
        self._metrics = ReplicaMetrics(seen, (engine_metrics,), self._update_metrics) if seen.metrics else None
        engine_metrics.DEPLOYMENT.labels(serve.get_replica_context().deployment).set(1)
        with loading(self._name) as stage, ThreadPoolExecutor(1) as beside:
            model = beside.submit(served_model, config, device)  # reads the files that the engine loads
            try:
                self._engine = open_engine(config, device, stage)
            except StartupCheckError as error:
                engine_metrics.STARTUP_CHECKS.labels(error.check).inc()
                raise
        checked = config.engine.startup_check and config.engine.simulated is None
        engine_metrics.STARTUP_CHECKS.labels("passed" if checked else "off").inc()
        engine_metrics.LOAD_SECONDS.observe(time.monotonic() - began_s)
        self._model = model.result()
        self._in_hand: Counter[str] = Counter()
        self._arrived_tokens = 0
        here, tls = ray.util.get_node_ip_address(), tls_context(os.environ, server=True)
        trim()  # of what weights and vocabularies were read into
        self._server = ShardServer(here, self._model, self._score, tls)

    async def _score(self, shard: Shard, terms: ShardTerms) -> ShardScores:
        request_id.set(terms.request_id)  # each shard has a task of its own
        self._in_hand[terms.sender] += shard.work_tokens
        self._arrived_tokens += shard.work_tokens
        try:
            scores = await self._engine.score_within(shard, terms.weight, terms.timeout_s, terms.list_id)
        except EngineFailedError:
            self._end()
        else:
            log_shard(shard, terms, scores, self._slow_s)
        finally:
            self._in_hand[terms.sender] -= shard.work_tokens
        return ShardScores(scores, self._name, self._load(), self._model.identity)

    def record_replica_metadata(self) -> dict[str, object]:
        """Called once by Serve, which sends it to every router."""
        return self._server.address.to_metadata()

    async def named_load(self) -> tuple[str, ReplicaLoad]:
        await self._engine.check_integrity()
        return self._name, self._load()

    def record_routing_stats(self) -> dict[str, object]:
        """Called now and then by Serve's controller, which sends it to every router."""
        return dataclasses.asdict(self._load())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve in each `metrics_interval_s`, for the policy in `autoscaling.py`."""
        load = self._engine.load
        return {
            "pending_work": load.pending_tokens,
            "arrived_work": self._arrived_tokens,
            "work_per_s": load.tokens_per_s or 0.0,  # Serve takes numbers only
            "shards": self._server.shards_in_hand,  # for policies that count requests: Serve does not see our shards
        }

    def _update_metrics(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.count()

    def _load(self) -> ReplicaLoad:
        return dataclasses.replace(self._engine.load, in_hand=dict(+self._in_hand))

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica on an error or a timeout."""
        if not self._engine.healthy:
            self._end()
        await self._engine.check_integrity()

    def _end(self) -> NoReturn:
        # Without an engine the process would draw traffic with fast errors until Serve noticed. The ingresses see their
        # connections end at once, and send the shards elsewhere.
        logger.critical("the engine has failed; this replica ends, and Serve starts another")
        logging.shutdown()
        os._exit(1)

    async def __del__(self) -> None:
        """Finish the shards and stop. Called by Serve when the replica is to end and no router lists it any more."""
        if hasattr(self, "_server"):
            await self._server.drain()
        if hasattr(self, "_engine"):
            if self._metrics is not None:
                self._metrics.close()
            self._engine.shutdown()


def choose_device(config: RerankerConfig, checkpoint: Checkpoint) -> str:
    """Choose "cpu" or "cuda"; DeviceError if no engine can run on the only machine there is."""
    if config.engine.device != "auto":
        return config.engine.device  # there may be no GPU node yet
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    if config.engine.simulated is not None or (has_gpus and sum(node["Alive"] for node in ray.nodes()) > 1):
        return "cuda" if has_gpus else "cpu"  # what is installed on another machine, its replica sees
    machine = here(every_gpu=True)  # Ray hides them from who has reserved none
    if machine.gpus and not has_gpus:
        machine = dataclasses.replace(machine, gpus=(), trouble="Ray has none to give")
    return device_for(config.engine, checkpoint.dtype_on("cuda"), machine)


def resources(config: RerankerConfig, device: str) -> dict[str, float]:
    """Ray's reservation for an engine: `num_cpus` and `num_gpus`."""
    return {
        "num_cpus": 0 if config.engine.simulated else config.engine.cpus,  # a simulated one only sleeps
        "num_gpus": config.engine.tensor_parallel_size if device == "cuda" and not config.engine.simulated else 0,
    }


def served_model(config: RerankerConfig, device: str) -> ServedModel:
    """What an engine of this configuration scores with. It reads the weights."""
    checkpoint = find_checkpoint(config.model)
    prompts = PromptRenderer.of(checkpoint, config.model, few=True).fingerprint
    identity = model_identity(checkpoint, config.engine, device, prompts)
    return dataclasses.replace(deployed_model(checkpoint, config.engine, prompts), identity=identity)


def open_engine(config: RerankerConfig, device: str, stage: Callable[[str], object] = str) -> Engine:
    """Load the model, and check it; StartupCheckError if it does not score as a reranker. `stage` hears each stage."""
    if config.engine.simulated is not None:
        logger.warning("SIMULATED engine: the scores mean nothing")
        return simulated_engine(config.engine, config.engine.simulated)
    stage("finding or downloading the model")
    checkpoint = find_checkpoint(config.model)
    # Again: the replica may be on another machine than who chose.
    device_for(config.engine.model_copy(update={"device": device}), checkpoint.dtype_on("cuda"))
    stage("loading the weights and warming up")
    engine = VllmEngine(checkpoint, config.engine, device=device)
    if config.engine.startup_check:
        stage("checking the scores")
        renderer = PromptRenderer.of(checkpoint, config.model, few=True)
        tolerance = tolerance_for(checkpoint.dtype_on(device), config.engine.quantization, device)
        try:
            require_sane(engine, renderer, tolerance, tuple(config.engine.lora_adapters))
        except StartupCheckError as error:
            logger.error("%s", error)  # noqa: TRY400 - one sentence; Serve logs the traceback
            engine.shutdown()
            raise
    return engine
