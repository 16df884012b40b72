"""The engine around the device: the right score for each pair whatever else goes on, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from reranker.engine.loop import Engine
from reranker.engine.pace import BatchSize
from reranker.errors import EngineFailedError
from reranker.types import EngineScores, Shard
from tests.counted import Counted, gauge
from tests.unit.steppers import REFUSED_TOKEN, DeepStepper, GatedStepper, PartsStepper, expected, shard, until


class Bench:
    """An engine and its device."""

    def __init__(self, stepper: GatedStepper | None = None, *, by_arrival: bool = False) -> None:
        self.stepper = stepper or GatedStepper()
        self.engine = Engine(lambda: self.stepper, by_arrival=by_arrival)

    async def in_a_step(self, steps: int = 1) -> None:
        """Wait until the device has begun so many steps; it stands still there."""
        await until(lambda: self.stepper.steps_begun >= steps)

    async def send(self, one: Shard, weight: float = 1.0) -> asyncio.Task[EngineScores]:
        """Ask for a shard's scores. The first is in the device then; the engine hears of later ones after that step."""
        task = asyncio.create_task(self.engine.score_within(one, weight, None))
        await asyncio.sleep(0)
        await self.in_a_step()
        return task

    async def require_idle(self) -> None:
        await self.engine.check_integrity()
        assert (self.engine.pending_pairs, self.engine.load.pending_tokens) == (0, 0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """An engine whose device waits to be let."""
    bench = Bench()
    yield bench
    bench.stepper.let()
    bench.engine.shutdown()
    assert not bench.engine.healthy
    assert bench.stepper.closed


async def test_scores_say_how_long_they_waited_and_how_long_they_took(bench: Bench) -> None:
    """The second shard waits for the device, the first does not; and one that is given up says so too."""
    first = await bench.send(shard(10, 4))  # as many as one step takes
    second = await bench.send(shard(11, 1))
    began_s = time.monotonic()
    await asyncio.sleep(0.05)
    given_up = await bench.engine.score_within(shard(12, 1), 1.0, 0.02)
    held_s = time.monotonic() - began_s
    bench.stepper.let()
    scores = await asyncio.gather(first, second)
    assert scores[0].engine_s >= held_s > scores[0].queue_s
    assert scores[1].queue_s >= held_s > scores[1].engine_s
    assert given_up.queue_s >= 0.02
    assert given_up.engine_s == 0


async def test_engine_says_what_it_has_done_and_has_in_it_and_metrics_follow(bench: Bench) -> None:
    """Counted once, however often it is asked."""
    counted = Counted()
    sent = [await bench.send(shard(10, 4)), await bench.send(shard(11, 3))]
    bench.stepper.let(1)
    await bench.in_a_step(2)
    for _ in range(2):
        bench.engine.count()
    assert (counted("reranker_engine_steps_total"), counted("reranker_engine_pairs_total")) == (2, 4)
    assert gauge("reranker_engine_queued_pairs") == 3
    assert gauge("reranker_engine_queued_tokens") == bench.engine.load.pending_tokens > 0
    bench.stepper.let()
    await asyncio.gather(*sent)
    await bench.require_idle()
    bench.engine.count()
    assert counted("reranker_engine_pairs_total") == 7
    assert counted("reranker_engine_tokens_total") == shard(10, 4).work_tokens + shard(11, 3).work_tokens
    assert counted("reranker_engine_busy_seconds_total") > 0
    assert gauge("reranker_engine_queued_tokens") == 0


async def test_every_pair_has_its_own_score_in_any_company(bench: Bench) -> None:
    """Shards of several sizes at once, batches that mix them: what the device says of a pair reaches its place."""
    bench.stepper.let()
    shards = [shard(name, pairs) for name, pairs in enumerate((1, 2, 3, 5, 8, 13, 40), start=10)]
    together = await asyncio.gather(*(bench.engine.score(one) for one in shards))
    for one, logits in zip(shards, together, strict=True):
        assert logits.tolist() == expected(one)
        assert logits.dtype == np.float32
        assert (await bench.engine.score(one)).tolist() == logits.tolist()
    await bench.require_idle()


async def test_load_is_the_work_that_is_left(bench: Bench) -> None:
    """In the same tokens as the sender counts, or its books would never agree with the replica's."""
    assert bench.engine.load.tokens_per_s is None
    shards = [shard(0, 1), shard(1, 8), shard(2, 3)]
    tasks = [await bench.send(one) for one in shards]
    assert bench.engine.load.pending_tokens == shards[0].work_tokens  # of the others it hears after its step
    bench.stepper.let(1)
    await bench.in_a_step(2)
    assert bench.engine.load.pending_tokens == shards[1].work_tokens + shards[2].work_tokens
    bench.stepper.let()
    await asyncio.gather(*tasks)
    await bench.require_idle()
    assert (bench.engine.load.tokens_per_s or 0) > 0


async def test_empty_shard_is_answered(bench: Bench) -> None:
    assert len(await bench.engine.score(shard(1, 0))) == 0
    await bench.require_idle()


async def test_cancelled_shard_leaves_the_engine(bench: Bench) -> None:
    """What the device has not begun is never computed: nobody waits for it any more."""
    task = await bench.send(shard(1, 1_000))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.stepper.let()
    assert (await bench.engine.score(shard(2, 1))).tolist() == expected(shard(2, 1))
    await bench.require_idle()
    assert bench.stepper.served == [1] * 4 + [2]  # the step that was under way, and no more


async def test_pairs_the_device_had_not_computed_are_taken_back_from_it(bench: Bench) -> None:
    """A device may hold what it was given for several steps."""
    task = await bench.send(shard(1, 5))
    bench.stepper.max_batch_tokens = 10  # the first pair alone: 7 tokens, as the head counts with it
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.stepper.let()
    await bench.engine.score(shard(2, 1))
    await bench.require_idle()
    assert bench.stepper.aborted


async def test_shard_cancelled_before_the_engine_saw_it_is_never_taken_in(bench: Bench) -> None:
    busy, task = await bench.send(shard(1, 1)), await bench.send(shard(2, 3))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.stepper.let()
    await busy
    await bench.require_idle()
    assert bench.stepper.served == [1]


async def test_time_up_gives_what_is_scored_and_marks_the_rest(bench: Bench) -> None:
    one = shard(1, 10)
    bench.stepper.let(2)
    task = asyncio.create_task(bench.engine.score_within(one, 1.0, 0.02))
    await bench.in_a_step(3)
    scores = await task
    assert scores.scored.tolist() == [True] * 8 + [False] * 2
    assert scores.logits[:8].tolist() == expected(one)[:8]
    bench.stepper.let()
    await bench.engine.score(shard(2, 1))
    await bench.require_idle()
    assert scores.scored.sum() == 8  # what was computed later is not written into an answer that is given


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
async def test_shard_without_time_is_not_begun(bench: Bench, timeout_s: float) -> None:
    scores = await bench.engine.score_within(shard(1, 3), 1.0, timeout_s)
    assert not scores.scored.any()
    await bench.require_idle()
    assert bench.stepper.steps_begun == 0


async def _order(bench: Bench, *sent: tuple[int, int, float]) -> list[int]:
    """Which list each pair was of, in the order of computing; sent are lists (name, pairs, weight), one by one."""
    tasks = [await bench.send(shard(name, pairs), weight) for name, pairs, weight in sent]
    bench.stepper.let()
    await asyncio.gather(*tasks)
    await bench.require_idle()
    return bench.stepper.served


async def test_small_list_overtakes_a_big_one(bench: Bench) -> None:
    """It waits for the step under way and for its share, not for the thousand pairs before it."""
    served = await _order(bench, (1, 1_000, 1.0), (2, 3, 1.0))
    assert len(served) == 1_003
    assert max(place for place, name in enumerate(served) if name == 2) < 20


async def test_weight_is_the_share_of_the_device(bench: Bench) -> None:
    served = await _order(bench, (1, 90, 1.0), (2, 80, 8.0))
    last = max(place for place, name in enumerate(served) if name == 2)
    assert served[: last + 1].count(1) <= 80 / 8 + 4 + 4  # its share, the step under way, and a batch


async def test_first_come_first_served_is_there_to_compare_with() -> None:
    bench = Bench(by_arrival=True)
    try:
        assert await _order(bench, (1, 50, 1.0), (2, 3, 8.0)) == [1] * 50 + [2] * 3
    finally:
        bench.engine.shutdown()


async def test_failed_device_fails_every_shard_at_once_and_for_good(bench: Bench) -> None:
    """Nobody may wait for an engine that is gone."""
    waiting = [await bench.send(shard(name, 10)) for name in (1, 2, 3)]  # the last two while it is in its last step
    gone = await bench.send(shard(4, 1))
    gone.cancel()
    bench.stepper.fail = True
    bench.stepper.let()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, EngineFailedError)
    assert not bench.engine.healthy
    with pytest.raises(EngineFailedError):
        await bench.engine.score(shard(1, 1))
    await bench.engine.check_integrity()  # there is nothing to check, and nobody to wait for


