"""A process whose event loop stands still is killed; one that is only busy is not, nor one that ends by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil

_BESIDE = """
import asyncio, sys, time
from deployments.watchdog import Watchdog

async def main():
    watchdog = Watchdog(silent_s=1.5)
    print("watched", flush=True)
    if sys.argv[1] == "blocked":
        await asyncio.sleep(0.1)
        time.sleep(60)
    for _ in range(20):
        time.sleep(0.1)  # busy, and then for others
        await asyncio.sleep(0)
    if sys.argv[1] == "stays":
        await asyncio.sleep(60)
    watchdog.close()

asyncio.run(main())
"""


def _watched(what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _BESIDE, what], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "watched\n"
    return process


def test_process_that_is_stopped_is_killed() -> None:
    with _watched("stays") as process:
        process.send_signal(signal.SIGSTOP)
        assert process.wait(30) == -signal.SIGKILL


def test_process_whose_loop_is_blocked_is_killed() -> None:
    with _watched("blocked") as process:
        assert process.wait(30) == -signal.SIGKILL


def test_process_that_is_busy_goes_on_and_ends_as_it_wants() -> None:
    with _watched("busy") as process:
        assert process.wait(30) == 0


def test_watchdog_ends_with_a_process_that_is_killed() -> None:
    with _watched("stays") as process:
        [dog] = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while dog.is_running() and dog.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
