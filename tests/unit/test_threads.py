"""Work off the event loop: callers take turns, nothing is lost, and a cancelled wait leaves no thread reserved."""

import asyncio
import threading
import time

import pytest

from reranker.errors import NoAnswerError
from reranker.ranking.threads import FairThreads, SharedCall


async def test_runs_and_raises_in_a_thread() -> None:
    threads = FairThreads(2)
    assert await threads.run("a", lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        await threads.run("a", lambda: 1 // 0)
    assert await threads.run("a", pow, 2, 10) == 1024


async def test_one_thread_is_left_for_another_caller() -> None:
    threads, go = FairThreads(2), threading.Event()
    greedy = [asyncio.create_task(threads.run("greedy", go.wait)) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(threads.run("other", lambda: 7), 5) == 7
    go.set()
    assert await asyncio.gather(*greedy) == [True] * 10


async def test_waiting_callers_take_turns() -> None:
    threads, go, order = FairThreads(1), threading.Event(), list[str]()
    first = asyncio.create_task(threads.run("first", go.wait))
    await asyncio.sleep(0.01)
    names = ["a"] * 5 + ["b"] * 2 + ["c"]
    tasks = [asyncio.create_task(threads.run(name, order.append, name)) for name in names]
    await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(first, *tasks)
    assert order == ["a", "b", "c", "a", "b", "a", "a", "a"]


async def test_cancelled_work_counts_until_its_end_and_a_cancelled_wait_not_at_all() -> None:
    threads, go = FairThreads(1), threading.Event()
    running = asyncio.create_task(threads.run("a", go.wait))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(threads.run(name, time.sleep, 0)) for name in ("a", "b", "b")]
    await asyncio.sleep(0.01)
    for one in (running, waiting[0], waiting[1]):
        one.cancel()
    await asyncio.sleep(0.01)
    assert not waiting[2].done()
    go.set()
    await asyncio.wait_for(waiting[2], 5)
    assert await asyncio.wait_for(threads.run("a", lambda: 1), 5) == 1
    assert not threads._waiting
    assert not threads._running.total()


async def test_shared_call_is_made_once_at_a_time_and_its_answer_kept_for_a_while() -> None:
    go_on, calls = asyncio.Event(), 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        await go_on.wait()
        return calls

    shared = SharedCall(call, keep_s=0.2)
    asking = [asyncio.create_task(shared.answer()) for _ in range(9)]
    await asyncio.sleep(0)
    asking[0].cancel()  # who goes away takes no answer along
    go_on.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 8
    assert await shared.answer() == 1
    await asyncio.sleep(0.21)
    assert await shared.answer() == 2


async def test_shared_call_that_takes_too_long_is_waited_for_once_and_not_made_again() -> None:
    go_on, calls = asyncio.Event(), 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        await go_on.wait()

    shared = SharedCall(call, limit_s=0.1)
    for _ in range(3):
        with pytest.raises(NoAnswerError):
            await shared.answer()
    assert calls == 1
    go_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await shared.answer()
    assert calls == 2


async def test_all_who_share_a_call_hear_of_its_error() -> None:
    async def call() -> None:
        raise KeyError("one")

    shared = SharedCall(call)
    heard = await asyncio.gather(*(shared.answer() for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in heard] == [KeyError] * 3