async def test_shard_that_comes_while_the_device_fails_is_not_left_waiting(bench: Bench) -> None:
    """Healthy when it was asked, and gone when it looked for what it has to do."""

    class FailsMeanwhile:
        def put(self, command: Callable[[], None]) -> None:
            bench.engine._healthy = False

    commands = bench.engine._commands
    bench.engine._commands = FailsMeanwhile()  # type: ignore[assignment]
    with pytest.raises(EngineFailedError):
        await bench.engine.score(shard(1, 1))
    bench.engine._commands = commands


async def test_score_of_a_pair_that_was_taken_back_is_dropped(bench: Bench) -> None:
    """A device may be done with it already when it is told to forget it."""
    bench.stepper.forgets = False
    bad = shard(1, 6)
    bad.tokens[2 * 3] = REFUSED_TOKEN  # in the third pair: the device has two
    tasks = [await bench.send(one) for one in (shard(3, 1), bad, shard(2, 6))]
    bench.stepper.let()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[2].result().logits.tolist() == expected(shard(2, 6))
    await bench.require_idle()
    assert 1 in bench.stepper.served


async def test_refused_prompt_fails_its_shard_alone(bench: Bench) -> None:
    bad = shard(1, 6)
    bad.tokens[4 * 3] = REFUSED_TOKEN  # in the fifth pair: the four before it are in the device already
    good = shard(2, 6)
    tasks = [await bench.send(one) for one in (bad, good)]
    bench.stepper.let()
    refused, scores = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(refused, RuntimeError)
    assert "refused a prompt (ValueError). This is a bug." in str(refused)
    assert isinstance(scores, EngineScores)
    assert scores.logits.tolist() == expected(good)
    assert bench.engine.healthy
    await bench.require_idle()


