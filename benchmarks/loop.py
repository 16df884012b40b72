"""How busy the engine's loop would keep a GPU. An emulation, on a machine without one: no figure of a GPU's.

vLLM's own EngineCore and scheduler run with the configuration of a CUDA card, and our loop drives them as in a replica.
The executor computes nothing; a batch takes a fixed time and one per token, by the data sheet: 55 % of the card's peak
in bf16, its weights read once, 2 ms. What is real is all that Python does between two batches. Missing are vLLM's own
preparation of a batch's inputs (20 to 30 µs a pair) and the launches of kernels.

    make bench-loop    (BENCH=--quick: the one cell of which much is asked, in two minutes)

"Before" is what the loop once was: every block hashed, one batch at a time, its size by the pace.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
sys.modules.setdefault("vllm._C_stable_libtorch", ModuleType("vllm._C_stable_libtorch"))  # vLLM's CPU build has none

import numpy as np
import torch
import vllm.config.vllm
import vllm.model_executor.model_loader  # now: on CUDA it wants compiled parts, and FP8 asks it for its settings
import vllm.platforms
import vllm.v1.engine.core
from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

from benchmarks.models import QWEN_VOCABULARY, SHAPES, Shape
from benchmarks.results import RESULTS, SCRATCH, describe, parser, percentiles, read, say, short, write
from benchmarks.serving.systems import configure
from reranker.config import EngineConfig, ModelConfig
from reranker.engine.cards import CARDS, FP8_CAPABILITY
from reranker.engine.job import Common
from reranker.engine.loop import Engine
from reranker.engine.pace import Pace
from reranker.engine.vllm import VllmStepper, engine_args, prepare_interpreter
from reranker.errors import EngineFailedError
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint
from reranker.types import Shard

# Operations a second in bf16, dense, and bytes a second of its memory.
SPEEDS = {"L4": (121e12, 0.30e12), "A100": (312e12, 2.04e12), "H100": (989e12, 3.35e12)}
MODELS = ("0.6B", "4B", "8B")


class Gpu(CudaPlatformBase):  # type: ignore[misc]  # vllm is untyped here
    """The card that vLLM believes in. It computes one batch after the other."""

    card, fixed_s, token_s, kv_bytes, free_s, computed_s = CARDS["H100"], 0.0, 0.0, 0, 0.0, 0.0

    @classmethod
    def become(cls, name: str, shape: Shape, quantization: str | None) -> None:
        cls.card, (peak, bytes_per_s) = CARDS[name], SPEEDS[name]
        weights = shape.flops_per_token * (0.5 if quantization else 1.0)  # in bytes: two operations for each parameter
        embedding = 2 * QWEN_VOCABULARY * shape.hidden
        cls.kv_bytes = int(cls.card.memory_gib * 2**30 * 0.9 - weights - embedding)
        if quantization and cls.card.capability >= FP8_CAPABILITY:
            peak *= 2
        cls.fixed_s, cls.token_s = 0.002 + weights / bytes_per_s, shape.flops_per_token / (0.55 * peak)

    @classmethod
    def busy_s(cls) -> float:
        """Until now."""
        return cls.computed_s - max(0.0, cls.free_s - time.perf_counter())

    get_device_capability = classmethod(lambda cls, device_id=0: DeviceCapability(*cls.card.capability))
    get_device_name = classmethod(lambda cls, device_id=0: cls.card.name)
    get_device_total_memory = classmethod(lambda cls, device_id=0: int(cls.card.memory_gib * 2**30))
    device_count = num_compute_units = classmethod(lambda cls, device_id=0: 1)
    is_integrated_gpu = classmethod(lambda cls, device_id=0: False)


vllm.platforms._current_platform = Gpu()
vllm.config.vllm.HAS_TRITON = True
vllm.v1.engine.core.cleanup_dist_env_and_memory = lambda: None


LOGIT = torch.zeros(1)


class Batch(NamedTuple):
    output: Any
    done_s: float

    def result(self) -> Any:
        time.sleep(max(0.0, self.done_s - time.perf_counter()))
        return self.output


class TimeOnly(Executor):  # type: ignore[misc]
    """Takes the time of a card, and gives every pair the logit 0."""

    _init_executor = check_health = shutdown = lambda self, *_: None
    supports_async_scheduling = classmethod(lambda cls: True)

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> list[Any]:
        kv = FullAttentionSpec(self.cache_config.block_size, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)
        layers = self.vllm_config.model_config.get_num_layers(self.parallel_config)
        answers: dict[Any, Any] = {
            "get_kv_cache_spec": {f"model.layers.{i}.self_attn.attn": kv for i in range(layers)},
            "determine_available_memory": Gpu.kv_bytes,
            "get_supported_kv_cache_layouts": ["LBNHC"],
            "get_supported_tasks": ("classify",),
        }
        return [] if method == "compile_or_warm_up_model" else [answers.get(method)]

    def execute_model(self, scheduled: Any, non_block: bool = False) -> Batch:
        sizes, old, lengths = scheduled.num_scheduled_tokens, scheduled.scheduled_cached_reqs, self.__dict__
        known = dict(zip(old.req_ids, old.num_computed_tokens, strict=True))
        for new in scheduled.scheduled_new_reqs:
            known[new.req_id], lengths[new.req_id] = new.num_computed_tokens, len(new.prompt_token_ids)
        outputs = [LOGIT if known[pair] + size >= lengths[pair] else None for pair, size in sizes.items()]
        for pair in scheduled.finished_req_ids:
            lengths.pop(pair, None)
        took_s = Gpu.fixed_s + Gpu.token_s * scheduled.total_num_scheduled_tokens if sizes else 0.0
        Gpu.free_s, Gpu.computed_s = max(time.perf_counter(), Gpu.free_s) + took_s, Gpu.computed_s + took_s
        places = {pair: place for place, pair in enumerate(sizes)}
        return Batch(ModelRunnerOutput(list(sizes), places, pooler_output=outputs), Gpu.free_s)


class Before(VllmStepper):
    """Hashes and keeps the blocks of every pair."""

    def add(self, pair: int, prompt: list[int], common: Common, priority: int) -> None:
        hasher, params = self._core.request_block_hasher, self._pooling_params(0)
        self._core.add_request(self._request(str(pair), prompt, None, params, priority=priority, block_hasher=hasher))

    def repeated_tokens(self, head_tokens: int) -> int:
        return 0


class ByPace(Pace):
    """Batches of what the pace so far computes in 50 ms."""

    most = 0
    tokens = next = property(lambda self: min(self.most, max(1, int((self.tokens_per_s or 2e4) * 0.05))))


@contextlib.contextmanager
def emulated(card: str, model: str, *, before: bool = False, **settings: Any) -> Iterator[Engine]:
    """An engine as a replica has it, on an emulated card."""
    shape, quantization = SHAPES[model.lower()], settings.get("quantization")
    Gpu.become(card, shape, quantization)
    folder = SCRATCH / "loop" / model
    shutil.copytree(DEMO_MODEL, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text()) | shape.config
    config |= {"dtype": "bfloat16", "max_position_embeddings": 40_960}
    (folder / "config.json").write_text(json.dumps(config))
    ours = {"distributed_executor_backend": TimeOnly} | ({"async_scheduling": False} if before else {})
    if before:
        settings = {"max_batch_pairs": 256} | settings
    limits = EngineConfig.model_validate(settings | {"vllm_args": ours | settings.get("vllm_args", {})})
    arguments = engine_args(find_checkpoint(ModelConfig(name=str(folder))), limits, device="cuda", gpu=CARDS[card])
    made = Before if before else VllmStepper
    make = lambda: made(arguments, {}, device="cuda", token_types=False)  # noqa: E731 - one line
    prepare_interpreter()
    engine = Engine(make, target_step_s=limits.target_step_s)
    if before:
        sys.setswitchinterval(0.005)
        gc.set_threshold(700, 10, 10)
        engine._batch = by_pace = ByPace()  # type: ignore[assignment]
        by_pace.most = engine._stepper.max_batch_tokens
        coordinator = engine._stepper._core.scheduler.kv_cache_manager.coordinator  # type: ignore[attr-defined]
        # Ours, over the class's own.
        del coordinator.cache_blocks, coordinator.find_longest_cache_hit, coordinator.remove_skipped_blocks
        del engine._stepper._core.scheduler.encoder_cache_manager.free  # type: ignore[attr-defined]
        del coordinator.block_pool._maybe_evict_cached_block
    yield engine
    engine.shutdown()


async def measure(engine: Engine, document_tokens: int, documents: int, seconds: float) -> dict[str, float]:
    """Keep the engine full with lists of one size; beside those of 1,000 also send one of 10 after the other."""
    waits: list[float] = []

    async def send(size: int, waits: list[float] | None = None) -> None:
        numbers, tail = np.random.default_rng(), np.arange(13, dtype=np.int32)
        texts = numbers.integers(0, 150_000, size * document_tokens, np.int32)  # made once: an ingress is elsewhere
        offsets = np.arange(size + 1, dtype=np.int32) * document_tokens
        while True:
            head, began_s = numbers.integers(0, 150_000, 100, np.int32), time.perf_counter()
            await engine.score(Shard(head, tail, texts, offsets))
            if waits is not None:
                waits.append(time.perf_counter() - began_s)
                await asyncio.sleep(0.05)

    async def figures() -> tuple[float, ...]:
        """At the end of a step, so that there are whole ones between two."""
        done = engine._done_pairs
        while engine._done_pairs == done:
            if not engine.healthy:
                raise EngineFailedError
            await asyncio.sleep(0.0005)
        clock = time.pthread_getcpuclockid(engine._thread.ident or 0)
        return time.perf_counter(), Gpu.busy_s(), time.clock_gettime(clock), engine._done_pairs, engine._steps

    tasks = [asyncio.create_task(send(documents)) for _ in range(4_000 // documents)]
    await asyncio.sleep(seconds / 2)  # until it knows what a step costs
    tasks += [asyncio.create_task(send(10, waits))] if documents > 10 else []
    first = await figures()
    await asyncio.sleep(seconds)
    wall_s, busy_s, host_s, pairs, steps = np.subtract(await figures(), first)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = {"pairs_per_s": pairs / wall_s, "busy": busy_s / wall_s, "host_us_per_pair": host_s / max(1, pairs) * 1e6}
    found |= {"step_ms": wall_s / max(1, steps) * 1e3}
    return found | {f"small_list_{name}_s": s for name, s in percentiles(waits).items() if name in ("p50", "max")}


def rows(card: str, model: str, cells: list[tuple[int, int]], **how: Any) -> list[dict[str, Any]]:
    """A row for each (document tokens, documents)."""
    found = []
    with emulated(card, model, **how) as engine:
        seconds = max(3.0, 5 * (Gpu.fixed_s + Gpu.token_s * engine._stepper.max_batch_tokens))
        for cell in cells:
            figures = asyncio.run(measure(engine, *cell, seconds))
            figures = {name: short(value, 3) for name, value in figures.items()}
            found.append({"card": card, "model": model, "document_tokens": cell[0], "documents": cell[1]} | figures)
            say(found[-1])
    return found


CELL = ("card", "model", "document_tokens", "documents")
ASKED = ("H100", "0.6B", 200, 1_000)


def compared(rounds: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of the cell of which much is asked, and how it came to be: beside what was before, in turns."""
    card, model, *_ = ASKED
    found = [rows(card, model, [ASKED[2:]], before=before)[0] for before in (True, False) * rounds]
    before, now = (
        {name: np.median([one[name] for one in found[i::2]]) for name in found[0] if name not in CELL} for i in (0, 1)
    )
    figures = now | {f"{name}_before": before[name] for name in ("pairs_per_s", "busy", "host_us_per_pair")}
    row = dict(zip(CELL, ASKED, strict=True)) | {name: short(one, 3) for name, one in figures.items()}
    busy, host = now["busy"], now["host_us_per_pair"] / before["host_us_per_pair"]
    held = {f"busy {busy:.3f} >= 0.90": bool(busy >= 0.90), f"host {host:.3f} <= 0.45": bool(host <= 0.45)}
    return row, {"run": describe(), "held": held, "before_and_now_in_turns": found}


