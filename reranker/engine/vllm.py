"""A vLLM pooling engine in this process. Why not AsyncLLM, with figures: docs/decisions/0001-engine-in-process.md."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from reranker.config import EngineConfig
from reranker.engine import cards, metrics
from reranker.engine.device import Gpu, here
from reranker.engine.job import Common
from reranker.engine.loop import Engine
from reranker.errors import UnsupportedModelError
from reranker.model.adapter import Adapter, find_adapters
from reranker.model.checkpoint import Checkpoint
from reranker.model.weights import require_weights

logger = logging.getLogger(__name__)

_CPU_KERNELS = "reranker_cpu"  # of vllm_cpu.py
_TORCHVISION = "0.28.0"  # the one for torch 2.13, as in requirements/gpu.txt
_KNOWN_HEADS = 256  # more lists than take turns at once
_KNOWN_SHARDS = 128


def environment(cpus: float, threads: int | None = None, *, device: str = "cpu") -> dict[str, str]:
    """Variables that OpenMP and vLLM read when they load: they must be set before. None: a thread for each core.

    On "cuda" vLLM says at its start which attention it takes, how many tokens its cache holds, what it compiles.
    """
    ours = {"VLLM_LOGGING_LEVEL": "INFO" if device == "cuda" else "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    ours["GOMP_SPINCOUNT"] = "1000"  # compute threads that wait soon sleep: spinning keeps a core from the ingress
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
        """UnsupportedModelError: an adapter is not one of this model, or the model needs what is not installed.

        DeviceError: the model does not fit the GPU.
        """
        if checkpoint.family.reads_more:
            _require_torchvision(checkpoint, device)
        adapters = find_adapters(checkpoint, config, device)
        gpu = cards.smallest(here().gpus) if device == "cuda" else None
        if gpu is not None:
            size = cards.size_of(checkpoint, config.quantization)
            if size is not None:
                cards.require_room(config, gpu, size)
            logger.info("%s", "; ".join(cards.described(config, gpu, size)))
        arguments = engine_args(checkpoint, config, device=device, adapters=adapters, gpu=gpu)
        super().__init__(
            lambda: VllmStepper(arguments, adapters, device=device, token_types=checkpoint.token_types, fail=self.fail),
            by_arrival=config.scheduling == "fcfs",
            target_step_s=config.target_step_s,
        )
        # Again: those of a model from the hub are here only now.
        require_weights(checkpoint.name, checkpoint.folder, checkpoint.family)
        if device == "cuda":
            logger.info("vLLM has started: %s", self._stepper.facts())  # type: ignore[attr-defined]


def _require_torchvision(checkpoint: Checkpoint, device: str) -> None:
    """VLLM's code for a model that reads images too imports it; the rest of vLLM does without (tools/lock.sh)."""
    if find_spec("torchvision") is None:
        # PyPI's is a CUDA build, beside which a CPU build of torch breaks.
        build = "+cpu --index-url https://download.pytorch.org/whl/cpu" if device == "cpu" else ""
        cure = f"`pip install --no-deps torchvision=={_TORCHVISION}{build}` where the engine runs"
        what = f"it is a {checkpoint.family.architecture}, for which vLLM, also for texts alone, needs torchvision"
        raise UnsupportedModelError(checkpoint.name, f"{what}, and that is not installed: {cure}")


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
        # A GPU computes the longest pair in milliseconds.
        self.in_parts: bool = device == "cpu" and scheduler.enable_chunked_prefill
        self._token_types = token_types
        self._params: dict[int, Any] = {}  # vllm's PoolingParams, by where the document begins
        self._head_hashes = lru_cache(_KNOWN_HEADS)(self._hash_head)
        self._shards: dict[int, _Known] = {}  # by their object's id
        self._lora_requests: dict[str, Any] = {"": None}  # vllm's LoRARequest; its import is heavy
        for number, (name, adapter) in enumerate(adapters.items(), start=1):
            from vllm.lora.request import LoRARequest

            # The name is a part of the prefix cache's keys: a head that one adapter has computed is no other's.
            self._lora_requests[name] = LoRARequest(name or "adapter", number, str(adapter.folder))
            self._core.add_lora(self._lora_requests[name])  # now: a failure in a step would bring down the engine

    def add(self, pair: int, prompt: list[int], common: Common, priority: int) -> None:
        """Take in a pair; ValueError for one that would bring down the engine. No renderer makes such a pair."""
        known = self._shards.get(id(common))
        if known is None or known[0] is not common:
            known = self._meet(common)
        _, hashes, params, lora = known
        if len(prompt) > self._max_tokens:
            raise ValueError("too long for the model")
        request = self._request(str(pair), prompt, None, params, lora_request=lora, priority=priority)
        request.block_hashes = hashes
        request.prefill_stats = None  # counted for every pair, and read by nobody
        self._core.scheduler.add_request(request)  # the core's own asks the workers for their tasks, for every pair

    def _meet(self, common: Common) -> "_Known":
        """See a shard for the first time; ValueError as in `add`."""
        if common.adapter not in self._lora_requests:
            raise ValueError("for an adapter that this engine does not have")
        if common.highest_token >= self._vocabulary:
            raise ValueError("with a token that the model does not know")
        hashes = self._head_hashes(tuple(common.head), common.adapter)
        params = self._pooling_params(len(common.head) if self._token_types else 0)
        if len(self._shards) >= _KNOWN_SHARDS:
            self._shards.clear()
        known = self._shards[id(common)] = _Known(common, hashes, params, self._lora_requests[common.adapter])
        return known

    def repeated_tokens(self, head_tokens: int) -> int:
        """See `Stepper`: what fills no block of the prefix cache, or all of it where there is no such cache."""
        cached = self._core.request_block_hasher is not None
        return head_tokens % self._core.scheduler.block_size if cached else head_tokens

    def _hash_head(self, head: tuple[int, ...], adapter: str) -> list[bytes]:
        """The keys of a head's blocks in the prefix cache, which are vLLM's own: of all tokens before, and the adapter.

        A pair has no others. Only heads are ever shared, and to hash the documents' blocks, to keep them and to throw
        them out again took more of this thread's time than all the rest.
        """
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

    def step(self, tokens: int, part_tokens: int = 0) -> Iterator[tuple[int, float]]:
        scheduler = self._core.scheduler
        scheduler.max_num_scheduled_tokens = tokens
        scheduler.scheduler_config.long_prefill_token_threshold = part_tokens
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

    def facts(self) -> str:
        """What vLLM has decided at its start, in words: attention, prefix cache, graphs, the limits of a batch."""
        config = self._core.vllm_config
        layers, graphs = config.compilation_config.static_forward_context.values(), config.compilation_config
        attention = {layer.attn_backend.get_name() for layer in layers if hasattr(layer, "attn_backend")}
        sizes = graphs.cudagraph_capture_sizes or []
        blocks, block = config.cache_config.num_gpu_blocks or 0, config.cache_config.block_size
        found = {
            "attention": ", ".join(sorted(attention)) or "in other processes",  # of a tensor-parallel engine
            "prefix cache": f"{blocks * block:,} tokens in blocks of {block}",
            "compiled": graphs.mode.name,
            "CUDA graphs": f"{graphs.cudagraph_mode.name}, {len(sizes)} up to {max(sizes, default=0):,} tokens",
            "a batch": f"{self.max_batch_tokens:,} tokens, {self.max_batch_pairs:,} pairs, {self.depth} at a time",
            "numbers": f"{str(config.model_config.dtype).removeprefix('torch.')}, {config.model_config.quantization}",
        }
        return "; ".join(f"{what}: {said}" for what, said in found.items())

    def close(self) -> None:
        self._core.shutdown()


