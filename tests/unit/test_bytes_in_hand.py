"""What clients may take of a process: memory, with a share for each caller and small requests refused last; its log."""

import asyncio
import logging
import queue
import sys

import pytest

from deployments.http import guard
from deployments.http.guard import BytesInHand, Sparse, trim
from reranker.errors import CallerMemoryError, MemoryFullError

MIB = 2**20


async def test_one_callers_share_leaves_room_for_another() -> None:
    memory = BytesInHand(100 * MIB)
    with memory.request("a") as first, memory.request("a") as second, memory.request("b") as other:
        first.resize(40 * MIB)
        with pytest.raises(CallerMemoryError):
            second.resize(20 * MIB)
        other.resize(40 * MIB)
        assert memory.total == 80 * MIB
    assert memory.total == 0
    assert not memory._of_caller


async def test_a_large_request_alone_may_have_more_than_its_share() -> None:
    memory = BytesInHand(100 * MIB)
    with memory.request("a") as alone:
        alone.resize(80 * MIB)
        with memory.request("b") as other, pytest.raises(MemoryFullError) as caught:
            other.resize(20 * MIB)
        assert caught.value.retry_after_s is not None
        alone.resize(10 * MIB)
        with memory.request("b") as other:
            other.resize(20 * MIB)


async def test_small_requests_are_the_last_to_be_refused() -> None:
    memory = BytesInHand(16 * MIB)
    with memory.request("a") as large, memory.request("b") as small, memory.request("c") as late:
        large.resize(14 * MIB)
        with pytest.raises(MemoryFullError):
            late.resize(1 * MIB)
        small.resize(200 * 1024)
    assert memory.total == 0


async def test_memory_is_given_back_soon_after_large_bodies_and_later_after_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed = queue.SimpleQueue[bool]()  # whether what refers to itself is looked for
    monkeypatch.setattr(guard, "trim", trimmed.put)
    monkeypatch.setattr(guard, "_TRIM_AFTER_S", 0.01)
    memory = BytesInHand(100 * MIB)
    with memory.request("a") as small:
        small.resize(1_000)
    with pytest.raises(queue.Empty):  # in a minute
        await asyncio.to_thread(trimmed.get, timeout=0.1)
    with memory.request("a") as large:
        large.resize(20 * MIB)
    assert await asyncio.to_thread(trimmed.get, timeout=10)
    with memory.request("b") as other:
        other.resize(10 * MIB)  # takes long to look through
        with memory.request("a") as large:
            large.resize(20 * MIB)
        assert not await asyncio.to_thread(trimmed.get, timeout=10)
    monkeypatch.setattr(guard, "_TRIM_PERIOD_S", 0.01)
    with memory.request("a") as small:
        small.resize(1_000)
    assert await asyncio.to_thread(trimmed.get, timeout=10)
    guests = BytesInHand(100 * MIB, beside=memory)
    with memory.request("a") as large:
        large.resize(10 * MIB)
        with guests.request("guests"):
            pass
        assert not await asyncio.to_thread(trimmed.get, timeout=10)


async def test_small_requests_have_room_beside_one_that_seems_larger_than_all() -> None:
    """It is an estimate, and whoever asks besides did not make it."""
    memory = BytesInHand(16 * MIB)
    with memory.request("a") as huge, memory.request("b") as small:
        huge.resize(10_000 * MIB)
        small.resize(200 * 1024)
    assert memory.total == 0


async def test_retry_after_is_what_large_requests_take() -> None:
    now = [0.0]
    memory = BytesInHand(10 * MIB, lambda: now[0])
    for _ in range(60):
        with memory.request("a") as hold:
            hold.resize(1 * MIB)
            now[0] += 7.0
    with memory.request("a") as hold, memory.request("b") as other:
        hold.resize(8 * MIB)
        with pytest.raises(MemoryFullError) as caught:
            other.resize(2 * MIB)
    assert caught.value.retry_after_s == 7


def test_names_that_were_looked_up_once_are_not_kept() -> None:
    name = "".join(["looked", "_up"])
    before = sys.getrefcount(name)
    hasattr(trim, name)
    assert sys.getrefcount(name) > before
    trim(collect=False)
    assert sys.getrefcount(name) == before


def test_the_allocator_takes_the_calls() -> None:
    trim()


def test_lines_of_one_kind_are_few_and_the_others_are_counted() -> None:
    now = [0.0]
    logger, lines = logging.getLogger("sparse"), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage() + " traced" * bool(record.exc_info))  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.addFilter(Sparse(3, lambda: now[0]))
    for minute in (0.0, 61.0):
        now[0] = minute
        for number in range(10):
            logger.warning("line %d", number, exc_info=ValueError())
        logger.warning("another place")
    assert lines == [
        *("line 0 traced", "line 1", "line 2", "another place"),
        *("line 0 (7 lines like this one were left out) traced", "line 1", "line 2", "another place"),
    ]
