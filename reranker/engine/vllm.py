"""A vLLM pooling engine, held in process on a thread of its own. The only file that imports vllm or torch.

The thread takes shards from a queue, adds all their pairs to the engine at once, steps it, and hands each shard's
logits to the caller's event loop in one go: no task, future or message per pair. Why in process and not AsyncLLM, with
figures: docs/decisions/0001-engine-in-process.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from reranker.adapter import Adapter, find_adapter
from reranker.checkpoint import Checkpoint
from reranker.config import EngineConfig
from reranker.errors import EngineFailedError, UnsupportedModelError
from reranker.types import FloatArray, Shard

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Job:
    """A shard in the engine, and who waits for it."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[FloatArray] = self.loop.create_future()
        self.logits = np.empty(len(shard), dtype=np.float32)
        self.waiting: dict[str, int] = {}  # vLLM's request id -> position in the shard; the engine's thread owns it

    def resolve(self) -> None:
        self.loop.call_soon_threadsafe(_unless_done, self.answer, self.answer.set_result, self.logits)

    def fail(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(_unless_done, self.answer, self.answer.set_exception, error)


def _unless_done(answer: asyncio.Future[FloatArray], settle: Callable[[T], None], value: T) -> None:
    if not answer.done():  # cancelled meanwhile
        settle(value)


class _Cancel:
    def __init__(self, job: _Job) -> None:
        self.job = job


_STOP = object()


class VllmEngine:
    """One model on one device. See `Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, *, device: str) -> None:
        """Load the model; returns when it can score.

        Args:
            checkpoint: The model.
            config: Limits and memory.
            device: "cpu" or "cuda".

        Raises:
            UnsupportedModelError: The configured adapter is not one of this model.
            Exception: Whatever vLLM raises when it cannot load the model.
        """
        self._adapter = _find_adapter(checkpoint, config, device)
        self._commands: queue.SimpleQueue[_Job | _Cancel | object] = queue.SimpleQueue()
        self._jobs: dict[str, _Job] = {}  # vLLM's request id -> its shard
        self._requests = 0
        self._healthy = True
        self._token_types = checkpoint.token_types
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run,
            args=(started, engine_args(checkpoint, config, device=device, adapter=self._adapter)),
            name="vllm-engine",
            daemon=True,
        )
        self._thread.start()
        started.result()

    @property
    def healthy(self) -> bool:
        """False once a step of the engine has raised; vLLM's state is undefined then."""
        return self._healthy and self._thread.is_alive()

    @property
    def pending_pairs(self) -> int:
        """Pairs in the engine, waiting or being computed."""
        return len(self._jobs)

    async def score(self, shard: Shard) -> FloatArray:
        """Score all pairs of a shard; see `Engine.score`."""
        if not self.healthy:
            raise EngineFailedError
        job = _Job(shard)
        self._commands.put(job)
        if not self._healthy:  # it failed between the two lines above, and may not have seen this shard
            raise EngineFailedError
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._commands.put(_Cancel(job))
            raise

    def shutdown(self) -> None:
        """Stop the thread; waiting shards fail."""
        self._commands.put(_STOP)
        self._thread.join(timeout=10)

    # Everything below runs on the engine's thread.

    def _run(self, started: Future[None], arguments: dict[str, Any]) -> None:
        try:
            self._engine = _build(arguments)
            self._lora_request = self._load_adapter()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the start
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._take_commands():
                for output in self._engine.step():
                    self._deliver(output.request_id, output.outputs.data)
        except Exception:
            logger.exception("the vLLM engine failed; this replica scores no more")
        finally:
            self._healthy = False
            self._fail_all()
            self._engine.engine_core.shutdown()

    def _load_adapter(self) -> Any:  # Any: vllm's LoRARequest; its import is heavy
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        request = LoRARequest("adapter", 1, str(self._adapter.folder))
        self._engine.add_lora(request)  # now: in the first step it would bring down an engine that takes traffic
        return request

    def _take_commands(self) -> bool:
        """Carry out what is queued, and wait for something if the engine has no work. False: stop."""
        while True:
            try:
                command = self._commands.get(block=not self._jobs)
            except queue.Empty:
                return True
            if isinstance(command, _Job):
                self._add(command)
            elif isinstance(command, _Cancel):
                self._abort(command.job)
            else:
                return False

    def _add(self, job: _Job) -> None:
        if job.answer.cancelled():
            return
        if not len(job.shard):
            job.resolve()
            return
        head, tail = job.shard.head.tolist(), job.shard.tail.tolist()
        tokens, offsets = job.shard.tokens.tolist(), job.shard.offsets.tolist()
        parameters = self._pooling_params(len(head))
        try:
            for position in range(len(job.shard)):
                prompt = head + tokens[offsets[position] : offsets[position + 1]] + tail
                request_id = str(self._requests)
                self._requests += 1
                self._engine.add_request(
                    request_id,
                    {"prompt_token_ids": prompt},
                    parameters,
                    lora_request=self._lora_request,
                )
                job.waiting[request_id] = position
                self._jobs[request_id] = job
        except Exception as error:  # vLLM refuses a prompt, with errors of several trees; the engine itself is fine
            logger.exception("vLLM refused a prompt of %d tokens", len(prompt))
            self._abort(job)
            job.fail(RuntimeError(f"vLLM refused a prompt ({type(error).__name__}). This is a bug."))

    def _pooling_params(self, head_tokens: int) -> Any:  # Any: vllm's PoolingParams; its import is heavy
        from vllm.pooling_params import PoolingParams

        # The type of a token is told by where the second type begins: with the document.
        types = {"compressed_token_type_ids": head_tokens} if self._token_types else None
        return PoolingParams(task="classify", use_activation=False, extra_kwargs=types)  # scoring.py has the sigmoid

    def _deliver(self, request_id: str, logit: Any) -> None:  # Any: a torch tensor of one element
        job = self._jobs.pop(request_id, None)
        if job is None:  # aborted in the same step
            return
        job.logits[job.waiting.pop(request_id)] = logit.item()
        if not job.waiting:
            job.resolve()

    def _abort(self, job: _Job) -> None:
        self._engine.abort_request(list(job.waiting))
        for request_id in job.waiting:
            self._jobs.pop(request_id, None)
        job.waiting.clear()

    def _fail_all(self) -> None:
        for job in set(self._jobs.values()):
            job.fail(EngineFailedError())
        self._jobs.clear()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, _Job):
                command.fail(EngineFailedError())