class _Known(NamedTuple):
    """A shard that was met, and what is vLLM's of it."""

    common: Common
    hashes: list[bytes]
    params: Any
    lora: Any


class _SharedHeads:
    """Between vLLM's scheduler and its prefix cache, of which a pair uses the blocks of its list's head only."""

    def __init__(self, scheduler: Any) -> None:
        from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

        coordinator = scheduler.kv_cache_manager.coordinator
        self._find, self._keep = coordinator.find_longest_cache_hit, coordinator.cache_blocks
        coordinator.find_longest_cache_hit, coordinator.cache_blocks = self.find, self.keep
        pool = coordinator.block_pool
        self._evict, pool._maybe_evict_cached_block = pool._maybe_evict_cached_block, self.evict
        self._block_tokens: int = scheduler.hash_block_size
        # Looked for with every pair, which has none: images, and blocks that a window of attention has left behind.
        scheduler.encoder_cache_manager.free = lambda request: None
        if all(type(one) is FullAttentionManager for one in coordinator.single_type_managers):
            coordinator.remove_skipped_blocks = lambda *_, **__: None
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
    checkpoint: Checkpoint,
    config: EngineConfig,
    *,
    device: str,
    adapters: Mapping[str, Adapter] | None = None,
    gpu: Gpu | None = None,
) -> dict[str, Any]:  # Any: vLLM's arguments have every type
    """VLLM's settings, by the names of its EngineArgs. `gpu` decides what the configuration leaves open."""
    settings = cards.settings_for(config, gpu, cards.size_of(checkpoint, config.quantization))
    arguments: dict[str, Any] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": checkpoint.dtype_on(device),
        "runner": "pooling",
        "hf_overrides": dict(checkpoint.family.hf_overrides),
        "max_model_len": checkpoint.max_pair_tokens,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "max_num_seqs": settings.max_batch_pairs,
        "scheduling_policy": "priority",  # pairs that wait in vLLM keep the order of their turns
        # For each pair vLLM looks whether all of it fits the cache, and then whether this step's part does. Ours are
        # whole, so that one look is enough.
        "scheduler_reserve_full_isl": False,
        "enable_prefix_caching": checkpoint.family.causal,  # the pairs of a list share their head
        "tensor_parallel_size": config.tensor_parallel_size,
        # One GPU: in this process. Several: a process each, with the GPUs that Ray gave the replica.
        "distributed_executor_backend": "uni" if config.tensor_parallel_size == 1 else "mp",
        "quantization": config.quantization,
        "disable_log_stats": True,
    }
    if checkpoint.family.reads_more:
        arguments["limit_mm_per_prompt"] = {"image": 0, "video": 0}  # its other half is not loaded
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
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
        if gpu is not None or config.cuda_graph_tokens is not None:
            # Pooling models have no other graphs than piecewise ones in vLLM.
            graphs = settings.cuda_graph_tokens
            mode = {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": list(graphs)}
            arguments["compilation_config"] = mode if graphs else {"cudagraph_mode": "NONE"}
        # The next batch is prepared while the GPU computes one. vLLM's default for pooling models is off, because a
        # newcomer waits for two batches then; ours are half as long: see `Engine`. The pairs of both count as running.
        at_once = arguments["async_scheduling"] = config.vllm_args.get("async_scheduling", True)
        arguments["max_num_seqs"] = (1 + at_once) * settings.max_batch_pairs
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