async def test_shutdown_fails_what_waits(bench: Bench) -> None:
    task = await bench.send(shard(1, 100))
    shutting_down = asyncio.create_task(asyncio.to_thread(bench.engine.shutdown))
    await until(lambda: not bench.engine._commands.empty())
    bench.stepper.let(1)
    await shutting_down
    with pytest.raises(EngineFailedError):
        await task
    assert bench.stepper.closed
    assert not bench.engine.healthy


def test_device_that_cannot_be_made_fails_the_start() -> None:
    def fail() -> GatedStepper:
        raise MemoryError("no room for the model")

    with pytest.raises(MemoryError, match="no room"):
        Engine(fail)


def test_caller_whose_event_loop_has_ended_does_not_take_the_engine_with_it(bench: Bench) -> None:
    """As when somebody stops `reranker score`: its pair's score comes when nobody is there to be told."""

    async def leave_in_the_middle() -> None:
        task = asyncio.create_task(bench.engine.score(shard(1, 1)))
        await bench.in_a_step()
        task.cancel()

    asyncio.run(leave_in_the_middle())
    bench.stepper.let()

    async def come_back() -> None:
        assert (await bench.engine.score(shard(2, 1))).tolist() == expected(shard(2, 1))
        await bench.require_idle()

    asyncio.run(come_back())


