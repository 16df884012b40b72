"""A vLLM pooling engine in this process. Why not AsyncLLM, with figures: docs/decisions/0001-engine-in-process.md."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from reranker.config import EngineConfig
from reranker.engine import metrics
from reranker.engine.loop import Engine
from reranker.model.adapter import Adapter, find_adapters
from reranker.model.checkpoint import Checkpoint
from reranker.model.weights import require_weights

_CPU_KERNELS = "reranker_cpu"  # of vllm_cpu.py
_KNOWN_HEADS = 256  # more lists than take turns at once


def environment(cpus: float, threads: int | None = None, *, device: str = "cpu") -> dict[str, str]:
    """Variables that OpenMP and vLLM read when they load: they must be set before. None: a thread for each core.

    On "cuda" vLLM says at its start which attention it takes, how many tokens its cache holds, what it compiles.
    """
    ours = {"VLLM_LOGGING_LEVEL": "INFO" if device == "cuda" else "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    own = {name: os.environ.get(name, value) for name, value in ours.items()}
    return {"OMP_NUM_THREADS": str(threads or max(1, int(cpus)))} | own


def prepare_interpreter() -> None:
    """For a process that serves an engine beside an event loop: both of its threads take turns at Python.

    With Python's 5 ms a shard that comes while a batch is prepared waits so long, and its scores again: much, beside
    the 20 ms of a batch on a large GPU. And the garbage collector would look several times a batch at what is in use.
    """
    sys.setswitchinterval(0.0005)
    gc.set_threshold(20_000, 20, 50)


class VllmEngine(Engine):
    """One model on one device, "cpu" or "cuda"."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, *, device: str) -> None:
        """UnsupportedModelError: an adapter is not one of this model."""
        adapters = find_adapters(checkpoint, config, device)
        arguments = engine_args(checkpoint, config, device=device, adapters=adapters)
        super().__init__(
            lambda: VllmStepper(arguments, adapters, device=device, token_types=checkpoint.token_types, fail=self.fail),
            by_arrival=config.scheduling == "fcfs",
            target_step_s=config.target_step_s,
        )
        # Again: those of a model from the hub are here only now.
        require_weights(checkpoint.name, checkpoint.folder, checkpoint.family)


