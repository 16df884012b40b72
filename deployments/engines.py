"""The engine that a configuration asks for, for those that hold one in a process of Ray: replicas and batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import ray

from reranker.config import RerankerConfig
from reranker.engine.base import Engine
from reranker.errors import ConfigurationError, StartupCheckError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.identity import SIMULATED, model_identity
from reranker.model.prompt import PromptRenderer
from reranker.model.startup_check import require_sane, tolerance_for

logger = logging.getLogger(__name__)


def choose_device(config: RerankerConfig) -> str:
    """Say what engines run on, "cpu" or "cuda", once Ray is there.

    Raises:
        ConfigurationError: Several GPUs are to share a model, and there are none.
    """
    device = config.engine.device
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    if device == "cpu" and config.engine.tensor_parallel_size > 1:
        raise ConfigurationError("engine.tensor_parallel_size needs GPUs, and Ray knows of none")
    return device


def environment(config: RerankerConfig) -> dict[str, str]:
    """Variables that OpenMP and vLLM read when they load, so they must be there before the process starts."""
    return {
        "OMP_NUM_THREADS": str(config.engine.cpu_threads or max(1, int(config.engine.cpus))),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }


def resources(config: RerankerConfig, device: str) -> dict[str, float]:
    """What Ray is to reserve for an engine: `num_cpus` and `num_gpus`."""
    return {
        "num_cpus": 0 if config.engine.simulated else config.engine.cpus,  # a simulated one only sleeps
        "num_gpus": config.engine.tensor_parallel_size if device == "cuda" else 0,
    }


def identity(config: RerankerConfig, device: str) -> str:
    """Digest what such an engine holds; see `model_identity`."""
    if config.engine.simulated is not None:
        return SIMULATED
    return model_identity(find_checkpoint(config.model), config.engine, device)


def open_engine(config: RerankerConfig, device: str, stage: Callable[[str], object] = str) -> Engine:
    """Load the model, and check that it scores as a reranker does.

    Args:
        config: The configuration.
        device: "cpu" or "cuda".
        stage: Told what is done next.

    Raises:
        StartupCheckError: It does not.
    """
    # Imported here: vllm brings torch, which the ingress and Serve's controller must not load.
    if config.engine.simulated is not None:
        from reranker.engine.simulated import simulated_engine

        logger.warning("SIMULATED engine: the scores mean nothing")
        return simulated_engine(config.engine, config.engine.simulated)
    stage("importing vLLM")
    from reranker.engine.vllm import VllmEngine

    stage("finding or downloading the model")
    checkpoint = find_checkpoint(config.model)
    stage("loading the weights and warming up")
    engine = VllmEngine(checkpoint, config.engine, device=device)
    if config.engine.startup_check:
        stage("checking the scores")
        renderer = PromptRenderer.of(checkpoint, config.model)
        try:
            tolerance = tolerance_for(checkpoint.dtype, config.engine.quantization)
            require_sane(engine, renderer, tolerance, tuple(config.engine.lora_adapters))
        except StartupCheckError as error:
            logger.error("%s", error)  # noqa: TRY400 - one sentence; Serve logs the traceback
            engine.shutdown()
            raise
    return engine