async def test_broken_book_is_noticed(bench: Bench) -> None:
    bench.engine._pending_tokens += 5
    with pytest.raises(RuntimeError, match=r"\(0, 0, 5\) counted, \(0, 0, 0\) in shards. This is a bug"):
        await bench.engine.check_integrity()


@pytest.mark.parametrize(("budget", "taken"), [(7, 1), (16, 1), (17, 2), (23, 2), (24, 3)])
async def test_step_has_whole_pairs_only_and_one_where_it_has_room_for_none(budget: int, taken: int) -> None:
    """Pairs of 10 (with the head), 7 and 7 tokens: whoever comes waits for the step under way, and for no pair more."""
    stepper = GatedStepper(max_batch_tokens=budget)
    engine = Engine(lambda: stepper)
    scoring = asyncio.create_task(engine.score_within(shard(10, 3, document_tokens=6), 1.0, None))
    await until(lambda: stepper.steps_begun == 1)
    assert stepper.added == taken
    stepper.let()
    await scoring
    engine.shutdown()


@pytest.mark.parametrize(("budget", "taken"), [(17, 1), (19, 2), (27, 2), (28, 3)])
async def test_step_has_room_for_what_every_pair_computes_of_its_head(budget: int, taken: int) -> None:
    """Two of a head's three tokens fill no block of the cache: pairs of 10, 9, 9 tokens. The books say 10, 7, 7."""
    stepper = GatedStepper(max_batch_tokens=budget)
    stepper.repeated = 2
    engine = Engine(lambda: stepper)
    one = shard(10, 3, document_tokens=6)
    scoring = asyncio.create_task(engine.score_within(one, 1.0, None))
    await until(lambda: stepper.steps_begun == 1)
    assert stepper.added == taken
    assert engine.load.pending_tokens == one.work_tokens
    stepper.let()
    await scoring
    await engine.check_integrity()
    assert engine.load.pending_tokens == 0
    engine.shutdown()


@pytest.fixture
def deep() -> Iterator[Bench]:
    """An engine whose device has two batches of four pairs under way."""
    bench = Bench(DeepStepper())
    yield bench
    bench.stepper.let()
    bench.engine.shutdown()


async def test_device_that_holds_two_batches_has_the_next_while_it_computes_one(deep: Bench) -> None:
    shards = [shard(name, pairs) for name, pairs in enumerate((1, 2, 3, 5, 8, 13, 40), start=10)]
    tasks = [await deep.send(one) for one in shards]
    deep.stepper.let()
    for one, scores in zip(shards, await asyncio.gather(*tasks), strict=True):
        assert scores.logits.tolist() == expected(one)
    assert deep.stepper.most_under_way == 2  # type: ignore[attr-defined]
    await deep.require_idle()
    assert (await deep.engine.score(shards[2])).tolist() == expected(shards[2])  # and after it was idle
    await deep.require_idle()


async def test_small_list_waits_for_the_batches_under_way_and_no_more(deep: Bench) -> None:
    served = await _order(deep, (1, 1_000, 1.0), (2, 3, 1.0))
    assert served[:8] == [1] * 8
    assert served[8:12].count(2) >= 2  # its share of the first batch that was not begun when it came
    assert served[12:16].count(2) + served[8:12].count(2) == 3


async def test_cancelled_list_is_out_of_a_deep_device_within_a_step(deep: Bench) -> None:
    """What was begun is computed; of what was not, nothing."""
    task = await deep.send(shard(1, 1_000))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    deep.stepper.let()
    assert (await deep.engine.score(shard(2, 5))).tolist() == expected(shard(2, 5))
    await deep.require_idle()
    assert deep.stepper.served == [1] * 8 + [2] * 5