def _find_adapter(checkpoint: Checkpoint, config: EngineConfig, device: str) -> Adapter | None:
    if config.lora_adapter is None:
        return None
    settings = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    if device == "cpu" and (config.quantization or settings.get("quantization_config")):
        # Seen with INT8: vLLM's adapter layers ask for the weights that its CPU kernels have packed away.
        raise UnsupportedModelError(checkpoint.name, "on a CPU, engine.lora_adapter needs a model without quantization")
    return find_adapter(config.lora_adapter, checkpoint.name, settings, checkpoint.family.architecture)


def engine_args(
    checkpoint: Checkpoint, config: EngineConfig, *, device: str, adapter: Adapter | None = None
) -> dict[str, Any]:  # Any: vLLM's arguments have every type
    """What we tell vLLM, by the names of its EngineArgs."""
    arguments: dict[str, Any] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": checkpoint.dtype,
        "runner": "pooling",
        "hf_overrides": dict(checkpoint.family.hf_overrides),
        "max_model_len": checkpoint.max_pair_tokens,
        "max_num_batched_tokens": config.max_batch_tokens,
        "max_num_seqs": config.max_batch_pairs,
        "enable_prefix_caching": checkpoint.family.causal,  # the pairs of a list share their head
        "tensor_parallel_size": config.tensor_parallel_size,
        # One GPU: in this process. Several: a process each, which inherit the GPUs that Ray gave the replica.
        "distributed_executor_backend": "uni" if config.tensor_parallel_size == 1 else "mp",
        "quantization": config.quantization,
        "disable_log_stats": True,
    }
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": adapter.max_rank}
    if device == "cpu":
        # A compiler is not there on every machine, and compiling takes longer than a laptop's user waits.
        # Blocks of 32 tokens, the smallest there: of vLLM's 128 a usual head (about 100 tokens) fills none, and the
        # prefix cache would never hit.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": config.cpu_kv_cache_gib * 2**30}
        if checkpoint.family.causal:
            arguments["block_size"] = 32
    else:
        arguments |= {"gpu_memory_utilization": config.gpu_memory_utilization}
    return arguments | config.vllm_args


def _build(arguments: dict[str, Any]) -> Any:  # Any: vLLM's LLMEngine; vllm is untyped here
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    # On a CPU vLLM would move the worker to a process of its own; this variable is the only way to say no.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    # The constructor and not from_engine_args: that one starts a process unless an environment variable says no.
    return LLMEngine(
        vllm_config=config, executor_class=Executor.get_class(config), log_stats=False, multiprocess_mode=False
    )
