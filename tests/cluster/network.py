"""A switch, and hosts on it with a link each: network namespaces of this machine, which is a host itself.

They live as long as the processes in them, which end with the process that made them. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_TIED = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it ends with the thread that started it."""
_PROGRAMS = ("setpriv", "unshare", "nsenter", "ip")
_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has: packets to it vanish without a word."""
_START_TIMEOUT_S = 10
_MOST_SWITCHES = 100


class NetworkError(RuntimeError):
    """The machine has not let us change its network."""


def refusal() -> str | None:
    """Why there can be no network of our own here. None: there can."""
    try:
        with Switch() as switch, host_process(["sleep", "60"], pid_namespace=False) as process:
            switch.attach("host", process.pid)
    except (NetworkError, OSError) as error:
        return f"network namespaces cannot be made here: {error}"
    return None


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def inside(process: int, *command: str) -> str:
    """Run a command in the network namespace of a process."""
    return run("nsenter", "-t", str(process), "-n", *command)


def start_host(command: list[str], *, pid_namespace: bool = True, **options: object) -> subprocess.Popen[bytes]:
    """Start a command as a host that is not attached yet, with namespaces of its own; with its own PIDs, as PID 1."""
    own = ["--net"] + ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc"] * pid_namespace
    before = os.readlink("/proc/self/ns/net")
    process = subprocess.Popen([*_TIED, "unshare", *own, *command], **options)  # type: ignore[call-overload]
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/ns/net") != before:
                return process  # type: ignore[no-any-return]
        if process.poll() is not None or time.monotonic() > deadline:
            raise NetworkError("unshare may not make a network namespace")
        time.sleep(0.01)


@contextlib.contextmanager
def host_process(command: list[str], *, pid_namespace: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """See `start_host`; killed at the end of the block."""
    process = start_host(command, pid_namespace=pid_namespace)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Switch:
    """Ethernet between hosts, each of which may be cut off, parted from another one, or have a bad line."""

    def __init__(self) -> None:
        """Make it, and attach this machine, on the first subnet that is free; NetworkError where that may not be."""
        if missing := [name for name in _PROGRAMS if not any(Path(d, name).exists() for d in _path())]:
            raise NetworkError(f"no {missing[0]} (Debian: util-linux, iproute2)")
        if os.geteuid():
            raise NetworkError("only root may")
        self._process = start_host(["sleep", "infinity"], pid_namespace=False)
        self._hosts: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        self._wires: dict[str, subprocess.Popen[bytes]] = {}
        self._link = ""
        try:
            self._ip("link", "add", "switch", "type", "bridge")
            self._ip("link", "set", "switch", "up")
            self._attach_this_machine()
        except BaseException:
            self.close()
            raise

    def _attach_this_machine(self) -> None:
        own = set(psutil.net_if_addrs())
        for number in range(_MOST_SWITCHES):
            name = f"reranker{number}"
            if name in own:
                continue
            self.subnet, self._link = f"10.77.{number}", name
            peer = ("type", "veth", "peer", "name", "p-machine", "netns", str(self._process.pid))
            run("ip", "link", "add", name, *peer)  # fails where another switch has just taken this number
            run("ip", "addr", "add", f"{self.subnet}.100/24", "dev", name)
            run("ip", "link", "set", name, "up")
            self._ip("link", "set", "p-machine", "master", "switch", "up")
            self._addresses["machine"] = f"{self.subnet}.100"
            return
        raise NetworkError(f"{_MOST_SWITCHES} switches are there already")

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for name in list(self._wires):
            self._cut_wire(name)
        with contextlib.suppress(NetworkError):
            run("ip", "link", "del", self._link)
        self._process.kill()
        self._process.wait()

    def address(self, name: str) -> str:
        return self._addresses[name]

    def attach(self, name: str, process: int, number: int = 1) -> str:
        """Give the host of a process its link, and its address, which it had before if it was there before."""
        address = f"{self.subnet}.{number}"
        with contextlib.suppress(NetworkError):
            self._ip("link", "del", f"p-{name}")  # of the host that ended; the kernel may not have come to it
        hardware = f"02:00:0a:4d:00:{number:02x}"  # the same as before: others remember it
        run(
            *("ip", "link", "add", "eth0", "address", hardware, "netns", str(process)),
            *("type", "veth", "peer", "name", f"p-{name}", "netns", str(self._process.pid)),
        )
        self._hosts[name], self._addresses[name] = process, address
        inside(process, "ip", "link", "set", "lo", "up")
        inside(process, "ip", "link", "set", "eth0", "up")
        self._ip("link", "set", f"p-{name}", "master", "switch", "up")
        inside(process, "ip", "addr", "add", f"{address}/24", "dev", "eth0")  # last: the host waits for it
        return address

    def cut(self, name: str) -> None:
        """Lose all that a host sends and is sent. Its link stays up: nobody is told."""
        self._cut_wire(name)
        self._ip("link", "set", f"p-{name}", "nomaster")

    def part(self, one: str, other: str) -> None:
        """Lose all that two hosts send each other."""
        for here, there in ((one, other), (other, one)):
            neighbour = (self._addresses[there], "lladdr", _NOBODY, "nud", "permanent", "dev", "eth0")
            inside(self._hosts[here], "ip", "neigh", "replace", *neighbour)

    def slow(self, name: str, delay_s: float = 0.0, loss: float = 0.0) -> None:
        """Delay all that a host sends and is sent, or lose a share of the packets."""
        self._cut_wire(name)
        near, far, port = f"p-{name}", f"w-{name}", f"q-{name}"
        self._ip("link", "set", near, "nomaster")
        self._ip("link", "add", far, "type", "veth", "peer", "name", port)
        self._ip("link", "set", port, "master", "switch", "up")
        self._ip("link", "set", far, "up")
        wire = (sys.executable, "-m", "tests.cluster.wire", near, far, str(delay_s), str(loss))
        entered = ("nsenter", "-t", str(self._process.pid), "-n", *wire)
        self._wires[name] = subprocess.Popen([*_TIED, *entered], cwd=ROOT)

    def heal(self, name: str) -> None:
        """Undo what was done to a host's link, and to its ways to others."""
        self._cut_wire(name)
        with contextlib.suppress(NetworkError):  # the host has ended
            self._ip("link", "set", f"p-{name}", "master", "switch")
        for here, there in [(name, other) for other in self._hosts] + [(other, name) for other in self._hosts]:
            with contextlib.suppress(NetworkError):
                shown = inside(self._hosts[here], "ip", "neigh", "show", self._addresses[there], "nud", "permanent")
                if shown:
                    inside(self._hosts[here], "ip", "neigh", "del", self._addresses[there], "dev", "eth0")

    def _cut_wire(self, name: str) -> None:
        if (wire := self._wires.pop(name, None)) is not None:
            wire.kill()
            wire.wait()
            with contextlib.suppress(NetworkError):
                self._ip("link", "del", f"w-{name}")

    def _ip(self, *arguments: str) -> None:
        inside(self._process.pid, "ip", *arguments)


def _path() -> list[str]:
    return os.environ.get("PATH", os.defpath).split(os.pathsep)