class Trials(BatchSize):
    """Sizes that a test wants, the next after each step."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(0.05, 1_000)
        self._sizes = sizes
        self.tokens = self.next = self.in_parts = sizes[0]

    def record_in_parts(self, tokens: int, took_s: float) -> None:
        """It stays."""

    def record(self, tokens: int, took_s: float) -> None:
        self._recorded += 1
        self.next = self._sizes[min(self._recorded, len(self._sizes) - 1)]


@pytest.mark.parametrize(
    ("stepper", "taken"), [(GatedStepper, [2, 6, 2, 1, 2, 2]), (DeepStepper, [2, 2, 6, 2, 1, 2])], ids=["one", "two"]
)
async def test_batch_on_trial_has_its_own_size_whatever_is_under_way(
    stepper: type[GatedStepper], taken: list[int]
) -> None:
    """Larger than the others too: or a device whose batches are small could not tell what a step costs."""
    device = stepper(max_batch_tokens=1_000, max_batch_pairs=100)
    engine = Engine(lambda: device)
    engine._batch = Trials(11, 27, 11, 7, 11)
    device.let()
    # Pairs of 4 tokens, the first with its head of 3.
    await engine.score(shard(10, 30))
    assert device.begun[:6] == taken
    await engine.check_integrity()
    engine.shutdown()


@pytest.fixture
def parts() -> Iterator[Bench]:
    """An engine with batches of 100 tokens: a pair of more than 400 is computed in parts."""
    bench = Bench(PartsStepper())
    bench.engine._batch = Trials(100)
    yield bench
    bench.stepper.let()
    bench.engine.shutdown()


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "more-long-ones-wait"])
async def test_lists_pass_by_a_pair_that_is_computed_in_parts(parts: Bench, others: int) -> None:
    """In the half of each step that it leaves them, also where the next in turn is another such pair."""
    long = [shard(name, 1, document_tokens=2_000) for name in range(10, 11 + others)]
    tasks = [await parts.send(one) for one in long]
    small = [shard(name, pairs, document_tokens=tokens) for name, pairs, tokens in ((20, 3, 10), (21, 4, 80))]
    tasks += [await parts.send(one) for one in small]
    parts.stepper.let()
    for one, scores in zip([*long, *small], await asyncio.gather(*tasks), strict=True):
        assert scores.logits.tolist() == expected(one)
    assert parts.stepper.served[:7] == [20] * 3 + [21] * 4
    assert set(parts.stepper.served[7:]) == {one.head[0] for one in long}
    steps = parts.stepper.steps  # type: ignore[attr-defined]
    assert max(steps) == 100
    assert sum(steps) == sum(len(one.head) * len(one) + len(one.tokens) + len(one) for one in [*long, *small])
    await parts.require_idle()


async def test_long_pair_that_is_given_up_is_computed_no_further(parts: Bench) -> None:
    task = await parts.send(shard(10, 2, document_tokens=2_000))
    parts.stepper.let(3)
    await parts.in_a_step(4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    parts.stepper.let()
    assert (await parts.engine.score(shard(20, 5))).tolist() == expected(shard(20, 5))
    assert parts.stepper.served == [20] * 5
    await parts.require_idle()


async def test_batches_under_way_take_the_target_together() -> None:
    """Whoever comes waits for all of them."""
    for stepper, step_s in ((GatedStepper(), 0.05), (DeepStepper(), 0.025)):
        engine = Engine(lambda stepper=stepper: stepper, target_step_s=0.05)  # type: ignore[misc]
        assert engine._batch._target_s == step_s
        engine.shutdown()


async def test_device_that_dies_while_nothing_is_asked_of_it_is_noticed_at_once(bench: Bench) -> None:
    """A worker process of a tensor-parallel engine: without this the next list would find out."""
    bench.engine.fail("a worker of the engine has died")
    await until(lambda: not bench.engine.healthy)
    with pytest.raises(EngineFailedError):
        await bench.engine.score(shard(1, 1))
    assert bench.stepper.closed


async def test_device_that_dies_fails_what_waits_for_it(bench: Bench) -> None:
    waiting = [await bench.send(shard(name, 10)) for name in (1, 2)]
    bench.engine.fail("a worker of the engine has died")
    bench.stepper.let(1)
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, EngineFailedError)
    assert bench.stepper.steps_begun == 1