class VllmStepper:
    """vLLM's EngineCore, stepped by hand; see `reranker.engine.loop.Stepper`.

    The LLMEngine around it does more for every pair, without use here: docs/decisions/0005-engine-core.md.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        adapters: Mapping[str, Adapter],
        *,
        device: str,
        token_types: bool,
        fail: Callable[[str], None] = lambda why: None,
    ) -> None:
        """Load the model. With `token_types` it is told where the document begins.

        `fail` is called from another thread when a worker process dies, of which a model on several GPUs has one each.
        """
        from vllm.v1.request import Request

        if device == "cpu":
            from reranker.engine import vllm_cpu

            vllm_cpu.register_kernels(_CPU_KERNELS)
        self._core = _build(arguments, lambda: fail("a worker process of the engine has died"))
        self._request = Request
        self._heads = _SharedHeads(self._core.scheduler)
        model, scheduler = self._core.vllm_config.model_config, self._core.vllm_config.scheduler_config
        self._max_tokens: int = model.max_model_len
        self._vocabulary: int = model.get_vocab_size()
        self.max_batch_tokens: int = scheduler.max_num_batched_tokens
        self.depth: int = self._core.batch_queue_size
        self.max_batch_pairs: int = max(1, scheduler.max_num_seqs // self.depth)
        self._token_types = token_types
        self._params: dict[int, Any] = {}  # vllm's PoolingParams, by where the document begins
        self._head_hashes = lru_cache(_KNOWN_HEADS)(self._hash_head)
        self._lora_requests: dict[str, Any] = {"": None}  # vllm's LoRARequest; its import is heavy
        for number, (name, adapter) in enumerate(adapters.items(), start=1):
            from vllm.lora.request import LoRARequest

            # The name is a part of the prefix cache's keys: a head that one adapter has computed is no other's.
            self._lora_requests[name] = LoRARequest(name or "adapter", number, str(adapter.folder))
            self._core.add_lora(self._lora_requests[name])  # now: a failure in a step would bring down the engine

    def add(self, pair: int, prompt: list[int], head_tokens: int, priority: int, adapter: str = "") -> None:
        """Take in a pair; ValueError for one that would bring down the engine. No renderer makes such a pair."""
        if adapter not in self._lora_requests:
            raise ValueError("for an adapter that this engine does not have")
        hashes = self._head_hashes(tuple(prompt[:head_tokens]), adapter)
        if len(prompt) > self._max_tokens or max(prompt[head_tokens:]) >= self._vocabulary:
            raise ValueError("too long for the model, or with a token that it does not know")
        request = self._request(
            str(pair),
            prompt,
            None,
            self._pooling_params(head_tokens if self._token_types else 0),
            lora_request=self._lora_requests[adapter],
            priority=priority,
        )
        request.block_hashes = hashes
        request.prefill_stats = None  # counted for every pair, and read by nobody
        self._core.scheduler.add_request(request)  # the core's own asks the workers for their tasks, for every pair

    def repeated_tokens(self, head_tokens: int) -> int:
        """See `Stepper`: what fills no block of the prefix cache, or all of it where there is no such cache."""
        cached = self._core.request_block_hasher is not None
        return head_tokens % self._core.scheduler.block_size if cached else head_tokens

    def _hash_head(self, head: tuple[int, ...], adapter: str) -> list[bytes]:
        """The keys of a head's blocks in the prefix cache, which are vLLM's own: of all tokens before, and the adapter.

        A pair has no others. Only heads are ever shared, and to hash the documents' blocks, to keep them and to throw
        them out again took more of this thread's time than all the rest. ValueError as in `add`.
        """
        if max(head, default=0) >= self._vocabulary:
            raise ValueError("with a token that the model does not know")
        hasher, lora = self._core.request_block_hasher, self._lora_requests[adapter]
        if hasher is None:
            return []
        request = self._request("head", list(head), None, self._pooling_params(0), lora_request=lora)
        hashes: list[bytes] = hasher(request)
        return hashes

    def _pooling_params(self, second_type_from: int) -> Any:
        if second_type_from not in self._params:
            from vllm.pooling_params import PoolingParams

            types = {"compressed_token_type_ids": second_type_from} if second_type_from else None
            # use_activation: scoring.py has the sigmoid.
            params = PoolingParams(task="classify", use_activation=False, extra_kwargs=types)
            params.verify(self._core.vllm_config.model_config)
            self._params[second_type_from] = params
        return self._params[second_type_from]

    def step(self, tokens: int) -> Iterator[tuple[int, float]]:
        self._core.scheduler.max_num_scheduled_tokens = tokens
        self._heads.forget()
        outputs, executed = self._core.step_fn()
        self._core.post_step(executed)
        for client in (outputs or {}).values():  # None: vLLM has several batches under way, and none is done
            for output in client.outputs:
                yield int(output.request_id), output.pooling_output.item()

    def abort(self, pairs: Sequence[int]) -> None:
        self._core.abort_requests([str(pair) for pair in pairs])

    def stats(self) -> metrics.EngineStats:
        scheduler = self._core.scheduler
        cache = scheduler.kv_cache_manager
        prefix = cache.prefix_cache_stats  # nobody else takes it, so it is never reset
        return {
            metrics.VLLM_RUNNING: len(scheduler.running),
            metrics.VLLM_WAITING: len(scheduler.waiting),
            metrics.VLLM_PREEMPTIONS: prefix.preempted_requests,
            metrics.VLLM_QUERIED_TOKENS: prefix.queries + prefix.preempted_queries,
            metrics.VLLM_HIT_TOKENS: prefix.hits + prefix.preempted_hits,
            metrics.VLLM_KV_USAGE: cache.usage,
        }

    def close(self) -> None:
        self._core.shutdown()


class _SharedHeads:
    """Between vLLM's scheduler and its prefix cache, of which a pair uses the blocks of its list's head only."""

    def __init__(self, scheduler: Any) -> None:
        coordinator = scheduler.kv_cache_manager.coordinator
        self._find, self._keep = coordinator.find_longest_cache_hit, coordinator.cache_blocks
        coordinator.find_longest_cache_hit, coordinator.cache_blocks = self.find, self.keep
        pool = coordinator.block_pool
        self._evict, pool._maybe_evict_cached_block = pool._maybe_evict_cached_block, self.evict
        self._block_tokens: int = scheduler.hash_block_size
        self._found: dict[int, Any] = {}

    def keep(self, request: Any, tokens: int) -> None:
        """Keep the blocks that have a hash, unless they were found."""
        if id(request.block_hashes) not in self._found:
            self._keep(request, min(tokens, len(request.block_hashes) * self._block_tokens))

    def find(self, hashes: list[bytes], most_tokens: int) -> Any:
        """Look a head's blocks up once in a step: the pair that found them all keeps them from going until its end."""
        found = self._found.get(id(hashes))
        if found is None or found[1] > most_tokens:
            found = self._find(hashes, most_tokens)
            if found[1] == len(hashes) * self._block_tokens:
                self._found[id(hashes)] = found
        return found

    def evict(self, block: Any) -> bool:
        """Called for every block that a pair gets: most never were in the cache."""
        return block.block_hash is not None and self._evict(block)

    def forget(self) -> None:
        """A step begins."""
        self._found.clear()


