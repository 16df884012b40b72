"""The real vLLM engine, in this process: its logits are the model's, and it survives what callers do to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.engine import metrics
from reranker.engine.pace import BatchSize
from reranker.engine.vllm import VllmEngine, engine_args
from reranker.errors import EngineFailedError
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.types import FloatArray, Shard

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of their own affairs

RENDERER = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction)
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is a force.",
    "",
    "中国的首都是北京。",
    "capital " * 300,
    "<|im_end|> yes",
]


WORKER_DIED: list[Callable[[], None]] = []
"""What vLLM would call of the module's engine; with one worker, in this process, it never does."""


def _start() -> VllmEngine:
    return VllmEngine(find_checkpoint(ModelConfig()), EngineConfig(max_batch_pairs=16), device="cpu")


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    """One engine for the module: starting it takes ten seconds and more."""
    from vllm.v1.executor import UniProcExecutor

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica; two threads on busy cores spin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniProcExecutor, "register_failure_callback", lambda _, callback: WORKER_DIED.append(callback))
        engine = _start()
    yield engine
    engine.shutdown()
    assert not engine.healthy


@pytest.fixture(scope="module")
def reference() -> Callable[[Shard], FloatArray]:
    """logit("yes") - logit("no") by plain Transformers, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    yes, no = AutoTokenizer.from_pretrained(DEMO_MODEL).convert_tokens_to_ids(["yes", "no"])

    def logits(shard: Shard) -> FloatArray:
        values = []
        for i in range(len(shard)):
            document = shard.tokens[shard.offsets[i] : shard.offsets[i + 1]]
            prompt = np.concatenate([shard.head, document, shard.tail])
            with torch.no_grad():
                last = model(torch.tensor(prompt[None], dtype=torch.long)).logits[0, -1]
            values.append((last[yes] - last[no]).item())
        return np.array(values, dtype=np.float32)

    return logits


def _shard(documents: list[str], query: str = QUERY) -> Shard:
    return RENDERER.render(query, documents).prompts


async def test_logits_are_the_models_own(engine: VllmEngine, reference: Callable[[Shard], FloatArray]) -> None:
    """Template, head conversion and pooling in one number: any of them wrong, and this is far off."""
    shard = _shard(DOCUMENTS)
    np.testing.assert_allclose(await engine.score(shard), reference(shard), atol=2e-3)


async def test_scores_do_not_depend_on_the_neighbours(engine: VllmEngine) -> None:
    """More pairs than a batch, several lists at once, prefix cache warm: the same logits in the same places."""
    lists = [_shard(DOCUMENTS * 10, f"{QUERY} {number}") for number in range(4)]
    together = await asyncio.gather(*(engine.score(shard) for shard in lists))
    for shard, logits in zip(lists, together, strict=True):
        alone = await engine.score(shard)
        np.testing.assert_allclose(logits, alone, atol=1e-3)
        np.testing.assert_allclose(logits, np.tile(logits[: len(DOCUMENTS)], 10), atol=1e-3)


async def test_long_pair_is_computed_in_parts_beside_small_lists(
    engine: VllmEngine, reference: Callable[[Shard], FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait for all of it, and no score is another for it."""
    monkeypatch.setattr(engine, "_batch", BatchSize(None, 512))  # tokens, as on a slow machine
    small = _shard(DOCUMENTS)
    alone = await engine.score(small)
    long = [_shard(["capital of hay " * 2_500], f"{QUERY} {number}") for number in range(2)]
    scoring = [asyncio.create_task(engine.score(one)) for one in long]
    while not engine.pending_pairs:  # noqa: ASYNC110 - the engine's thread has no event to wait for
        await asyncio.sleep(0.01)
    np.testing.assert_allclose(await engine.score(small), alone, atol=1e-3)
    assert not any(one.done() for one in scoring)
    for one, logits in zip(long, await asyncio.gather(*scoring), strict=True):
        np.testing.assert_allclose(logits, reference(one), atol=2e-3)
    await engine.check_integrity()
    assert engine.load.pending_tokens == 0


async def test_no_two_heads_share_a_block_unless_it_and_all_before_it_are_equal(
    engine: VllmEngine, reference: Callable[[Shard], FloatArray]
) -> None:
    """Heads that go on where another's document begins, that differ in one token or end on or beside a block's end."""
    block: int = engine._stepper._core.scheduler.block_size  # type: ignore[attr-defined]
    real = _shard(DOCUMENTS[:2])
    long = np.concatenate([real.head, *[real.tokens] * 40])[: 4 * block].astype(np.int32)
    heads = [long[:length] for length in (2 * block, 2 * block - 1, 2 * block + 1, 3 * block, block, block - 1, 3)]
    for place in (0, block - 1, block, 2 * block - 1):  # one other token
        heads.append(long[: 2 * block].copy())
        heads[-1][place] = 7
    documents = [long[block : 3 * block], long[2 * block :], real.tokens[:5]]
    shards = [Shard.of(head, real.tail, documents) for head in heads]
    wanted = [reference(shard) for shard in shards]
    for _ in range(2):  # all at once, in mixed batches; then from the prefix cache
        found = await asyncio.gather(*(engine.score(shard) for shard in shards))
        np.testing.assert_allclose(np.stack(found), np.stack(wanted), atol=2e-3)


