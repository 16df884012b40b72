"""The network that tests of several nodes break: a host is cut off, parted from another, slowed down, and healed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster.network import ROOT, Switch, host_process, inside, refusal

_NUMBERS = {"a": 1, "b": 2}
_ASK = """
import socket, sys, time
began_s = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 9), timeout=float(sys.argv[2]))
except ConnectionRefusedError:
    print(time.monotonic() - began_s)
except TimeoutError:
    print("inf")
"""
"""Nobody listens: who is there says so."""


class Pair:
    """Two hosts on a switch."""

    def __init__(self, switch: Switch, processes: dict[str, int]) -> None:
        self.switch, self._processes = switch, processes
        for name, process in processes.items():
            switch.attach(name, process, _NUMBERS[name])

    def way_s(self, asks: str, asked: str, timeout_s: float = 0.5) -> float:
        """Seconds from one to the other and back; infinite: no answer."""
        ask = (sys.executable, "-I", "-S", "-c", _ASK, self.switch.address(asked), str(timeout_s))
        return float(inside(self._processes[asks], *ask))


@pytest.fixture
def pair() -> Iterator[Pair]:
    if (why := refusal()) is not None:
        pytest.skip(why)
    with Switch() as switch, host_process(["sleep", "60"]) as one, host_process(["sleep", "60"]) as other:
        yield Pair(switch, {"a": one.pid, "b": other.pid})


def test_host_that_is_cut_off_hears_and_says_nothing(pair: Pair) -> None:
    assert pair.way_s("a", "b") < 0.5
    pair.switch.cut("b")
    assert pair.way_s("a", "b") == pair.way_s("b", "a") == float("inf")
    pair.switch.heal("b")
    assert pair.way_s("a", "b", 5) < 5


def test_hosts_that_are_parted_reach_all_others(pair: Pair) -> None:
    pair.switch.part("a", "b")
    assert pair.way_s("a", "b") == pair.way_s("b", "a") == float("inf")
    assert pair.way_s("a", "machine", 5) < 5
    pair.switch.heal("a")
    assert pair.way_s("a", "b", 5) < 5


def test_slow_line_delays_and_lossy_line_loses(pair: Pair) -> None:
    pair.switch.slow("b", delay_s=0.1)
    while pair.way_s("a", "b", 0.3) == float("inf"):
        time.sleep(0.1)  # its wire is a process, which starts
    assert 0.2 <= pair.way_s("a", "b", 5) < 5
    pair.switch.slow("b", loss=1.0)
    assert pair.way_s("a", "b") == float("inf")
    pair.switch.heal("b")
    assert pair.way_s("a", "b", 5) < 5


def test_nothing_is_left_of_a_network_whose_process_is_killed() -> None:
    if (why := refusal()) is not None:
        pytest.skip(why)
    make = "import time; from tests.cluster.network import *; switch = Switch(); host = start_host(['sleep', '60']);"
    make += " switch.attach('a', host.pid); print(switch._link, flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", make], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert link in psutil.net_if_addrs()
        began = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(began, timeout=30)[1] == []
    deadline = time.monotonic() + 30
    while link in psutil.net_if_addrs():  # the kernel takes it away in its own time
        assert time.monotonic() < deadline
        time.sleep(0.05)