def engine_args(
    checkpoint: Checkpoint, config: EngineConfig, *, device: str, adapters: Mapping[str, Adapter] | None = None
) -> dict[str, Any]:  # Any: vLLM's arguments have every type
    """VLLM's settings, by the names of its EngineArgs."""
    arguments: dict[str, Any] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": checkpoint.dtype_on(device),
        "runner": "pooling",
        "hf_overrides": dict(checkpoint.family.hf_overrides),
        "max_model_len": checkpoint.max_pair_tokens,
        "max_num_batched_tokens": config.max_batch_tokens,
        "max_num_seqs": config.max_batch_pairs,
        "scheduling_policy": "priority",  # pairs that wait in vLLM keep the order of their turns
        "enable_prefix_caching": checkpoint.family.causal,  # the pairs of a list share their head
        "tensor_parallel_size": config.tensor_parallel_size,
        # One GPU: in this process. Several: a process each, with the GPUs that Ray gave the replica.
        "distributed_executor_backend": "uni" if config.tensor_parallel_size == 1 else "mp",
        "quantization": config.quantization,
        "disable_log_stats": True,
    }
    if adapters:  # all of them in one batch
        max_rank = max(adapter.max_rank for adapter in adapters.values())
        # Pairs without an adapter have the index -1 in vLLM, and its CPU kernels apply the last adapter to them (seen).
        # One more, which stays empty, adds nothing to them.
        empty = device == "cpu" and "" not in adapters
        arguments |= {"enable_lora": True, "max_loras": len(adapters) + empty, "max_lora_rank": max_rank}
    if device == "cpu":
        # Not every machine has a compiler, and compiling takes longer than a laptop's user waits. Our kernels fuse
        # what a compiler would: see vllm_cpu.py.
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = config.cpu_kv_cache_gib * 2**30
        arguments["ir_op_priority"] = {name: [_CPU_KERNELS] for name in ("rms_norm", "fused_add_rms_norm")}
        if checkpoint.family.causal:
            # The smallest there is: a usual head (about 100 tokens) fills none of vLLM's blocks of 128 tokens, and the
            # prefix cache would never hit.
            arguments["block_size"] = 32
    else:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        # The next batch is prepared while the GPU computes one. vLLM's default for pooling models is off, because a
        # newcomer waits for two batches then; ours are half as long: see `Engine`. The pairs of both count as running.
        at_once = arguments["async_scheduling"] = config.vllm_args.get("async_scheduling", True)
        arguments["max_num_seqs"] = (1 + at_once) * config.max_batch_pairs
    return arguments | config.vllm_args


def _build(
    arguments: dict[str, Any], worker_died: Callable[[], None]
) -> Any:  # Any: vLLM's EngineCore; vllm is untyped here
    """Load vLLM. Of its statistics it keeps those of the prefix cache only: `log_stats` costs time for every pair."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor import Executor
    from vllm.v1.metrics.stats import PrefixCacheStats

    # On a CPU vLLM would move the worker to a process of its own; this variable is the only way to say no.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    core = EngineCore(config, Executor.get_class(config), log_stats=False, executor_fail_callback=worker_died)
    cache = core.scheduler.kv_cache_manager
    cache.log_stats, cache.prefix_cache_stats = True, PrefixCacheStats()
    return core