def main() -> int:
    options = parser(__doc__)
    options.add_argument(
        "--quick", action="store_true", help="only the cell of which much is asked; its row is made anew"
    )
    options.add_argument("--out", type=Path, default=RESULTS / "loop.json", help="(benchmarks/results/loop.json)")
    options.add_argument("--engine", nargs="*", metavar="KEY=VALUE", help="only that cell, once, with these settings")
    options.add_argument("--card", choices=SPEEDS, default=ASKED[0], help="with --engine: another card (%(default)s)")
    arguments = options.parse_args()
    if arguments.engine is not None:
        tree: dict[str, Any] = {"engine": {}}
        configure(tree, arguments.engine)
        found = rows(arguments.card, ASKED[1], [ASKED[2:]], **tree["engine"])
        write(arguments.out, {"emulation": True, "run": describe(), "rows": found})
        return 0
    content: dict[str, Any] = read(arguments.out) if arguments.quick else {}
    asked, how = compared()
    say(how["held"])
    others = [one for one in content.get("rows", []) if tuple(one[name] for name in CELL) != ASKED]
    content |= {"emulation": True, "rows": [asked, *others], "asked": how}
    if not arguments.quick:
        content |= {"run": describe(), "held": {}, "batch_sizes": []}
        for card, model in itertools.product(SPEEDS, MODELS):
            cells = rows(card, model, list(itertools.product((40, 150, 500), (10, 1_000))))
            sizes = (None, 0.001)
            full, least = (rows(card, model, [(150, 1_000)], target_step_s=one)[0] for one in sizes)
            content["rows"] += cells
            content["batch_sizes"] += [
                one | {"target_step_s": size} for one, size in zip((full, least), sizes, strict=True)
            ]
            share = min(cells[3]["pairs_per_s"], least["pairs_per_s"]) / full["pairs_per_s"]
            content["held"][f"{card}, {model}: {share:.2f} of the largest batch's pairs/s"] = share >= 0.95
            write(arguments.out, content)  # now: whoever interrupts has what there is
        say(content["held"])
    write(arguments.out, content)
    return 0 if all({**content.get("held", {}), **how["held"]}.values()) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what vLLM leaves for the interpreter's end talks a lot