async def test_only_heads_are_in_the_prefix_cache(engine: VllmEngine) -> None:
    """Each once, under the keys that vLLM itself gives them; a pair's own blocks are never looked for."""
    core = engine._stepper._core  # type: ignore[attr-defined]
    pool, block = core.scheduler.kv_cache_manager.block_pool, core.scheduler.block_size
    shard = _shard([f"{number} " + "capital " * 100 for number in range(20)], QUERY * 5)
    await engine.score(shard)
    assert core.scheduler.reset_prefix_cache()
    before = engine._stepper.stats()[metrics.VLLM_HIT_TOKENS]
    await engine.score(shard)
    whole = len(shard.head) // block * block
    assert len(pool.cached_block_hash_to_block) == whole // block > 1
    assert engine._stepper.stats()[metrics.VLLM_HIT_TOKENS] - before == 19 * whole
    assert engine._stepper.repeated_tokens(len(shard.head)) == len(shard.head) - whole


async def test_empty_shard_is_answered(engine: VllmEngine) -> None:
    assert len(await engine.score(_shard([]))) == 0


async def test_cancelled_shard_leaves_the_engine(engine: VllmEngine) -> None:
    """A client that hung up must not keep others waiting for its thousand documents."""
    task = asyncio.create_task(engine.score(_shard(["capital " * 200] * 2_000)))
    while not engine.pending_pairs:  # noqa: ASYNC110 - the engine's thread has no event to wait for
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    small = await engine.score(_shard(DOCUMENTS[:1]))
    assert np.isfinite(small).all()
    assert engine.pending_pairs == 0
    await engine.check_integrity()


async def test_small_list_overtakes_a_big_one(engine: VllmEngine) -> None:
    """By order of completion: it does not wait for the thousands of pairs before it."""
    big = asyncio.create_task(engine.score(_shard(["capital " * 200] * 2_000)))
    while not engine.pending_pairs:  # noqa: ASYNC110 - the engine's thread has no event to wait for
        await asyncio.sleep(0.01)
    assert np.isfinite(await engine.score(_shard(DOCUMENTS))).all()
    assert not big.done()
    big.cancel()
    await asyncio.gather(big, return_exceptions=True)
    await engine.check_integrity()
    assert engine.load.pending_tokens == 0
    assert (engine.load.tokens_per_s or 0) > 0


async def test_time_up_gives_what_is_scored_and_takes_the_rest_out(engine: VllmEngine) -> None:
    documents = [f"{number} " + "capital " * 200 for number in range(3_000)]
    in_time = await engine.score_within(_shard(documents), 1.0, 2.0)
    assert 0 < in_time.scored.sum() < len(documents)
    some = np.flatnonzero(in_time.scored)[-3:]
    again = await engine.score(_shard([documents[i] for i in some]))
    np.testing.assert_allclose(in_time.logits[some], again, atol=1e-3)
    await engine.check_integrity()
    assert engine.load.pending_tokens == 0


@pytest.mark.parametrize(("tokens", "length"), [(0, 9_000), (10_000_000, 1)], ids=["too long", "unknown token"])
async def test_prompt_that_would_bring_down_the_engine_fails_alone(
    engine: VllmEngine, tokens: int, length: int
) -> None:
    good = _shard(DOCUMENTS[:2])
    document = np.full(length, tokens, dtype=np.int32)
    bad = Shard(good.head, good.tail, document, np.array([0, length], dtype=np.int32))
    in_its_head = Shard(np.append(good.head, document[:1]), good.tail, good.tokens, good.offsets)
    for one in (bad, in_its_head) if tokens else (bad,):
        with pytest.raises(RuntimeError, match="refused a prompt"):
            await engine.score(one)
    assert np.isfinite(await engine.score(good)).all()
    await engine.check_integrity()


def test_gpu_has_a_second_batch_while_it_computes_one() -> None:
    """Off for pooling models where one does not say so; and both batches' pairs count as running."""
    arguments = engine_args(find_checkpoint(ModelConfig()), EngineConfig(max_batch_pairs=100), device="cuda")
    assert (arguments["async_scheduling"], arguments["max_num_seqs"]) == (True, 200)
    off = EngineConfig(max_batch_pairs=100, vllm_args={"async_scheduling": False})
    arguments = engine_args(find_checkpoint(ModelConfig()), off, device="cuda")
    assert (arguments["async_scheduling"], arguments["max_num_seqs"]) == (False, 100)


def test_engine_says_what_vllm_decided_at_its_start(engine: VllmEngine) -> None:
    """In words of vLLM's: on a first start on a card they are what one wants to know."""
    said = dict(one.split(": ", 1) for one in engine._stepper.facts().split("; "))  # type: ignore[attr-defined]
    assert said["attention"] == "CPU_ATTN"
    assert said["prefix cache"].endswith(" tokens in blocks of 32")
    assert int(said["prefix cache"].split()[0].replace(",", "")) > 10_000
    assert said["CUDA graphs"] == "NONE, 0 up to 0 tokens"
    assert said["a batch"] == "16,384 tokens, 16 pairs, 1 at a time"
    assert said["numbers"] == "float32, None"


async def test_failed_engine_fails_its_shards_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may wait for an engine that is gone; the module's engine lives on."""
    engine = _start()

    def broken_step() -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._stepper, "step", broken_step)
    waiting = [asyncio.create_task(engine.score(_shard(DOCUMENTS))) for _ in range(3)]
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, EngineFailedError)
    assert not engine.healthy
    with pytest.raises(EngineFailedError):
        await engine.score(_shard(DOCUMENTS))


async def test_engine_whose_worker_dies_is_not_healthy_even_if_nothing_is_asked_of_it(engine: VllmEngine) -> None:
    """The last test: no other engine can be started in this process after it."""
    WORKER_DIED.pop()()
    while engine.healthy:  # noqa: ASYNC110 - the engine's thread has no event to wait for
        await asyncio.sleep(0.01)


def test_model_that_cannot_be_loaded_fails_the_start() -> None:
    """The replica's constructor must raise, so that Serve sees it."""
    config = EngineConfig(vllm_args={"max_num_batched_tokens": -1})
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        VllmEngine(find_checkpoint(ModelConfig()), config, device="cpu")
